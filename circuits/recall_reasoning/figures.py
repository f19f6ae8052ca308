"""Figures of a study: own against other loss, random controls, and maps of head scores."""

from collections.abc import Mapping, Sequence
from itertools import cycle
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


def plot_swaps(swaps: Any, conditions: Sequence[str], title: str) -> go.Figure:
    """A map of layer x position for each condition: the fraction of answers that follow."""
    names = [name for name in conditions if name in set(swaps["condition"])]
    figure = make_subplots(1, len(names), subplot_titles=names, shared_yaxes=True)
    for column, name in enumerate(names, 1):
        wide = swaps[swaps["condition"] == name].pivot(
            index="layer", columns="position", values="follows"
        )
        wide = wide[list(dict.fromkeys(swaps["position"]))]
        figure.add_heatmap(
            z=wide.values,
            x=[label(one) for one in wide.columns],
            y=[str(one) for one in wide.index],
            coloraxis="coloraxis",
            row=1,
            col=column,
            hovertemplate="layer %{y}, %{x}: %{z:.2f}<extra></extra>",
        )
    figure.update_yaxes(title="layer", row=1, col=1)
    colours = {"cmin": 0, "cmax": 1, "colorbar": {"title": "follow"}}
    width = 120 + 220 * len(names)
    return styled(figure, title, coloraxis=colours, height=520, width=width, margin={"t": 90})


def plot_beats(ranks: Any, title: str) -> go.Figure:
    """By depth, a line per position and lens: the fraction of other bridges that rank below."""
    figure = go.Figure()
    positions = list(dict.fromkeys(ranks["position"]))
    for (lens, position), own in ranks.groupby(["lens", "position"], sort=False):
        colour = PALETTE[positions.index(position) % len(PALETTE)]
        dash = "solid" if lens == "logit lens" else "dot"
        figure.add_scatter(
            x=own["depth"],
            y=own["beats"],
            mode="lines",
            line={"color": colour, "dash": dash},
            name=label(f"{position}, {lens}"),
        )
    figure.add_hline(y=0.5, line={"color": GREY, "dash": "dash"})
    axes = {"xaxis": {"title": "layers passed"}, "yaxis": {"title": "beats", "range": [0, 1]}}
    return styled(figure, title, "0.5: chance", height=460, **axes)


def plot_bars(table: Any, along: str, value: str, by: str, title: str) -> go.Figure:
    """Fractions with their intervals: a group of bars per text of `along`, one for each of `by`."""
    figure = go.Figure()
    for (name, own), colour in zip(table.groupby(by, sort=False), cycle(PALETTE), strict=False):
        bars = whiskers(*(own[f"{value}{end}"] for end in ("", "_low", "_high")))
        x = [label(one) for one in own[along]]
        figure.add_bar(x=x, y=own[value], name=label(name), marker_color=colour, error_y=bars)
    return styled(figure, title, barmode="group", yaxis={"range": [0, 1]}, height=520)
