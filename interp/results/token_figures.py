"""Figures and tables over a prompt's tokens: activations, attention patterns, the logit lens."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.errors import PlanError
from interp.results.style import label, styled

N_SHOWN, COLUMNS = 10, 4
"""Prompts in a notebook cell, and panels side by side."""


class _Labelled(Protocol):
    """What has its values as one labelled array, as `interp.Activations` do."""

    @property
    def array(self) -> xr.DataArray:
        """All values with their dims and coordinates."""
        ...


def _labels(tokens: Sequence[str], positions: Sequence[int]) -> list[str]:
    """Labels of an axis: no two alike, so that equal tokens stay apart."""
    pairs = zip(positions, tokens, strict=True)
    return [label(f"{p} {token.strip() or repr(token)}") for p, token in pairs]


def plot_attention(
    patterns: _Labelled | xr.DataArray,
    prompt: int = 0,
    *,
    layer: int | None = None,
    heads: int | Sequence[int] | None = None,
) -> go.Figure:
    """Draw a layer's attention patterns: one heatmap per head, queries downwards, keys across.

    `patterns` are from ``interp.activations(model, prompts, "pattern")``, or the array of several
    sites' patterns, with all their queries.
    By default the first recorded layer and all heads are drawn; `PlanError` where there is none.
    """
    weights = patterns if isinstance(patterns, xr.DataArray) else patterns.array
    if weights.dims != ("prompt", "layer", "head", "query", "key"):
        raise PlanError(
            "plot_attention draws the site 'pattern' with a query axis, not "
            f"{weights.name!r} with dims {list(weights.dims)}."
        )
    layers = weights["layer"].values.tolist()
    n_prompts, n_heads = weights.sizes["prompt"], weights.sizes["head"]
    chosen = layers[0] if layer is None else layer
    listed = [heads] if isinstance(heads, int) else list(range(n_heads) if heads is None else heads)
    known = bool(listed) and set(listed) <= set(range(n_heads)) and 0 <= prompt < n_prompts
    if not known or chosen not in layers:
        raise PlanError(
            f"no layer {chosen}, prompt {prompt} or heads {listed} here: there are layers "
            f"{layers}, prompts 0 to {n_prompts - 1} and heads 0 to {n_heads - 1}."
        )
    one = weights.sel(layer=chosen).isel(prompt=prompt)
    one = one.isel(query=one["position"].values >= 0, key=one["key_token"].values != "")
    across = _labels(one["key_token"].values.tolist(), range(one.sizes["key"]))
    down = _labels(one["token"].values.tolist(), one["position"].values.tolist())
    columns = min(COLUMNS, len(listed))
    rows = -(-len(listed) // columns)
    names = [f"L{chosen}H{head}" for head in listed]
    figure = make_subplots(
        rows, columns, subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.03
    )
    for i, head in enumerate(listed):
        heatmap = go.Heatmap(
            z=one.isel(head=head).values,
            x=across,
            y=down,
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
        height=120 + rows * max(260, 26 * len(down)),
        width=max(520, 80 + columns * max(260, 26 * len(across))),
    )


def plot_lens(table: pd.DataFrame, model: str, lens: str) -> go.Figure:
    """Draw what a lens reads, from `LensReading.table`: the likeliest token of each cell."""
    read = zip(table["predicted"], table["probability"], strict=True)
    texts = [f"{label(repr(predicted))} {probability:.3f}" for predicted, probability in read]
    cells: Any = table.assign(text=texts).set_index(["depth", "pos"])
    best = cells[cells["rank"] == 0]
    others = cells.groupby(["depth", "pos"])["text"].agg("<br>".join).unstack("pos")
    predicted = best["predicted"].map(label).unstack("pos")
    probability = best["probability"].unstack("pos")
    depths, positions = probability.index.tolist(), probability.columns.tolist()
    after = table.drop_duplicates("pos").set_index("pos")["after"].reindex(positions).tolist()
    figure = go.Figure(
        go.Heatmap(
            z=probability.values,
            x=_labels(after, positions),
            y=depths,
            text=predicted.values,
            texttemplate="%{text}",
            textfont={"size": 11},
            customdata=others.values,
            hovertemplate="depth %{y}, %{x}<br>%{customdata}<extra></extra>",
            coloraxis="coloraxis",
        )
    )
    return styled(
        figure,
        f"{lens[0].upper()}{lens[1:]} on {model}",
        "the likeliest next token at each depth",
        coloraxis={"cmin": 0, "cmax": 1, "colorbar": {"title": "probability"}},
        xaxis={"title": "token"},
        yaxis={"title": f"layers passed (0 = embedding, {depths[-1]} = the model's prediction)"},
        height=max(360, 140 + 22 * len(depths)),
        width=max(520, 160 + 96 * len(positions)),
    )


def activations_html(
    title: str, positions: Sequence[Sequence[int]], tokens: Sequence[Sequence[str]]
) -> str:
    """A notebook cell: of each prompt, the tokens that were recorded."""
    rows = ""
    for i, (places, own) in enumerate(zip(positions[:N_SHOWN], tokens[:N_SHOWN], strict=True)):
        text = "|".join(own[p] for p in places)
        cut = html.escape(text if len(text) <= 200 else f"{text[:200]} …")
        rows += f"<tr><td>{i}</td><td>{len(places)}</td><td>{cut}</td></tr>"
    more = len(tokens) - N_SHOWN
    return (
        f"<p>{html.escape(title).replace(chr(10), '<br>')}</p>"
        "<table><tr><th>prompt</th><th>tokens recorded</th>"
        f"<th>which</th></tr>{rows}</table>" + f"<p>and {more} prompts more</p>" * (more > 0)
    )


def lens_html(title: str, tables: Mapping[str, pd.DataFrame]) -> str:
    """A notebook cell: of each prompt, the likeliest tokens at every depth of its last position."""
    parts = [f"<p>{html.escape(title)}</p>"]
    for text, table in list(tables.items())[:N_SHOWN]:
        last = table[table["pos"] == table["pos"].max()]
        read = zip(last["predicted"], last["probability"], strict=True)
        cells = last.assign(cell=[f"{token!r} {p:.3f}" for token, p in read])
        wide = pd.DataFrame(cells.pivot(index="depth", columns="rank", values="cell"))
        parts.append(f"<p>after <code>{html.escape(text)}</code></p>{wide.to_html(border=0)}")
    return "".join(parts)
