"""Pages of single circuits: how faithful one is beside random ones, and what it looks like."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from circuits.discovery.circuit import Circuit
from circuits.discovery.drawing import draw
from interp.figures import STYLE

COLOUR, GRAY = "#2166ac", "#999999"


def plot_evaluation(
    summary: Mapping[str, Any], random: Mapping[str, Float[np.ndarray, " draw"]]
) -> go.Figure:
    """Faithfulness of a circuit with its 95 % interval, and of each random circuit.

    Args:
        summary: of `Evaluation.summary`.
        random: faithfulness of the random circuits, by kind of control.
    """
    f = summary["faithfulness"]
    figure = go.Figure()
    for kind, drawn in random.items():
        name = f"random {kind}<br>p = {summary['random'][kind]['p']:.3f}"
        figure.add_scatter(
            x=drawn,
            y=[name] * len(drawn),
            mode="markers",
            marker={"color": GRAY, "symbol": "line-ns-open", "size": 18},
            showlegend=False,
        )
    figure.add_scatter(
        x=[f["value"]],
        y=["circuit"],
        error_x={
            "symmetric": False,
            "array": [f["high"] - f["value"]],
            "arrayminus": [f["value"] - f["low"]],
        },
        mode="markers",
        marker={"color": COLOUR, "size": 12},
        showlegend=False,
    )
    for at, text in ((0, "all edges cut"), (1, "whole model")):
        figure.add_vline(x=at, line={"color": "#444", "dash": "dot"}, annotation_text=text)
    figure.update_layout(
        title=f"{html.escape(summary['circuit'])} on {html.escape(summary['model'])}<br><sup>"
        f"{summary['n_edges']} of {summary['of_edges']} edges, {summary['n_pairs']} test pairs, "
        f"{summary['ablation']} ablation; 95 % interval over pairs; a line is a random circuit"
        "</sup>",
        template="plotly_white",
        font={"size": 13},
        height=220 + 60 * len(random),
        width=860,
        margin={"t": 90, "r": 90, "l": 140},
        xaxis={"title": f"faithfulness ({summary['metric']})", "zeroline": False},
    )
    return figure


def evaluation_page(
    summary: Mapping[str, Any], random: Mapping[str, Float[np.ndarray, " draw"]]
) -> str:
    """A self-contained HTML page: the figure and the numbers in it; arguments as there."""
    f = summary["faithfulness"]
    rows = [("circuit", f"{f['value']:.3f}", f"{f['low']:.3f} to {f['high']:.3f}", "")]
    rows += [
        (
            f"{of['n']} random {kind}",
            f"{of['mean']:.3f}",
            f"{of['max']:.3f} at most",
            f"{of['p']:.3f}",
        )
        for kind, of in summary["random"].items()
    ]
    title = f"{summary['circuit']} on {summary['model']}: faithfulness"
    figure = plot_evaluation(summary, random).to_html(full_html=False, include_plotlyjs=True)
    said = (
        f"{summary['n_pairs']} test pairs of {summary['source']}, {summary['n_excluded']} "
        f"excluded; {summary['metric']} {summary['full']:.3f} of the whole model, "
        f"{summary['empty']:.3f} with all edges cut ({summary['ablation']}), "
        f"{summary['circuit_metric']:.3f} of the circuit."
    )
    return _page(title, f"<p>{html.escape(said)}</p>{figure}{_table(rows)}")


def circuit_page(circuit: Circuit) -> str:
    """A self-contained HTML page with the drawing.

    Raises:
        CircuitError: a circuit without edges.
    """
    return _page(repr(circuit), draw(circuit).to_html(full_html=False, include_plotlyjs=True))


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("", "f", "", "p"))
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _page(title: str, body: str) -> str:
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>"
    )
