"""Figures of ablations: a curve over nested sets, bars over others, beside random sets."""

import html
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.ablation.readouts import unit_of
from interp.ablation.sets import nested
from interp.figures import STYLE

if TYPE_CHECKING:
    from interp.ablation.result import AblationResult

SHOWN = 40
"""Bars drawn at most: those of the largest effects."""


def plot_ablation(result: "AblationResult", readout: str) -> go.Figure:
    """Draw one readout, with 95 % intervals and the central 95 % of the random sets.

    Args:
        result: from `interp.ablate`.
        readout: which.
    """
    curve = nested(result.sets)
    table = result.table(readout) if curve else result.top(SHOWN, readout)
    figure = go.Figure()
    (_draw_curve if curve else _draw_bars)(figure, table)
    kept = any(one.among for one in result.sets.values())
    axis = "components kept, all others ablated" if kept else "components ablated"
    of = "windows of neutral text" if readout == "nll" else "pairs"
    note = f"mean of {table['n'].iloc[0]} {of}, 95 % intervals"
    figure.update_layout(
        title=f"{result.kind} ablation on {result.model}<br><sup>{note}</sup>",
        xaxis={"title": axis if curve else ""},
        yaxis={"title": f"{readout} ({unit_of(readout)})" if curve else f"change of {readout}"},
        template="plotly_white",
        font={"size": 13},
        margin={"t": 80, "r": 30},
    )
    return figure


def _draw_curve(figure: go.Figure, table: pd.DataFrame) -> None:
    x, base = table["size"].to_numpy(), table["baseline"].iloc[0]
    controlled = table[table["n_random"] > 0]
    for shown, prefix, name, colour in (
        (controlled, "random", "random sets", "140,140,140"),
        (table, "effect", "ablated", "31,119,180"),
    ):
        low, high = ("low", "high") if prefix == "effect" else ("random_low", "random_high")
        sizes = list(shown["size"])
        figure.add_scatter(
            x=sizes + sizes[::-1],
            y=[*(base + shown[high]), *(base + shown[low])[::-1]],
            fill="toself",
            line={"width": 0},
            fillcolor=f"rgba({colour},0.2)",
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=sizes, y=base + shown[prefix], name=name, line={"color": f"rgb({colour})"}
        )
    figure.add_hline(y=base, line={"dash": "dot", "color": "gray"}, annotation_text="unablated")
    figure.update_xaxes(type="log" if x.min() > 0 and x.max() > 16 else "linear", tickvals=x)


def _draw_bars(figure: go.Figure, table: pd.DataFrame) -> None:
    figure.add_bar(
        x=table["set"],
        y=table["effect"],
        error_y=_error(table, "effect", "low", "high"),
        name="ablated",
    )
    figure.add_scatter(
        x=table["set"],
        y=table["random"],
        error_y=_error(table, "random", "random_low", "random_high"),
        mode="markers",
        marker={"color": "gray", "symbol": "line-ew-open", "size": 12},
        name="random sets",
    )


def _error(table: pd.DataFrame, middle: str, low: str, high: str) -> dict[str, object]:
    """Asymmetric error bars; none where an interval is infinite."""
    above, below = table[high] - table[middle], table[middle] - table[low]
    finite = np.isfinite(above) & np.isfinite(below)
    return {
        "type": "data",
        "symmetric": False,
        "array": above.where(finite, 0),
        "arrayminus": below.where(finite, 0),
    }


# --- pages -------------------------------------------------------------------------------------


def ablation_page(result: "AblationResult") -> str:
    """A self-contained HTML page: of each readout the figure and the sets of largest effect."""
    title = f"{result.kind} ablation on {result.model}, {result.source}"
    parts = "".join(
        f"<h2>{html.escape(readout)}</h2>"
        f"{plot_ablation(result, readout).to_html(full_html=False, include_plotlyjs=not i)}"
        f"{result.top(15, readout).to_html(index=False, float_format=_short, border=0)}"
        for i, readout in enumerate(result.readouts)
    )
    left_out = "".join(
        f"<li>{html.escape(name)}: {html.escape(reason)}</li>"
        for name, reason in [
            *((row.id, row.reason) for row in result.excluded),
            *result.uncontrolled.items(),
        ]
    )
    command = " ".join(result.provenance.get("command", []))
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1><p>{len(result.sets)} set(s), {result.n_pairs} "
        f"pairs, {len(result.excluded)} excluded; {len(result.uncontrolled)} without a control.</p>"
        f"<p class='muted'>effect = ablated - baseline with its 95 % interval; random = the same "
        f"of matched random sets.</p>{parts}<ul>{left_out}</ul><hr>"
        f"<p class='muted'><code>{html.escape(command)}</code></p></body></html>"
    )


def _short(x: float) -> str:
    return f"{x:.3f}"
