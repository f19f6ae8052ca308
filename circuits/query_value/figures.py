"""Figures of query and value scores: by layer, and over one prompt's tokens."""

import html
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from circuits.query_value.questions import QuestionError
from interp.figures import STYLE
from interp.results import vars_of

if TYPE_CHECKING:
    from circuits.query_value.result import QueryValue

COLOURS = {"ffn": "31,119,180", "attention": "255,127,14"}


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
            line = {"dash": "dot", "color": "gray", "width": 1}
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
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title="nats of the answer's log-probability", col=1)
    note = f"mean of {result.n_prompts} prompts with 95 % intervals; dotted: the layers chosen"
    return _laid_out(figure, f"query and value layers of {result.model}", note)


def _line(figure: go.Figure, found: xr.Dataset, column: int, name: str, colour: str) -> None:
    x = [int(layer) for layer in found["layer"].values]
    low, high = (found[bound].values for bound in ("low", "high"))
    if np.isfinite(low).all() and np.isfinite(high).all():
        figure.add_scatter(
            x=x + x[::-1],
            y=[*high, *low[::-1]],
            fill="toself",
            line={"width": 0},
            fillcolor=f"rgba({colour},0.2)",
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=column,
        )
    figure.add_scatter(
        x=x,
        y=found["mean"].values,
        name={"ffn": "FFN", "attention": "attention"}[name],
        line={"color": f"rgb({colour})"},
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
        QuestionError: no such prompt.
    """
    ids = [one.id for one in result.questions]
    if prompt not in ids:
        raise QuestionError(f"no prompt {prompt!r}; this result has {', '.join(ids[:5])} ….")
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
    _map(figure, z[:, : len(tokens)], [f"{i} {t.strip() or repr(t)}" for i, t in enumerate(tokens)])
    value = result.by_layer()["value"].isel(prompt=row)
    for sublayer, colour in COLOURS.items():
        figure.add_bar(
            x=value.sel(sublayer=sublayer).values,
            y=[int(layer) for layer in value["layer"].values],
            orientation="h",
            name={"ffn": "FFN", "attention": "attention"}[sublayer],
            marker={"color": f"rgb({colour})"},
            row=1,
            col=2,
        )
    figure.update_layout(height=max(480, 160 + 14 * len(z)), width=max(900, 420 + 45 * len(tokens)))
    answer = f"{result.questions[row].text} → answer"
    return _laid_out(figure, f"query and value layers of {result.model}", answer)


def _map(figure: go.Figure, z: np.ndarray, labels: list[str]) -> None:
    reach = float(np.abs(z).max()) or 1.0
    figure.add_heatmap(
        z=z,
        colorscale="RdBu",
        zmin=-reach,
        zmax=reach,
        colorbar={"x": 0.63, "thickness": 12},
        hovertemplate="layer %{y}, token %{x}: %{z:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    places = list(range(len(labels)))
    figure.update_xaxes(tickvals=places, ticktext=labels, row=1, col=1)
    figure.update_yaxes(title="layer", row=1, col=1)


def _laid_out(figure: go.Figure, title: str, note: str) -> go.Figure:
    figure.update_layout(
        title=f"{html.escape(title)}<br><sup>{html.escape(note)}</sup>",
        template="plotly_white",
        font={"size": 13},
        margin={"t": 100, "r": 30},
    )
    return figure


# --- pages -------------------------------------------------------------------------------------


def result_html(
    result: "QueryValue", prompt: str | None, seed: int = 0, scripts: bool | str = "cdn"
) -> str:
    """Both figures, the strongest neurons, and what was left out, as HTML.

    Args:
        result: from `find`.
        prompt: the prompt to draw token by token; by default the first.
        seed: of the intervals.
        scripts: as plotly's ``include_plotlyjs``.
    """
    drawn = prompt or result.questions[0].id
    by_layer = plot_layers(result).to_html(full_html=False, include_plotlyjs=scripts)
    by_token = plot_prompt(result, drawn).to_html(full_html=False, include_plotlyjs=False)
    queries = result.queries[result.queries["prompt"] == drawn].head(15)
    left_out = pd.DataFrame([vars_of(row) for row in result.excluded])
    tables = (
        ("Query neurons, mean over prompts", result.query_neurons(10)),
        ("Value neurons, mean over prompts", result.value_neurons(10)),
        (f"Query neurons of prompt {drawn}", queries),
        ("Query scores by span", result.by_span(seed)),
        ("Order of layers", result.order(seed)),
        (f"{len(result.excluded)} prompts were excluded", left_out),
    )
    shown = "".join(
        f"<h3>{html.escape(title)}</h3>"
        + table.to_html(index=False, float_format=lambda x: f"{x:.3f}", border=0)
        for title, table in tables
        if len(table)
    )
    return (
        f"<p>{result.n_prompts} prompts; top {result.top} value neurons each, read with "
        f"{html.escape(result.key)} keys; bases: {html.escape(result.base)}; scores in nats of the "
        f"answer's log-probability; {result.seconds:.1f} s.</p>{by_layer}{by_token}{shown}"
    )


def page(result: "QueryValue", prompt: str | None = None, seed: int = 0) -> str:
    """A self-contained HTML page: no network is needed to read it."""
    title = html.escape(f"query and value neurons of {result.model}")
    command = html.escape(" ".join(result.provenance.get("command", [])))
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
        f"{result_html(result, prompt, seed, scripts=True)}<hr>"
        f"<p class='muted'><code>{command}</code></p></body></html>"
    )
