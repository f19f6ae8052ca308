"""Attention patterns drawn: one heatmap per head."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.errors import PlanError
from interp.interventions.recording import Activations
from interp.results.style import styled
from interp.results.token_figures import token_labels

COLUMNS = 4


def plot_attention(
    patterns: Activations,
    prompt: int = 0,
    *,
    layer: int | None = None,
    heads: int | Sequence[int] | None = None,
) -> go.Figure:
    """Draw a layer's attention patterns: one heatmap per head, queries downwards, keys across.

    Args:
        patterns: from ``interp.activations(model, prompts, "pattern")``.
        prompt: number of the prompt.
        layer: which layer; the first recorded by default.
        heads: which heads; all by default.

    Raises:
        PlanError: not attention patterns with all their queries, or no such prompt, layer or head.
    """
    if patterns.dims != ("prompt", "head", "query", "key"):
        raise PlanError(
            "plot_attention draws the site 'pattern' with a query axis, not "
            f"{patterns.site!r} with dims {list(patterns.dims)}."
        )
    chosen = next(iter(patterns)) if layer is None else layer
    n_prompts, n_heads = len(patterns.tokens), next(iter(patterns.values())).shape[1]
    listed = [heads] if isinstance(heads, int) else list(range(n_heads) if heads is None else heads)
    known = bool(listed) and set(listed) <= set(range(n_heads)) and 0 <= prompt < n_prompts
    if not known or chosen not in patterns:
        raise PlanError(
            f"no layer {chosen}, prompt {prompt} or heads {listed} here: there are layers "
            f"{list(patterns)}, prompts 0 to {n_prompts - 1} and heads 0 to {n_heads - 1}."
        )
    queries = patterns.positions[prompt]
    keys = range(len(patterns.tokens[prompt]))
    labels = [token_labels(patterns.tokens[prompt], axis) for axis in (keys, queries)]
    columns = min(COLUMNS, len(listed))
    rows = -(-len(listed) // columns)
    names = [f"L{chosen}H{head}" for head in listed]
    figure = make_subplots(
        rows, columns, subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.03
    )
    for i, head in enumerate(listed):
        z = patterns[chosen][prompt, head, : len(queries), : len(keys)].float().numpy()
        heatmap = go.Heatmap(
            z=z,
            x=labels[0],
            y=labels[1],
            coloraxis="coloraxis",
            hovertemplate="%{y} reads %{x}: %{z:.3f}<extra>" + names[i] + "</extra>",
        )
        figure.add_trace(heatmap, i // columns + 1, i % columns + 1)
    figure.update_yaxes(autorange="reversed")
    return styled(
        figure,
        f"Attention in layer {chosen}",
        "how much each token (down) reads from each (across)",
        coloraxis={"cmin": 0, "cmax": 1, "colorbar": {"title": "weight"}},
        height=120 + rows * max(260, 26 * len(queries)),
        width=max(520, 80 + columns * max(260, 26 * len(keys))),
    )
