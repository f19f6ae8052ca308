"""Figures of a study: own against other loss, random controls, and maps of head scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from circuits.recall_reasoning.designs import Ability
from interp.results.style import GREY, PALETTE, RED, label, styled, translucent, whiskers


def plot_dissociation(
    singles: Any, abilities: Sequence[Ability], margin: float, title: str, note: str = ""
) -> go.Figure:
    """Every circuit: what its own ability loses, and what the other does.

    A circuit that dissociates lies far to the right, within the grey band of `margin` around 0.
    Chosen circuits are large and carry their intervals. `singles` has a row per circuit, under one
    ablation.
    """
    figure = go.Figure()
    figure.add_hrect(
        y0=-100 * margin,
        y1=100 * margin,
        fillcolor=translucent(GREY),
        line_width=0,
        annotation_text="counts as intact",
        annotation_position="bottom right",
    )
    for ability, colour in zip(abilities, PALETTE, strict=False):
        own = singles[singles["ability"] == ability.name]
        name = f"{ability.name}: loses {'+'.join(ability.own)}, not {'+'.join(ability.others)}?"
        _points(figure, own[~own["chosen"]], colour, f"{ability.name}, other circuits", False)
        _points(figure, own[own["chosen"]], colour, name, True)
    return styled(
        figure,
        title,
        note,
        xaxis={"title": "own effect lost (% of total effect)", "zeroline": True},
        yaxis={"title": "other effect lost (%)", "zeroline": True},
        height=560,
    )


def _points(figure: go.Figure, rows: Any, colour: str, name: str, chosen: bool) -> None:
    if not len(rows):
        return
    bars = {
        axis: whiskers(*(100 * rows[f"{side}{end}"] for end in ("", "_low", "_high")))
        for axis, side in (("error_x", "own_effect"), ("error_y", "other_effect"))
        if chosen
    }
    figure.add_scatter(
        x=100 * rows["own_effect"],
        y=100 * rows["other_effect"],
        mode="markers",
        name=name,
        marker={"color": colour, "size": 13 if chosen else 6, "opacity": 1 if chosen else 0.45},
        text=[label(f"{c}, seed {s}") for c, s in zip(rows["circuit"], rows["seed"], strict=True)],
        hovertemplate="%{text}<br>own %{x:.0f} %, other %{y:.0f} %<extra></extra>",
        **bars,
    )


def plot_scores(maps: Mapping[str, Float[np.ndarray, "layer head"]], title: str) -> go.Figure:
    """A map of layer x head for each ability, of scores as fractions of the total effect."""
    figure = make_subplots(1, len(maps), subplot_titles=list(maps), shared_yaxes=True)
    largest = max(float(np.abs(values).max()) for values in maps.values())
    for column, values in enumerate(maps.values(), 1):
        figure.add_heatmap(
            z=100 * values,
            zmin=-100 * largest,
            zmax=100 * largest,
            colorbar={"title": "% of total effect"},
            showscale=column == len(maps),
            row=1,
            col=column,
            hovertemplate="layer %{y}, head %{x}: %{z:.1f} %<extra></extra>",
        )
        figure.update_xaxes(title="head", dtick=1, row=1, col=column)
        figure.update_yaxes(dtick=max(1, len(values) // 12), row=1, col=column)
    figure.update_yaxes(title="layer", row=1, col=1)
    return styled(figure, title, height=520, width=80 + 340 * len(maps), margin={"t": 90})


def plot_control(draws: Any, control: Any) -> go.Figure:
    """Selectivity (own minus other effect lost) of each chosen circuit and of its random sets."""
    figure = go.Figure()
    for ability, own in draws.groupby("ability", sort=False):
        figure.add_violin(
            x=100 * own["selectivity"],
            y=[ability] * len(own),
            orientation="h",
            points="all",
            pointpos=0,
            jitter=0.5,
            marker={"size": 3, "opacity": 0.4},
            line={"color": GREY},
            showlegend=False,
        )
    figure.add_scatter(
        x=100 * control["selectivity"],
        y=control["ability"],
        mode="markers",
        marker={"symbol": "diamond", "size": 13, "color": RED},
        name="chosen circuit, one per split seed",
    )
    n = control.groupby(["seed", "circuit"])["n_random"].sum().min() if len(control) else 0
    return styled(
        figure,
        f"Chosen circuits against {n} or more random sets of the same or nearby layers",
        xaxis={"title": "own − other effect lost (% of total)"},
        height=220 + 110 * max(1, draws["ability"].nunique()),
    )
