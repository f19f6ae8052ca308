"""Figures of faithfulness against random circuits and size, and of the stability of circuits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
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


def plot_inclusion(edges: pd.DataFrame, n: int, threshold: float, note: str) -> go.Figure:
    """Inclusion of edges, largest first: a step from 1 to 0 at `n` would be perfectly stable.

    `edges` has a column of inclusion per source of variation: ``prompts``, ``groups``, ``methods``.
    """
    figure, most = go.Figure(), 3 * n
    for name in (c for c in ("prompts", "groups", "methods") if c in edges):
        held = np.sort(edges[name].to_numpy(float))[::-1][:most]
        x = np.arange(1, len(held) + 1)
        figure.add_scatter(x=x, y=held, mode="lines", line={"shape": "hv"}, name=f"over {name}")
    figure.add_hline(y=threshold, line={"color": GREY, "dash": "dot"}, annotation_text="threshold")
    figure.add_vline(x=n, line={"color": GREY, "dash": "dot"}, annotation_text=f"top {n}")
    x_axis, y_axis = {"title": "edges, by inclusion"}, {"title": "inclusion", "range": [0, 1.05]}
    return styled(figure, f"Inclusion among the top {n} edges", note, xaxis=x_axis, yaxis=y_axis)


def plot_agreement(agreement: pd.DataFrame, chance: float, note: str) -> go.Figure:
    """Agreement of two disjoint samples against their size; bars: central 95 % of the draws."""
    figure = go.Figure()
    names = {"edges": "top edges", "nodes": "top nodes", "rank_correlation": "rank correlation"}
    for name, text in names.items():
        value = agreement[name]
        bars = whiskers(value, agreement[f"{name}_low"], agreement[f"{name}_high"])
        figure.add_scatter(x=agreement["n_pairs"], y=value, error_y=bars, name=text)
    line = {"color": GREY, "dash": "dot"}
    figure.add_hline(y=chance, line=line, annotation_text="edges by chance")
    axes = {"xaxis": {"title": "pairs in each sample"}, "yaxis": {"title": "agreement"}}
    return styled(figure, "Agreement of disjoint samples of prompts", note, **axes)


def plot_transfer(table: pd.DataFrame, note: str) -> go.Figure:
    """Faithfulness of each group's circuit on each group's test pairs, as a heatmap.

    `table` has ``circuit``, ``tested on``, ``f`` and ``pairs``.
    """
    by = {name: list(dict.fromkeys(table[name])) for name in ("circuit", "tested on")}
    f, pairs = (
        table.pivot(index="circuit", columns="tested on", values=name).loc[
            by["circuit"], by["tested on"]
        ]
        for name in ("f", "pairs")
    )
    figure = go.Figure(
        go.Heatmap(
            z=f.to_numpy(float),
            x=by["tested on"],
            y=by["circuit"],
            customdata=pairs.to_numpy(),
            hovertemplate="%{y} on %{x}: f = %{z:.3f} (%{customdata} pairs)<extra></extra>",
            coloraxis="coloraxis",
        )
    )
    axes = {"xaxis": {"title": "test pairs of"}, "yaxis": {"title": "circuit of"}}
    height = 240 + 24 * len(by["circuit"])
    bar = {"coloraxis": {"cmin": 0, "cmax": 1, "colorbar": {"title": "f"}}}
    return styled(figure, "Faithfulness across groups", note, height=height, **axes, **bar)
