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
        for ranking, name, dash in (("absolute", "by size", "solid"), ("signed", "signed", "dash")):
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
    line, corner = {"color": GREY, "dash": "dot"}, "bottom right"
    figure.add_hline(y=1, line=line, annotation_text="full model", annotation_position=corner)
    ticks = sorted({k for table in curves.values() for k in table["k"]})
    x = {"type": "log", "title": "part of all edges kept", "tickformat": "~%", "tickvals": ticks}
    y = {"title": f"f of {metric} (0: all edges cut)"}
    title = f"Faithfulness of circuits on {model}"
    return styled(figure, title, note, height=480, xaxis=x, yaxis=y)


def plot_evaluation(summary: Mapping[str, Any], random: pd.DataFrame) -> go.Figure:
    """Faithfulness of a circuit with its 95 % interval, and of each random circuit.

    `summary` is the evaluation's; `random` has a column per kind of random circuit.
    """
    f, figure = summary["faithfulness"], go.Figure()
    points: dict[str, Any] = {"mode": "markers", "showlegend": False}
    lines = {"color": GREY, "symbol": "line-ns-open", "size": 18}
    for kind in random:
        name = f"random {kind}<br>p = {summary['random'][str(kind)]['p']:.3f}"
        figure.add_scatter(x=random[kind], y=[name] * len(random), marker=lines, **points)
    bounds = whiskers([f["value"]], [f["low"]], [f["high"]])
    points["marker"] = {"color": BLUE, "size": 12}
    figure.add_scatter(x=[f["value"]], y=["circuit"], error_x=bounds, **points)
    for at, text in ((0, "all edges cut"), (1, "full model")):
        figure.add_vline(x=at, line={"color": GREY, "dash": "dot"}, annotation_text=text)
    return styled(
        figure,
        f"{summary['circuit']} on {summary['model']}",
        f"{summary['n_edges']} of {summary['of_edges']} edges, {summary['n_pairs']} test pairs, "
        f"{summary['ablation']} ablation; 95 % interval over pairs; a line is a random circuit",
        height=220 + 60 * len(summary["random"]),
        xaxis={"title": f"faithfulness ({summary['metric']})", "zeroline": False},
    )
