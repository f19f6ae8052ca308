"""Figures of discoveries, causal tests and comparisons; all take tables or arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from circuits.emotion.texts import EMOTIONS, LABELS
from interp.results.style import BLUE, GREY, PALETTE, RED, add_band, label, styled, whiskers

COLOURS = (RED, *PALETTE[:5])
"""One per emotion, in the order of `EMOTIONS`."""
CHANCE = 1 / len(EMOTIONS)


def plot_transfer(table: pd.DataFrame, layer: int | None = None) -> go.Figure:
    """Accuracy by layer of each test, with 95 % bands, chance, and the null's 95th percentile.

    Args:
        table: of `circuits.emotion.transfer.tables`.
        layer: the reading layer, marked.
    """
    figure = go.Figure()
    groups: Any = table.groupby("test", sort=False)
    for i, (name, rows) in enumerate(groups):
        colour = PALETTE[i % len(PALETTE)]
        shown = f"{name} (n {int(rows['n'].iloc[0])}, {int(rows['clusters'].iloc[0])} clusters)"
        add_band(figure, rows["layer"], rows["low"], rows["high"], colour)
        figure.add_scatter(
            x=rows["layer"], y=rows["accuracy"], name=shown, mode="lines", line={"color": colour}
        )
    null = max(map(float, table["null"]), default=CHANCE)
    figure.add_hline(y=CHANCE, line={"color": GREY, "dash": "dot"})
    figure.add_hline(y=null, line={"color": GREY, "dash": "dash"})
    if layer is not None:
        figure.add_vline(x=layer, line={"color": GREY, "width": 1})
    return styled(
        figure,
        "Accuracy of reading emotions, layer by layer",
        "dotted: chance; dashed: largest 95th percentile of shuffled labels; bands: 95 % over "
        "scenarios",
        xaxis={"title": "layer", "dtick": max(1, table["layer"].nunique() // 12)},
        yaxis={"title": "accuracy, six emotions", "range": [0, 1.02]},
        height=520,
    )


def plot_similarity(cosines: Mapping[int, Float[np.ndarray, "to from"]]) -> go.Figure:
    """Cosines between the six directions, one map per layer; centring makes their mean -1/5."""
    names = [f"layer {layer}" for layer in cosines]
    figure = make_subplots(1, len(cosines), subplot_titles=names, shared_yaxes=True)
    for column, values in enumerate(cosines.values(), 1):
        figure.add_heatmap(
            z=np.asarray(values),
            x=list(EMOTIONS),
            y=list(EMOTIONS),
            texttemplate="%{z:.2f}",
            textfont={"size": 10},
            zmin=-1,
            zmax=1,
            colorbar={"title": "cosine"},
            showscale=column == len(cosines),
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    width = 100 + 340 * len(cosines)
    return styled(figure, "Cosines between directions", height=400, width=width)


def plot_influence(values: Float[np.ndarray, "text emotion sublayer layer"]) -> go.Figure:
    """Rise along v_ref per unit of perturbation, by layer, attention and MLPs apart."""
    figure = make_subplots(1, 2, subplot_titles=("attention", "MLP"), shared_yaxes=True)
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
        "Influence of each sublayer on the final state",
        f"mean of {len(values)} neutral texts; bars: 95 %",
        yaxis={"title": "rise along v_ref for one unit"},
        height=420,
    )


def plot_circuits(units: pd.DataFrame, n_layers: int, n_heads: int) -> go.Figure:
    """Where circuits lie: neurons in each layer, and which emotions have each head.

    Args:
        units: columns ``emotion``, ``part`` (neurons or heads), ``layer`` and ``unit``.
        n_layers: of the model.
        n_heads: in a layer.
    """
    titles = ("neurons in each layer", "heads: emotions that have it")
    figure = make_subplots(1, 2, subplot_titles=titles)
    emotions = list(dict.fromkeys(units["emotion"]))
    neurons, heads = (units[units["part"] == part] for part in ("neurons", "heads"))
    for emotion in emotions:
        layers: Any = neurons.loc[neurons["emotion"] == emotion, "layer"]
        figure.add_bar(
            x=np.bincount(layers.to_numpy(int), minlength=n_layers),
            y=list(range(n_layers)),
            orientation="h",
            name=emotion,
            marker={"color": COLOURS[EMOTIONS.index(emotion)]},
            row=1,
            col=1,
        )
    shared, names = np.zeros((n_layers, n_heads)), np.full((n_layers, n_heads), "", dtype=object)
    for emotion, layer, head in zip(heads["emotion"], heads["layer"], heads["unit"], strict=True):
        shared[layer, head] += 1
        names[layer, head] += f"{emotion} "
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
    figure.update_yaxes(dtick=max(1, n_layers // 12))
    figure.update_yaxes(title="layer", row=1, col=1)
    return styled(
        figure,
        "Circuits",
        barmode="stack",
        height=max(420, 120 + 16 * n_layers),
        coloraxis={"cmin": 0, "cmax": len(emotions), "colorbar": {"title": "emotions"}},
    )


def plot_states(table: pd.DataFrame) -> go.Figure:
    """2-D PCA of group-centred states, one map per layer.

    Args:
        table: of `circuits.emotion.directions.projections`.
    """
    layers = list(dict.fromkeys(table["layer"].tolist()))
    figure = make_subplots(1, len(layers), subplot_titles=[f"layer {n}" for n in layers])
    groups: Any = table.groupby(["layer", "emotion"], sort=False)
    for (layer, emotion), rows in groups:
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
    width = 120 + 180 * len(layers)
    return styled(figure, "States on the two main axes of their layer", height=360, width=width)


def plot_effects(table: pd.DataFrame) -> go.Figure:
    """Necessity and sufficiency of each circuit and of the random ones, emotion by emotion.

    Args:
        table: columns ``test``, ``name``, ``emotion``, ``value``, ``low``, ``high``.
    """
    tests = list(dict.fromkeys(table["test"]))
    figure = make_subplots(1, len(tests), subplot_titles=tests)
    names = list(dict.fromkeys(table["name"]))
    groups: Any = table.groupby(["test", "name"], sort=False)
    for (test, name), rows in groups:
        colour = GREY if name == "random" else PALETTE[names.index(name) % len(PALETTE)]
        figure.add_scatter(
            x=rows["emotion"],
            y=rows["value"],
            error_y=whiskers(rows["value"], rows["low"], rows["high"]),
            mode="markers",
            marker={"color": colour, "symbol": "x" if name == "random" else "circle"},
            name=f"{name}, each draw" if name == "random" else label(name),
            showlegend=test == tests[0],
            row=1,
            col=tests.index(test) + 1,
        )
    note = "of the gap between an emotion's prompts and the other five's; bars: 95 % over scenarios"
    figure.update_yaxes(title="fraction of the gap", row=1, col=1)
    return styled(figure, "Necessity and sufficiency of circuits", note, height=460)


def plot_conditions(table: pd.DataFrame, title: str) -> go.Figure:
    """Accuracy, quality and joint of every condition, with 95 % intervals over scenarios."""
    figure = go.Figure()
    for name, colour in (("accuracy", BLUE), ("quality", GREY), ("joint", PALETTE[1])):
        figure.add_bar(
            x=[label(condition) for condition in table["condition"]],
            y=table[name],
            error_y=whiskers(table[name], table[f"{name}_low"], table[f"{name}_high"]),
            name=name,
            marker={"color": colour},
        )
    chance = {"color": GREY, "dash": "dot"}
    figure.add_hline(y=CHANCE, line=chance, annotation_text="chance of accuracy")
    width = 80 + 60 * len(table)
    return styled(figure, title, yaxis={"range": [0, 1]}, height=460, width=width)


def plot_confusion(counts: Mapping[str, Sequence[Sequence[int]] | np.ndarray]) -> go.Figure:
    """Labels that a judge gave the replies of each target: one map per condition."""
    names = [label(name) for name in counts]
    figure = make_subplots(1, len(counts), subplot_titles=names, shared_yaxes=True)
    for column, table in enumerate(map(np.asarray, counts.values()), 1):
        figure.add_heatmap(
            z=table / np.maximum(table.sum(1, keepdims=True), 1),
            x=list(LABELS),
            y=list(EMOTIONS),
            texttemplate="%{z:.2f}",
            textfont={"size": 9},
            coloraxis="coloraxis",
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    title, colours = "Target (rows) and label (columns)", {"cmin": 0, "cmax": 1}
    return styled(figure, title, coloraxis=colours, height=400, width=80 + 240 * len(counts))
