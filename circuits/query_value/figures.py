"""Figures of query and value scores: by layer, and over one prompt's tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.results.style import GREY, PALETTE, add_band, label, styled

COLOURS = {"ffn": PALETTE[0], "attention": PALETTE[1]}
NAMES = {"ffn": "FFN", "attention": "attention"}


def plot_layers(
    means: Mapping[str, xr.Dataset], chosen: Mapping[str, Sequence[int]], model: str, n: int
) -> go.Figure:
    """Query scores (left) and value scores (right) of attention and FFNs, layer by layer.

    Of ``query`` and ``value``, `means` has mean, low and high by (sublayer, layer), and `chosen`
    the layers to mark; `n` is the number of prompts.
    """
    figure = make_subplots(1, 2, subplot_titles=("query scores", "value scores"))
    for column, name in enumerate(("query", "value"), 1):
        for sublayer, colour in COLOURS.items():
            found = means[name].sel(sublayer=sublayer)
            x, y, low, high = (found[v].values.tolist() for v in ("layer", "mean", "low", "high"))
            add_band(figure, x, low, high, colour, row=1, col=column)
            style = {"name": NAMES[sublayer], "legendgroup": sublayer, "line": {"color": colour}}
            style |= {"showlegend": column == 1, "row": 1, "col": column}
            figure.add_scatter(x=x, y=y, **style)
        for layer in chosen[name]:
            line = {"dash": "dot", "color": GREY, "width": 1}
            figure.add_vline(layer, line=line, row=1, col=column)  # pyright: ignore[reportArgumentType]
    figure.update_xaxes(title="layer", dtick=max(1, means["query"].sizes["layer"] // 10))
    figure.update_yaxes(title="nats of the answer's log-probability", col=1)
    note = f"mean of {n} prompts with 95 % intervals; dotted: the layers chosen"
    return styled(figure, f"query and value layers of {model}", note, margin={"t": 100})


def plot_prompt(
    query: xr.DataArray, value: xr.DataArray, tokens: Sequence[str], model: str, text: str
) -> go.Figure:
    """One prompt: query scores of its FFNs by layer and token, beside the layers' value scores.

    `query` is by layer and position, `value` by sublayer and layer.
    """
    z = query.transpose("layer", "pos").values
    most = float(np.abs(z).max()) or 1.0
    titles = ("query scores of FFNs (nats)", "value scores (nats)")
    space: dict[str, Any] = {"column_widths": [0.72, 0.28], "horizontal_spacing": 0.16}
    figure = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True, **space)
    hover = "layer %{y}, token %{x}: %{z:.3f}<extra></extra>"
    scale = {"zmin": -most, "zmax": most, "colorbar": {"x": 0.63, "thickness": 12}}
    figure.add_heatmap(z=z, hovertemplate=hover, row=1, col=1, **scale)
    labels = [label(f"{i} {token.strip() or repr(token)}") for i, token in enumerate(tokens)]
    figure.update_xaxes(tickvals=list(range(len(labels))), ticktext=labels, row=1, col=1)
    figure.update_yaxes(title="layer", dtick=max(1, len(z) // 12), row=1, col=1)
    for sublayer, colour in COLOURS.items():
        x, name = value.sel(sublayer=sublayer).values, NAMES[sublayer]
        bars = {"orientation": "h", "name": name, "marker": {"color": colour}}
        figure.add_bar(x=x, y=value["layer"].values.tolist(), **bars, row=1, col=2)
    size = {"height": max(480, 160 + 14 * len(z)), "width": max(900, 420 + 45 * len(tokens))}
    title = f"query and value layers of {model}"
    return styled(figure, title, f"{text} → answer", margin={"t": 100}, **size)
