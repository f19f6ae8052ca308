"""Figures of query and value scores: by layer, and over one prompt's tokens."""

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.errors import DataError
from interp.results.report import Figure, Part, Report, Section, Table, cell_text, excluded_rows
from interp.results.style import GREY, PALETTE, add_band, label, styled

if TYPE_CHECKING:
    from circuits.query_value.result import QueryValue

COLOURS = {"ffn": PALETTE[0], "attention": PALETTE[1]}
NAMES = {"ffn": "FFN", "attention": "attention"}


def plot_layers(result: "QueryValue") -> go.Figure:
    """Query scores (left) and value scores (right) of attention and FFNs, layer by layer.

    Args:
        result: from `find`; bands are 95 % bootstrap intervals over (clusters of) prompts.
    """
    figure = make_subplots(1, 2, subplot_titles=("query scores", "value scores"))
    scores = result.by_layer()
    for column, name in enumerate(("query", "value"), 1):
        for sublayer, colour in COLOURS.items():
            found = result.intervals(scores[name].sel(sublayer=sublayer))
            _line(figure, found, column, sublayer, colour)
    chosen = result.layers(*[min(3, scores.sizes["layer"] // 2)] * 2)
    for column, layers in ((1, chosen.query), (2, chosen.value)):
        for layer in layers:
            line = {"dash": "dot", "color": GREY, "width": 1}
            figure.add_shape(
                type="line",
                x0=layer,
                x1=layer,
                y0=0,
                y1=1,
                yref="y domain",
                line=line,
                row=1,
                col=column,
            )
    figure.update_xaxes(title="layer", dtick=max(1, scores.sizes["layer"] // 10))
    figure.update_yaxes(title="nats of the answer's log-probability", col=1)
    note = f"mean of {result.n_prompts} prompts with 95 % intervals; dotted: the layers chosen"
    return styled(figure, f"query and value layers of {result.model}", note, margin={"t": 100})


def _line(figure: go.Figure, found: xr.Dataset, column: int, name: str, colour: str) -> None:
    x = [int(layer) for layer in found["layer"].values]
    low, high = (found[bound].values for bound in ("low", "high"))
    add_band(figure, x, low, high, colour, row=1, col=column)
    figure.add_scatter(
        x=x,
        y=found["mean"].values,
        name=NAMES[name],
        line={"color": colour},
        legendgroup=name,
        showlegend=column == 1,
        row=1,
        col=column,
    )


def plot_prompt(result: "QueryValue", prompt: str) -> go.Figure:
    """One prompt: query scores of its FFNs by layer and token, beside the layers' value scores.

    Args:
        result: from `find`.
        prompt: the prompt's id.

    Raises:
        DataError: no such prompt.
    """
    ids = [one.id for one in result.questions]
    if prompt not in ids:
        raise DataError(f"no prompt {prompt!r}; this result has {', '.join(ids[:5])} ….")
    row = ids.index(prompt)
    tokens = result.tokens[row]
    figure = make_subplots(
        1,
        2,
        column_widths=[0.72, 0.28],
        shared_yaxes=True,
        horizontal_spacing=0.16,
        subplot_titles=("query scores of FFNs (nats)", "value scores (nats)"),
    )
    one = result.scores.isel(prompt=row)
    z = one["query_writer"].sel(writer="ffn").sum("path").transpose("layer", "pos").values
    labels = [label(f"{i} {token.strip() or repr(token)}") for i, token in enumerate(tokens)]
    _map(figure, z[:, : len(tokens)], labels)
    value = result.by_layer()["value"].isel(prompt=row)
    for sublayer, colour in COLOURS.items():
        figure.add_bar(
            x=value.sel(sublayer=sublayer).values,
            y=[int(layer) for layer in value["layer"].values],
            orientation="h",
            name=NAMES[sublayer],
            marker={"color": colour},
            row=1,
            col=2,
        )
    figure.update_layout(height=max(480, 160 + 14 * len(z)), width=max(900, 420 + 45 * len(tokens)))
    answer = f"{result.questions[row].text} → answer"
    return styled(figure, f"query and value layers of {result.model}", answer, margin={"t": 100})


def _map(figure: go.Figure, z: np.ndarray, labels: list[str]) -> None:
    reach = float(np.abs(z).max()) or 1.0
    figure.add_heatmap(
        z=z,
        zmin=-reach,
        zmax=reach,
        colorbar={"x": 0.63, "thickness": 12},
        hovertemplate="layer %{y}, token %{x}: %{z:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    places = list(range(len(labels)))
    figure.update_xaxes(tickvals=places, ticktext=labels, row=1, col=1)
    figure.update_yaxes(title="layer", dtick=max(1, len(z) // 12), row=1, col=1)


# --- report ------------------------------------------------------------------------------------


def report(result: "QueryValue", prompt: str | None = None, seed: int = 0) -> Report:
    """Both figures, the strongest neurons and the order of layers, as a report.

    Args:
        result: from `find`.
        prompt: the prompt to draw token by token; by default the first.
        seed: of the intervals.

    Raises:
        DataError: no such prompt.
    """
    drawn = prompt or result.questions[0].id
    chosen = result.layers(*[min(3, result.scores.sizes["layer"] // 2)] * 2)
    lead = f"Query layers {cell_text(chosen.query)}; value layers {cell_text(chosen.value)}."
    return Report(
        title=f"query and value neurons of {result.model}",
        lead=f"{result.n_prompts} prompts. {lead}",
        sections=[
            Section("Layers and neurons", _over_prompts(result, lead, seed)),
            Section(f"Prompt {drawn}", _of_prompt(result, drawn)),
        ],
        method=(
            "Scores are in nats of the answer's log-probability. A value neuron raises the answer; "
            "a query neuron raises the value neurons that lie above it.",
            f"The top {result.top} value neurons of each prompt, read with {result.key} keys; "
            f"bases: {result.base}; intervals: 95 % bootstrap over clusters of prompts; "
            f"{result.seconds:.1f} s.",
        ),
        excluded=excluded_rows(result.excluded),
        provenance=result.provenance | {"weights": result.weights_hash},
    )


def _over_prompts(result: "QueryValue", lead: str, seed: int) -> list[Part]:
    layers = Figure(
        "Scores layer by layer",
        f"Query scores (left) and value scores (right) of FFNs and attention, mean of "
        f"{result.n_prompts} prompts. {lead} Dotted lines mark them.",
        plot_layers(result),
    )
    return [
        layers,
        Table("Query neurons, mean over prompts", result.query_neurons(10)),
        Table("Value neurons, mean over prompts", result.value_neurons(10)),
        Table("Query scores by span", result.by_span(seed)),
        Table("Order of layers", result.order(seed), "", {"what": "neurons"}),
    ]


def _of_prompt(result: "QueryValue", drawn: str) -> list[Part]:
    figure: Any = plot_prompt(result, drawn)
    z = np.asarray(figure.data[0].z)
    layer, token = (int(i) for i in np.unravel_index(np.argmax(z), z.shape))
    row = [one.id for one in result.questions].index(drawn)
    says = (
        f"{result.questions[row].text} → answer. The largest query score of an FFN is "
        f"{cell_text(float(z[layer, token]))}, in layer {layer} at token "
        f"{result.tokens[row][token].strip()!r}."
    )
    queries: Any = result.queries[result.queries["prompt"] == drawn].head(15)
    table = Table(f"Query neurons of prompt {drawn}", queries.drop(columns="prompt"))
    return [Figure("Layer by token", says, figure), *([table] if len(queries) else [])]
