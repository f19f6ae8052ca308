"""Figures of a discovery: transfer, similarity, influence, circuits, curves and states."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.emotion.data import EMOTIONS
from circuits.emotion.directions import Directions
from circuits.emotion.influence import Influence
from circuits.emotion.selection import Circuits

COLOURS = ("#d62728", "#1f77b4", "#e6a700", "#7b3294", "#17a2a2", "#4d7c0f")
"""One an emotion, in the order of `EMOTIONS`."""
LINES = ("#1f77b4", "#d95f02", "#2ca02c", "#7b3294", "#8c564b", "#17a2a2", "#e377c2")
GREY = "#888888"
CHANCE = 1 / len(EMOTIONS)


def plot_transfer(table: pd.DataFrame, title: str, layer: int | None = None) -> go.Figure:
    """Accuracy by layer of each test, with 95 % bands, chance, and the null's 95th percentile.

    Args:
        table: of `circuits.emotion.transfer.tables`.
        title: of the figure.
        layer: the reading layer, marked.
    """
    figure = go.Figure()
    for colour, name, rows in _parts(table, "test"):
        label = f"{name} (n {int(rows['n'].iloc[0])}, {int(rows['clusters'].iloc[0])} clusters)"
        _band(figure, rows["layer"], rows["low"], rows["high"], colour)
        figure.add_scatter(
            x=rows["layer"], y=rows["accuracy"], name=label, mode="lines", line={"color": colour}
        )
    null = max(map(float, table["null"]), default=CHANCE)
    figure.add_hline(y=CHANCE, line={"color": GREY, "dash": "dot"})
    figure.add_hline(y=null, line={"color": GREY, "dash": "dash"})
    if layer is not None:
        figure.add_vline(x=layer, line={"color": "black", "width": 1})
    _styled(
        figure,
        title=f"{title}<br><sup>dotted: chance; dashed: largest 95th percentile of shuffled "
        "labels; bands: 95 % over scenarios</sup>",
        xaxis={"title": "layer", "dtick": 2},
        yaxis={"title": "accuracy, six emotions", "range": [0, 1.02]},
        legend={"orientation": "h", "y": -0.2},
        height=520,
    )
    return figure


def plot_similarity(directions: Directions, layers: Sequence[int], title: str) -> go.Figure:
    """Cosines between the six directions, one map a layer; centring makes their mean -1/5."""
    names = [f"layer {layer}" for layer in layers]
    figure = make_subplots(1, len(layers), subplot_titles=names, shared_yaxes=True)
    for column, layer in enumerate(layers, 1):
        values = directions.similarity(layer).numpy()
        figure.add_heatmap(
            z=values,
            x=list(EMOTIONS),
            y=list(EMOTIONS),
            texttemplate="%{z:.2f}",
            textfont={"size": 10},
            coloraxis="coloraxis",
            row=1,
            col=column,
        )
    _styled(
        figure,
        title=title,
        coloraxis=_diverging(1.0, "cosine"),
        height=400,
        width=100 + 340 * len(layers),
    )
    figure.update_yaxes(autorange="reversed")
    return figure


def plot_along(directions: Directions, emotion: str, title: str) -> go.Figure:
    """Cosines of one emotion's directions between all places: attention 0, MLP 0, attention 1..."""
    values = directions.along(EMOTIONS.index(emotion)).numpy()
    figure = go.Figure(go.Heatmap(z=values, coloraxis="coloraxis"))
    ticks = _ticks(len(values))
    axis: dict[str, Any] = {"tickvals": ticks, "ticktext": [str(i // 2) for i in ticks]}
    axis["title"] = "layer: attention, then MLP"
    _styled(
        figure,
        title=title,
        coloraxis=_diverging(1.0, "cosine"),
        xaxis=axis,
        yaxis=axis | {"autorange": "reversed"},
        height=560,
        width=640,
    )
    return figure


def plot_influence(found: Influence, title: str) -> go.Figure:
    """Rise along v_ref for each unit of a nudge, by layer, attention and MLPs apart."""
    figure = make_subplots(1, 2, subplot_titles=("attention", "MLP"), shared_yaxes=True)
    values = found.values.numpy()
    mean, error = values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5
    layers = list(range(mean.shape[-1]))
    for part in range(2):
        for row, emotion in enumerate(EMOTIONS):
            figure.add_scatter(
                x=layers,
                y=mean[row, part],
                error_y={"type": "data", "array": 1.96 * error[row, part], "width": 0},
                name=emotion,
                line={"color": COLOURS[row]},
                showlegend=part == 0,
                row=1,
                col=part + 1,
            )
    figure.update_xaxes(title="layer")
    _styled(
        figure,
        title=f"{title}<br><sup>mean of {len(values)} neutral texts; bars: 95 %</sup>",
        yaxis={"title": "rise along v_ref for one unit"},
        height=420,
    )
    return figure


def plot_circuits(circuits: Circuits, title: str) -> go.Figure:
    """Where the circuits lie: neurons in each layer, and which emotions have each head."""
    one = next(iter(circuits.values()))
    figure = make_subplots(
        1, 2, subplot_titles=("neurons in each layer", "heads: emotions that have it")
    )
    for emotion, circuit in circuits.items():
        figure.add_bar(
            x=[len(circuit.neurons.get(layer, ())) for layer in range(one.n_layers)],
            y=list(range(one.n_layers)),
            orientation="h",
            name=emotion,
            marker={"color": COLOURS[EMOTIONS.index(emotion)]},
            row=1,
            col=1,
        )
    shared = np.zeros((one.n_layers, one.n_heads))
    names = [["" for _ in row] for row in shared]
    for emotion, circuit in circuits.items():
        for layer, head in circuit.units("heads"):
            shared[layer, head] += 1
            names[layer][head] += f"{emotion} "
    figure.add_heatmap(
        z=shared,
        customdata=names,
        hovertemplate="layer %{y}, head %{x}: %{customdata}<extra></extra>",
        colorscale="Blues",
        zmin=0,
        zmax=len(circuits),
        colorbar={"title": "emotions"},
        row=1,
        col=2,
    )
    figure.update_xaxes(title="neurons", row=1, col=1)
    figure.update_xaxes(title="head", dtick=1, row=1, col=2)
    figure.update_yaxes(title="layer", row=1, col=1)
    _styled(
        figure,
        title=title,
        barmode="stack",
        height=max(420, 120 + 16 * one.n_layers),
        legend={"orientation": "h", "y": -0.15},
    )
    return figure


def plot_curves(table: pd.DataFrame, value: str, title: str, emotion: str = "all") -> go.Figure:
    """Gap left, or brought about, over the number of components; random draws as crosses.

    Args:
        table: of `circuits.emotion.effects.necessity` or ``sufficiency``.
        value: ``remaining`` or ``brought``.
        title: of the figure.
        emotion: whose rows; the mean of all by default.
    """
    chosen: Any = table[table["emotion"] == emotion]
    figure = go.Figure()
    for colour, name, rows in _parts(chosen, "name"):
        drawn = name in ("random", "norm-matched")
        rows = rows.sort_values("k")
        if not drawn:
            _band(figure, rows["k"], rows["low"], rows["high"], colour)
        figure.add_scatter(
            x=rows["k"],
            y=rows[value],
            mode="markers" if drawn else "lines+markers",
            marker={"symbol": "x" if drawn else "circle", "color": colour},
            line={"color": colour},
            name=f"{name}, each draw" if drawn else str(name),
        )
    _styled(
        figure,
        title=f"{title}<br><sup>{emotion}; n {int(chosen['n'].max())} texts in six emotions; "
        "bands: 95 % over scenarios</sup>",
        xaxis={"title": "components", "type": "log"},
        yaxis={"title": "part of the emotion gap", "rangemode": "tozero"},
        height=460,
    )
    return figure


def plot_states(table: pd.DataFrame, title: str) -> go.Figure:
    """Group-centred states on the two principal axes of their own layer, a map a layer.

    Args:
        table: of `circuits.emotion.projections.projections`.
        title: of the figure.
    """
    layers = list(dict.fromkeys(table["layer"].tolist()))
    figure = make_subplots(1, len(layers), subplot_titles=[f"layer {n}" for n in layers])
    parts: Any = table.groupby(["layer", "emotion"], sort=False)
    for (layer, emotion), rows in parts:
        figure.add_scatter(
            x=rows["x"],
            y=rows["y"],
            mode="markers",
            name=emotion,
            marker={"color": COLOURS[EMOTIONS.index(str(emotion))], "size": 4, "opacity": 0.6},
            showlegend=layer == layers[0],
            row=1,
            col=layers.index(layer) + 1,
        )
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(showticklabels=False)
    _styled(figure, title=title, height=360, width=120 + 180 * len(layers))
    return figure


def _parts(table: Any, column: str) -> Iterator[tuple[str, str, Any]]:
    """(colour, name, rows) of each value of a column, in order of appearance."""
    groups = table.groupby(column, sort=False)
    return ((LINES[i % len(LINES)], str(name), rows) for i, (name, rows) in enumerate(groups))


def _band(figure: go.Figure, x: Any, low: Any, high: Any, colour: str) -> None:
    figure.add_scatter(
        x=[*x, *reversed(list(x))],
        y=[*high, *reversed(list(low))],
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def _styled(figure: go.Figure, **layout: Any) -> None:
    figure.update_layout(
        template="plotly_white", font={"size": 13}, margin={"t": 80, "r": 30}, **layout
    )


def _ticks(n: int) -> list[int]:
    return list(range(0, n, max(2, n // 20 * 2)))


def _diverging(largest: float, title: str) -> dict[str, Any]:
    return {
        "colorscale": "RdBu_r",
        "cmin": -largest,
        "cmax": largest,
        "colorbar": {"title": title},
    }
