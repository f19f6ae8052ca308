"""Figures and tables over a prompt's tokens: activations, attention patterns, the logit lens."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.errors import PlanError
from interp.results.style import label, styled

if TYPE_CHECKING:
    from interp.attribution.lens import LogitLens
    from interp.interventions.recording import Activations

SHOWN = 10
COLUMNS = 4


def token_labels(tokens: Sequence[str], positions: Sequence[int]) -> list[str]:
    """Labels of an axis: no two alike, so that equal tokens stay apart."""
    return [label(f"{p} {tokens[p].strip() or repr(tokens[p])}") for p in positions]


def plot_attention(
    patterns: "Activations",
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


def plot_lens(lens: "LogitLens", prompt: int = 0) -> go.Figure:
    """Draw what the logit lens reads: the likeliest token of every depth and position.

    Colour is its probability; hovering shows the others.

    Args:
        lens: from `interp.logit_lens`.
        prompt: number of the prompt.
    """
    table = lens.table(prompt)
    depths = list(dict.fromkeys(table["depth"]))
    positions = list(dict.fromkeys(table["pos"]))
    best = table[table["rank"] == 0].set_index(["depth", "pos"])
    others = {
        key: "<br>".join(
            f"{label(repr(predicted))} {probability:.3f}"
            for predicted, probability in zip(group["predicted"], group["probability"], strict=True)
        )
        for key, group in table.groupby(["depth", "pos"])
    }
    cells = [[(depth, pos) for pos in positions] for depth in depths]
    figure = go.Figure(
        go.Heatmap(
            z=[[best.loc[cell, "probability"] for cell in row] for row in cells],
            x=token_labels(lens.tokens[prompt], positions),
            y=depths,
            text=[[label(best.loc[cell, "predicted"]) for cell in row] for row in cells],
            texttemplate="%{text}",
            textfont={"size": 11},
            customdata=[[others[cell] for cell in row] for row in cells],
            hovertemplate="depth %{y}, %{x}<br>%{customdata}<extra></extra>",
            coloraxis="coloraxis",
        )
    )
    return styled(
        figure,
        f"Logit lens on {lens.model}",
        "the likeliest next token at each depth",
        coloraxis={"cmin": 0, "cmax": 1, "colorbar": {"title": "probability"}},
        xaxis={"title": "token"},
        yaxis={"title": f"layers passed (0 = embedding, {depths[-1]} = the model's prediction)"},
        height=max(360, 140 + 22 * len(depths)),
        width=max(520, 160 + 96 * len(positions)),
    )


def activations_html(found: "Activations") -> str:
    """What was recorded: its axes, and of each prompt the tokens."""
    rows = "".join(
        f"<tr><td>{i}</td><td>{len(places)}</td>"
        f"<td>{html.escape(_joined(tokens, places))}</td></tr>"
        for i, (places, tokens) in enumerate(
            zip(found.positions[:SHOWN], found.tokens[:SHOWN], strict=True)
        )
    )
    more = len(found.tokens) - SHOWN
    rest = f"<p>and {more} prompts more</p>" if more > 0 else ""
    return (
        f"<p>{html.escape(repr(found))}</p><table><tr><th>prompt</th><th>tokens recorded</th>"
        f"<th>which</th></tr>{rows}</table>{rest}"
    )


def _joined(tokens: Sequence[str], places: Sequence[int]) -> str:
    text = "|".join(tokens[p] for p in places)
    return text if len(text) <= 200 else f"{text[:200]} …"


def lens_html(lens: "LogitLens") -> str:
    """The likeliest tokens at every depth of the last position of each prompt, as a table."""
    import pandas as pd

    parts: list[Any] = []
    for number in range(min(SHOWN, len(lens.tokens))):
        table = lens.table(number)
        last = table[table["pos"] == table["pos"].max()]
        cells = last.assign(
            cell=[
                f"{t!r} {p:.3f}"
                for t, p in zip(last["predicted"], last["probability"], strict=True)
            ]
        )
        wide = pd.DataFrame(cells.pivot(index="depth", columns="rank", values="cell"))
        text = html.escape("".join(lens.tokens[number]))
        parts.append(f"<p>after <code>{text}</code></p>{wide.to_html(border=0)}")
    return f"<p>{html.escape(repr(lens))}</p>{''.join(parts)}"
