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
from interp.results.style import GREY, PALETTE, RED, add_band, styled

COLOURS = (RED, *PALETTE[:5])
"""One per emotion, in the order of `EMOTIONS`."""
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
        add_band(figure, rows["layer"], rows["low"], rows["high"], colour)
        figure.add_scatter(
            x=rows["layer"], y=rows["accuracy"], name=label, mode="lines", line={"color": colour}
        )
    null = max(map(float, table["null"]), default=CHANCE)
    figure.add_hline(y=CHANCE, line={"color": GREY, "dash": "dot"})
    figure.add_hline(y=null, line={"color": GREY, "dash": "dash"})
    if layer is not None:
        figure.add_vline(x=layer, line={"color": GREY, "width": 1})
    return styled(
        figure,
        title,
        "dotted: chance; dashed: largest 95th percentile of shuffled labels; bands: 95 % over "
        "scenarios",
        xaxis={"title": "layer", "dtick": max(1, table["layer"].nunique() // 12)},
        yaxis={"title": "accuracy, six emotions", "range": [0, 1.02]},
        height=520,
    )


def plot_similarity(directions: Directions, layers: Sequence[int], title: str) -> go.Figure:
    """Cosines between the six directions, one map per layer; centring makes their mean -1/5."""
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
            **_cosines(showscale=column == len(layers)),
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    return styled(figure, title, height=400, width=100 + 340 * len(layers))


def plot_along(directions: Directions, emotion: str, title: str) -> go.Figure:
    """Cosines of one emotion's directions between all places: attention 0, MLP 0, attention 1..."""
    values = directions.along(EMOTIONS.index(emotion)).numpy()
    figure = go.Figure(go.Heatmap(z=values, **_cosines()))
    ticks = _ticks(len(values))
    axis: dict[str, Any] = {"tickvals": ticks, "ticktext": [str(i // 2) for i in ticks]}
    axis["title"] = "layer: attention, then MLP"
    reverse = axis | {"autorange": "reversed"}
    return styled(figure, title, xaxis=axis, yaxis=reverse, height=560, width=640)


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
    figure.update_xaxes(title="layer", dtick=max(1, len(layers) // 10))
    return styled(
        figure,
        title,
        f"mean of {len(values)} neutral texts; bars: 95 %",
        yaxis={"title": "rise along v_ref for one unit"},
        height=420,
    )


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
        coloraxis="coloraxis",
        row=1,
        col=2,
    )
    figure.update_xaxes(title="neurons", row=1, col=1)
    figure.update_xaxes(title="head", dtick=1, row=1, col=2)
    figure.update_yaxes(dtick=max(1, one.n_layers // 12))
    figure.update_yaxes(title="layer", row=1, col=1)
    return styled(
        figure,
        title,
        barmode="stack",
        height=max(420, 120 + 16 * one.n_layers),
        coloraxis={"cmin": 0, "cmax": len(circuits), "colorbar": {"title": "emotions"}},
    )


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
            add_band(figure, rows["k"], rows["low"], rows["high"], colour)
        figure.add_scatter(
            x=rows["k"],
            y=rows[value],
            mode="markers" if drawn else "lines+markers",
            marker={"symbol": "x" if drawn else "circle", "color": colour},
            line={"color": colour},
            name=f"{name}, each draw" if drawn else str(name),
        )
    return styled(
        figure,
        title,
        f"{emotion}; n {int(chosen['n'].max())} texts in six emotions; bands: 95 % over scenarios",
        xaxis={"title": "components", "type": "log"},
        yaxis={"title": "part of the emotion gap", "rangemode": "tozero"},
        height=460,
    )


def plot_states(table: pd.DataFrame, title: str) -> go.Figure:
    """Group-centred states on the two principal axes of their own layer, one map per layer.

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
    return styled(figure, title, height=360, width=120 + 180 * len(layers))


def _parts(table: Any, column: str) -> Iterator[tuple[str, str, Any]]:
    """(colour, name, rows) of each value of a column, in order of appearance."""
    groups = table.groupby(column, sort=False)
    return ((PALETTE[i % len(PALETTE)], str(name), rows) for i, (name, rows) in enumerate(groups))


def _ticks(n: int) -> list[int]:
    return list(range(0, n, max(2, n // 20 * 2)))


def _cosines(showscale: bool = True) -> dict[str, Any]:
    return {"zmin": -1, "zmax": 1, "colorbar": {"title": "cosine"}, "showscale": showscale}
