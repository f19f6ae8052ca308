"""Figures of faithfulness: of one circuit beside random ones, and against circuit size."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp.results.style import BLUE, GREY, PALETTE, styled, whiskers


def plot_faithfulness(
    curves: Mapping[str, pd.DataFrame], model: str, metric: str, note: str
) -> go.Figure:
    """Faithfulness against the part of edges kept, both rankings of each method.

    `curves` has, by method, a table of ``ranking``, ``k``, ``n_edges`` and ``f``.
    """
    figure = go.Figure()
    for (method, table), colour in zip(curves.items(), PALETTE * len(curves), strict=False):
        by_ranking = dict(iter(table.groupby("ranking")))
        for ranking, name, dash in (
            ("absolute", "by size", "solid"),
            ("signed", "signed", "dash"),
        ):
            curve = by_ranking[ranking]
            figure.add_scatter(
                x=curve["k"],
                y=curve["f"],
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                customdata=curve["n_edges"],
                hovertemplate="%{customdata} edges: f = %{y:.3f}<extra></extra>",
                name=f"{method}, {name}",
            )
    figure.add_hline(
        y=1,
        line={"color": GREY, "dash": "dot"},
        annotation_text="full model",
        annotation_position="bottom right",
    )
    ticks = sorted({k for table in curves.values() for k in table["k"]})
    return styled(
        figure,
        f"Faithfulness of circuits on {model}",
        note,
        height=480,
        xaxis={
            "type": "log",
            "title": "part of all edges kept",
            "tickformat": "~%",
            "tickvals": ticks,
        },
        yaxis={"title": f"f of {metric} (0: all edges cut)"},
    )


def plot_evaluation(
    said: Mapping[str, Any], p: Mapping[str, float], random: pd.DataFrame
) -> go.Figure:
    """Faithfulness of a circuit with its 95 % interval, and of each random circuit.

    Args:
        said: ``faithfulness`` (value, low, high), ``circuit``, ``model``, ``metric``, ``ablation``,
            ``n_edges``, ``of_edges`` and ``n_pairs``.
        p: of each kind of random circuit.
        random: their faithfulness, a column per kind.
    """
    f, figure = said["faithfulness"], go.Figure()
    for kind in random:
        figure.add_scatter(
            x=random[kind],
            y=[f"random {kind}<br>p = {p[str(kind)]:.3f}"] * len(random),
            mode="markers",
            marker={"color": GREY, "symbol": "line-ns-open", "size": 18},
            showlegend=False,
        )
    figure.add_scatter(
        x=[f["value"]],
        y=["circuit"],
        error_x=whiskers([f["value"]], [f["low"]], [f["high"]]),
        mode="markers",
        marker={"color": BLUE, "size": 12},
        showlegend=False,
    )
    for at, text in ((0, "all edges cut"), (1, "full model")):
        figure.add_vline(x=at, line={"color": GREY, "dash": "dot"}, annotation_text=text)
    return styled(
        figure,
        f"{said['circuit']} on {said['model']}",
        f"{said['n_edges']} of {said['of_edges']} edges, {said['n_pairs']} test pairs, "
        f"{said['ablation']} ablation; 95 % interval over pairs; a line is a random circuit",
        height=220 + 60 * len(p),
        xaxis={"title": f"faithfulness ({said['metric']})", "zeroline": False},
    )
