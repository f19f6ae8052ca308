"""Figures of attributions: where in the model the metric comes from, layer by layer."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from interp.model.graph import Graph
from interp.results.report import cell_text
from interp.results.style import AXIS_NAMES, BLUE, add_band, label
from interp.statistics import bootstrap_mean

MOST_COLUMNS = 64
"""Columns of a heatmap; neurons beyond are not drawn one by one."""


def plot_scores(values: xr.DataArray, graph: Graph | None, measured: str) -> go.Figure:
    """Draw mean scores over pairs; blue supports the answer, red opposes it.

    Edges: a heatmap of the summed size of all edges from layer to layer. Nodes: layer by head,
    with the MLPs as last column. Units: a heatmap over two axes, a curve with its interval over
    one, and of neurons the strongest of each layer. `values` have the dims of `Scores.values`,
    `measured` is the metric with its unit.
    """
    mean, over = values.mean("pair"), [str(dim) for dim in values.dims[1:]]
    if over == ["edge"] and graph is not None:
        return _edges(mean.values, graph)
    if over == ["node"] and graph is not None:
        return _nodes(mean.values, graph)
    if "neuron" in over:
        return _neurons(mean.sum("pos") if "pos" in over else mean)
    if len(over) == 1:
        return _curve(values, over[0], measured)
    for extra in over[2:]:
        mean = mean.isel({extra: abs(mean).fillna(-1).argmax(extra)})
    rows, columns = ([str(v) for v in mean.coords[axis].values] for axis in over[:2])
    figure = _heatmap(mean.transpose(*over[:2]).values, rows, columns)
    return figure.update_layout(xaxis_title=AXIS_NAMES[over[1]], yaxis_title=AXIS_NAMES[over[0]])


def _edges(mean: np.ndarray, graph: Graph) -> go.Figure:
    matrix = np.zeros(tuple(graph.exists.shape))
    matrix[graph.exists.numpy()] = np.abs(mean)
    layers, heads = range(graph.n_layers), graph.n_heads
    # the input, then the layers; heads and MLP of every layer, then the logits
    rows = np.concatenate([[0], np.repeat(np.arange(1, len(layers) + 1), heads + 1)])
    places = [[2 * layer] * 3 * heads + [2 * layer + 1] for layer in layers]
    columns = np.array([*(place for row in places for place in row), 2 * len(layers)])
    table = np.zeros((len(layers) + 1, 2 * len(layers) + 1))
    np.add.at(table, (rows[:, None], columns[None, :]), matrix)
    exists = np.zeros_like(table, dtype=bool)
    np.logical_or.at(exists, (rows[:, None], columns[None, :]), graph.exists.numpy())
    into = [f"{part} {layer}" for layer in layers for part in ("heads", "MLP")]
    sizes = np.where(exists, table, np.nan)
    # a few edges dwarf the rest, so colours follow the square root
    figure = _heatmap(np.sqrt(sizes), ["input", *map(str, layers)], [*into, "logits"], sizes)
    return figure.update_layout(
        xaxis_title="into (heads' queries, keys and values together)",
        yaxis_title="from layer (heads and MLP)",
    )


def _nodes(mean: np.ndarray, graph: Graph) -> go.Figure:
    table = mean[1:].reshape(graph.n_layers, graph.n_heads + 1)
    names = [*(str(head) for head in range(graph.n_heads)), "MLP"]
    figure = _heatmap(table, [str(layer) for layer in range(graph.n_layers)], names)
    title = f"head (the input's score: {mean[0]:.3g})"
    return figure.update_layout(xaxis_title=title, yaxis_title="layer")


def _neurons(mean: xr.DataArray) -> go.Figure:
    """Neurons of each layer in order of size: how few of them carry how much."""
    values = mean.transpose("layer", "neuron").values
    order = np.argsort(-np.abs(values), axis=1)[:, :MOST_COLUMNS]
    strongest = np.take_along_axis(values, order, 1)
    layers = [str(layer) for layer in mean.coords["layer"].values]
    ranks = [str(rank + 1) for rank in range(strongest.shape[1])]
    figure = _heatmap(strongest, layers, ranks, neurons=order)
    title = f"neurons of the layer, strongest first ({len(ranks)} of {values.shape[1]})"
    return figure.update_layout(xaxis_title=title, yaxis_title="layer")


def _curve(values: xr.DataArray, axis: str, measured: str) -> go.Figure:
    labels = [str(value) for value in values.coords[axis].values]
    mean, low, high = bootstrap_mean(values.values)
    x = list(range(len(labels)))
    figure = go.Figure()
    if len(values) > 1:
        add_band(figure, x, low, high, BLUE, "95 % interval")
    figure.add_scatter(x=x, y=mean, name="mean", line={"color": BLUE})
    return figure.update_layout(
        xaxis={"title": AXIS_NAMES[axis], "tickvals": x, "ticktext": labels},
        yaxis={"title": measured},
    )


def _heatmap(
    z: np.ndarray,
    rows: list[str],
    columns: list[str],
    sizes: np.ndarray | None = None,
    neurons: np.ndarray | None = None,
) -> go.Figure:
    """Layers from bottom to top; the middle of the scale is nothing.

    With `sizes`, which the pointer shows, colours are their roots and begin at 0; `neurons` are
    numbers that the pointer shows besides.
    """
    largest = float(np.nanmax(np.abs(z))) or 1.0
    extra = np.full(z.shape, "")
    if neurons is not None:
        extra = np.char.add(", neuron ", neurons.astype(str))
    shown = np.char.mod("%.4g", z if sizes is None else sizes)
    pointer = "layer %{y}, %{x}: %{customdata[0]}%{customdata[1]}"
    colours: dict[str, Any] = {"zmin": -largest, "zmax": largest, "colorbar": {"title": "score"}}
    if sizes is not None:
        pointer, colours = "from %{y} into %{x}: %{customdata[0]}", {"coloraxis": "coloraxis"}
    colours |= {"customdata": np.stack([shown, extra], -1)}
    figure = go.Figure(go.Heatmap(z=z, hovertemplate=f"{pointer}<extra></extra>", **colours))
    if sizes is not None:
        ticks = np.linspace(0, largest, 5)
        bar = {"title": "sum of |score|", "tickvals": ticks.tolist()}
        bar["ticktext"] = [f"{tick**2:.3g}" for tick in ticks]
        figure.update_layout(coloraxis={"cmin": 0, "cmax": largest, "colorbar": bar})
    for axis, labels in (("xaxis", columns), ("yaxis", rows)):
        step = max(1, len(labels) // 40)
        ticktext = [label(text) for text in labels[::step]]
        ticks = {"tickvals": list(range(0, len(labels), step)), "ticktext": ticktext}
        figure.update_layout({axis: ticks})
    height, width = max(420, 140 + 16 * len(rows)), min(1100, max(640, 60 * len(columns)))
    return figure.update_layout(height=height, width=width)


def strongest(top: pd.DataFrame) -> str:
    """The first row of the strongest components, as a sentence; empty where there is none."""
    if not len(top):
        return ""
    axes = [axis for axis in top.columns if axis not in ("score", "low", "high")]
    named = [
        str(value) if axis in ("edge", "node") else f"{AXIS_NAMES.get(axis, axis)} {value}"
        for axis, value in zip(axes, top.iloc[0][axes], strict=True)
    ]
    score = float(top.iloc[0]["score"])
    so = f"so it {'supports' if score >= 0 else 'opposes'} the answer"
    return f"The strongest is {', '.join(named)}: its score is {cell_text(score)}, {so}."
