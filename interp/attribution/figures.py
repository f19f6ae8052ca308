"""Figures of attributions: where in the model the metric comes from, layer by layer."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from interp.attribution.scores import EdgeScores, NodeScores, Scores
from interp.model.graph import Graph
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_rows
from interp.results.style import AXIS_NAMES, BLUE, add_band, label, styled

MOST_COLUMNS = 64
"""Columns of a heatmap; neurons beyond are not drawn one by one."""


def plot_scores(scores: Scores) -> go.Figure:
    """Draw mean scores over pairs; blue supports the answer, red opposes it.

    Edges: a heatmap of the summed size of all edges from layer to layer. Nodes: layer by head,
    with the MLPs as last column. Units: a heatmap over two axes, a curve with its interval over
    one, and of neurons the strongest of each layer.

    Args:
        scores: of `attribute_edges`, `attribute_nodes` or `attribute`.
    """
    if isinstance(scores, EdgeScores):
        figure = _edges(scores)
    elif isinstance(scores, NodeScores):
        figure = _nodes(scores)
    else:
        figure = _units(scores)
    note = f"{_what(scores)}, mean of {scores.n_pairs} pairs"
    return styled(figure, f"{scores.method} on {scores.model}", note)


def _what(scores: Scores) -> str:
    if isinstance(scores, EdgeScores):
        return f"size of all edges from layer to layer, summed ({scores.unit} of {scores.metric})"
    return f"share of {scores.metric} ({scores.unit}); positive supports the answer"


def _edges(scores: EdgeScores) -> go.Figure:
    graph = scores.graph
    matrix = np.zeros(tuple(graph.exists.shape))
    matrix[graph.exists.numpy()] = np.abs(scores.mean().values)
    rows, columns = _source_rows(graph), _destination_columns(graph)
    table = np.zeros((graph.n_layers + 1, 2 * graph.n_layers + 1))
    np.add.at(table, (rows[:, None], columns[None, :]), matrix)
    exists = np.zeros_like(table, dtype=bool)
    np.logical_or.at(exists, (rows[:, None], columns[None, :]), graph.exists.numpy())
    names = [f"{part} {layer}" for layer in range(graph.n_layers) for part in ("heads", "MLP")]
    sources = ["input", *(str(layer) for layer in range(graph.n_layers))]
    # a few edges dwarf the rest, so colours follow the square root
    figure = _heatmap(
        np.where(exists, np.sqrt(table), np.nan),
        sources,
        [*names, "logits"],
        np.where(exists, table, np.nan),
    )
    figure.update_layout(
        xaxis_title="into (heads' queries, keys and values together)",
        yaxis_title="from layer (heads and MLP)",
    )
    return figure


def _source_rows(graph: Graph) -> np.ndarray:
    """Row of each source: the input, then the layers."""
    layers = np.repeat(np.arange(1, graph.n_layers + 1), graph.n_heads + 1)
    return np.concatenate([[0], layers])


def _destination_columns(graph: Graph) -> np.ndarray:
    """Column of each destination: heads and MLP of every layer, then the logits."""
    places = [[2 * layer] * 3 * graph.n_heads + [2 * layer + 1] for layer in range(graph.n_layers)]
    return np.array([*(place for row in places for place in row), 2 * graph.n_layers])


def _nodes(scores: NodeScores) -> go.Figure:
    graph = scores.graph
    mean = scores.mean().values
    table = mean[1:].reshape(graph.n_layers, graph.n_heads + 1)
    names = [*(str(head) for head in range(graph.n_heads)), "MLP"]
    figure = _heatmap(table, [str(layer) for layer in range(graph.n_layers)], names)
    figure.update_layout(
        xaxis_title=f"head (the input's score: {mean[0]:.3g})", yaxis_title="layer"
    )
    return figure


def _units(scores: Scores) -> go.Figure:
    mean = scores.mean()
    over = list(scores.over)
    if "neuron" in over:
        return _neurons(scores)
    if len(over) == 1:
        return _curve(scores)
    for extra in over[2:]:
        mean = mean.isel({extra: abs(mean).fillna(-1).argmax(extra)})
    rows, columns = ([str(v) for v in mean.coords[axis].values] for axis in over[:2])
    figure = _heatmap(mean.transpose(*over[:2]).values, rows, columns)
    figure.update_layout(xaxis_title=AXIS_NAMES[over[1]], yaxis_title=AXIS_NAMES[over[0]])
    return figure


def _neurons(scores: Scores) -> go.Figure:
    """Neurons of each layer in order of size: how few of them carry how much."""
    mean = scores.mean()
    mean = mean.sum("pos") if "pos" in scores.over else mean
    values = mean.transpose("layer", "neuron").values
    order = np.argsort(-np.abs(values), axis=1)[:, :MOST_COLUMNS]
    shown = np.take_along_axis(values, order, 1)
    layers = [str(layer) for layer in mean.coords["layer"].values]
    ranks = [str(rank + 1) for rank in range(shown.shape[1])]
    figure = _heatmap(shown, layers, ranks, note="neuron", notes=order)
    figure.update_layout(
        xaxis_title=f"neurons of the layer, strongest first ({len(ranks)} of {values.shape[1]})",
        yaxis_title="layer",
    )
    return figure


def _curve(scores: Scores) -> go.Figure:
    from interp.statistics import bootstrap_mean

    axis = scores.over[0]
    labels = [str(value) for value in scores.values.coords[axis].values]
    mean, low, high = bootstrap_mean(scores.values.values)
    x = list(range(len(labels)))
    figure = go.Figure()
    if scores.n_pairs > 1:
        add_band(figure, x, low, high, BLUE, "95 % interval")
    figure.add_scatter(x=x, y=mean, name="mean", line={"color": BLUE})
    figure.update_layout(
        xaxis={"title": AXIS_NAMES[axis], "tickvals": x, "ticktext": labels},
        yaxis={"title": f"{scores.metric} ({scores.unit})"},
    )
    return figure


def _heatmap(
    z: Float[np.ndarray, "row column"],
    rows: list[str],
    columns: list[str],
    true: Float[np.ndarray, "row column"] | None = None,
    note: str | None = None,
    notes: np.ndarray | None = None,
) -> go.Figure:
    """Layers from bottom to top; the middle of the scale is nothing.

    Args:
        z: what the colours show.
        rows: labels of the vertical axis.
        columns: labels of the horizontal axis.
        true: what the pointer shows, where colours are transformed sizes; they begin at 0.
        note: a word before each cell's `notes`.
        notes: shown by the pointer besides.
    """
    reach = float(np.nanmax(np.abs(z))) or 1.0
    values = z if true is None else true
    extra = np.full(z.shape, "") if notes is None else np.char.add(f", {note} ", notes.astype(str))
    figure = go.Figure(
        go.Heatmap(
            z=z,
            customdata=np.stack([np.char.mod("%.4g", values), extra], -1),
            hovertemplate="from %{y} into %{x}: %{customdata[0]}<extra></extra>"
            if true is not None
            else "layer %{y}, %{x}: %{customdata[0]}%{customdata[1]}<extra></extra>",
            **_colours(reach, true is not None),
        )
    )
    if true is not None:
        bar = {"title": "sum of |score|"} | _square_ticks(reach)
        figure.update_layout(coloraxis={"cmin": 0, "cmax": reach, "colorbar": bar})
    for axis, labels in (("xaxis", columns), ("yaxis", rows)):
        step = max(1, len(labels) // 40)
        places = list(range(0, len(labels), step))
        figure.update_layout(
            {axis: {"tickvals": places, "ticktext": [label(text) for text in labels[::step]]}}
        )
    figure.update_layout(
        height=max(420, 140 + 16 * len(rows)), width=min(1100, max(640, 60 * len(columns)))
    )
    return figure


def _square_ticks(reach: float) -> dict[str, list[float] | list[str]]:
    places = np.linspace(0, reach, 5)
    return {"tickvals": places.tolist(), "ticktext": [f"{place**2:.3g}" for place in places]}


def _colours(reach: float, sizes: bool) -> dict[str, Any]:
    if sizes:
        return {"coloraxis": "coloraxis"}
    return {"zmin": -reach, "zmax": reach, "colorbar": {"title": "score"}}


# --- report ------------------------------------------------------------------------------------


def report(scores: Scores, seed: int = 0) -> Report:
    """The figure and the strongest components, as a report."""
    top = scores.top(15, seed)
    strongest = ""
    if len(top):
        place = ", ".join(_named(axis, top.iloc[0][axis]) for axis in scores.over)
        score = float(top.iloc[0]["score"])
        side = "supports" if score >= 0 else "opposes"
        strongest = (
            f"The strongest is {place}: its score is {cell_text(score)}, so it {side} the answer."
        )
    kind = scores.KIND.replace("_", " ")
    return Report(
        title=f"{scores.method} on {scores.model}, {scores.source}",
        lead=f"{scores.metric} ({scores.unit}): {float(scores.clean.mean()):.3f} on clean, "
        f"{float(scores.corrupt.mean()):.3f} on corrupt prompts; {scores.n_pairs} pairs of "
        f"{scores.source}. {strongest}",
        sections=[
            Section(
                kind.capitalize(),
                [
                    Figure("Scores by layer", f"{_seen(scores)} {strongest}", plot_scores(scores)),
                    Table("Strongest components", top),
                ],
            )
        ],
        method=(
            f"Scores by {scores.method}; positive = supports the answer. Means over pairs with "
            "95 % bootstrap intervals.",
            *_complete(scores),
            f"The runs took {scores.seconds:.2f} s.",
        ),
        excluded=excluded_rows(scores.excluded),
        provenance=scores.provenance | {"weights": scores.weights_hash},
    )


def _named(axis: str, value: object) -> str:
    return str(value) if axis in ("edge", "node") else f"{AXIS_NAMES.get(axis, axis)} {value}"


def _seen(scores: Scores) -> str:
    what = _what(scores)
    said = f"{what[0].upper()}{what[1:]}, mean of {scores.n_pairs} pairs."
    return f"{said} Colours follow the square root." if isinstance(scores, EdgeScores) else said


def _complete(scores: Scores) -> tuple[str, ...]:
    part = scores.convergence
    if part is None:
        return ()
    return (f"The scores of the input add up to {part:.3f} of the clean-corrupt gap (1 = all).",)
