"""The look of all figures: one plotly template, light and dark, and the colours they share."""

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

BLUE, RED, GREY = "#3b7dd8", "#d6453d", "#7a828c"
PALETTE = (BLUE, "#c8701a", "#2e9460", "#9b6bd0", "#1f95a5", "#d0559a", "#8a8a1f")
"""Colours of traces: each reads on white and on the dark paper (contrast of 3 and more)."""
FOR, AGAINST = BLUE, RED
"""What raises the metric, towards the clean answer; what lowers it. Everywhere the same."""
AXIS_NAMES = {
    "layer": "layer",
    "pos": "token",
    "span": "position",
    "head": "head",
    "neuron": "neuron group",
    "expert": "expert",
}
"""Titles of the axes of sweeps and scores."""


@dataclass(frozen=True)
class Scheme:
    """Colours of background, text and grid lines, and of the ends and middle of colour scales."""

    paper: str
    ink: str
    line: str
    against: str
    nothing: str
    support: str


SCHEMES = {
    "light": Scheme("#ffffff", "#1f2328", "#dfe3e8", "#b2182b", "#f7f7f7", "#2166ac"),
    "dark": Scheme("#14171c", "#e6e9ee", "#343b45", "#f0806a", "#23282f", "#74b3f0"),
}


def template(scheme: Scheme) -> go.layout.Template:
    """The plotly template of a scheme: heatmaps diverge, those on a `coloraxis` do not."""
    sequential = [(0.0, scheme.nothing), (1.0, scheme.support)]
    diverging = [(0.0, scheme.against), (0.5, scheme.nothing), (1.0, scheme.support)]
    lines = dict.fromkeys(("gridcolor", "linecolor", "zerolinecolor"), scheme.line)
    axis: dict[str, Any] = {**lines, "automargin": True}
    return go.layout.Template(
        layout={
            "paper_bgcolor": scheme.paper,
            "plot_bgcolor": scheme.paper,
            "font": {"color": scheme.ink, "size": 13, "family": "system-ui, sans-serif"},
            "colorway": list(PALETTE),
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"t": 80, "r": 30, "b": 60, "l": 60},
            "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0},
            "hoverlabel": {"bgcolor": scheme.paper, "font": {"color": scheme.ink}},
            "coloraxis": {"colorscale": sequential, "autocolorscale": False},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": scheme.ink},
        },
        data={
            "heatmap": [{"colorscale": diverging, "autocolorscale": False}],
            "bar": [{"error_y": {"color": scheme.ink}}],
        },
    )


pio.templates["interp"] = template(SCHEMES["light"])


def styled(figure: go.Figure, title: str, note: str = "", **layout: Any) -> go.Figure:
    """Give a figure the shared look, a title, a smaller second line, and whatever else it needs."""
    head = html.escape(title) + (f"<br><sup>{html.escape(note)}</sup>" if note else "")
    return figure.update_layout(title=head, template="interp", **layout)


def label(text: object) -> str:
    """A text for a tick, a trace or a pointer, where plotly would read tags."""
    return html.escape(str(text), quote=False)


def translucent(colour: str) -> str:
    """A ``#rrggbb`` colour as a see-through one."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"


def add_band(
    figure: go.Figure, x: Any, low: Any, high: Any, colour: str, name: str | None = None, **at: Any
) -> None:
    """Shade an interval along a curve of that colour; nothing where a bound is not finite.

    Without a `name` it is not listed in the legend; `at` is the ``row`` and ``col`` of a panel.
    """
    low, high, places = (np.asarray(values) for values in (low, high, x))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return
    figure.add_scatter(
        x=[*places, *places[::-1]],
        y=[*high, *low[::-1]],
        mode="lines",
        fill="toself",
        line={"width": 0},
        fillcolor=translucent(colour),
        name=name,
        showlegend=name is not None,
        hoverinfo="skip",
        **at,
    )


def whiskers(value: Any, low: Any, high: Any) -> dict[str, Any]:
    """Asymmetric error bars; none where a bound is not finite."""
    value, low, high = (np.asarray(one, dtype=float) for one in (value, low, high))
    above, below = high - value, value - low
    finite = np.isfinite(above) & np.isfinite(below)
    bars = {"array": np.where(finite, above, 0), "arrayminus": np.where(finite, below, 0)}
    return {"type": "data", "symmetric": False, "thickness": 1.2, **bars}
