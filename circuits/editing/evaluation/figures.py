"""Figures and tables of a comparison of editing methods, drawn from tables of means."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuits.editing.evaluation.benchmark_metrics import BenchmarkMetric
from circuits.editing.evaluation.fact_questions import FACT_METRICS, MARGINS
from circuits.editing.evaluation.metric_definitions import COHERENT, DEFINITIONS
from interp.results.report import Part, Section, Table
from interp.results.style import GREY, PALETTE, label, styled, whiskers

AXES = ("control_two_hop", "multi_hop")
AGREEMENT = (*FACT_METRICS, "leakage_multi_hop")
"""Whether a model agrees with itself: metrics of `metric_definitions` and their margins in nats."""
NAMES = {
    "condition": "method",
    "multi_hop": "multi-hop",
    "control_two_hop": "control two-hop",
    "net_multi_hop": "net multi-hop",
    "compositionality_1": "compositionality I",
    "compositionality_2": "compositionality II",
    "kl": "divergence",
    "perplexity_ratio": "perplexity ratio",
    "position": "edited hop",
}


def plot_frontier(table: pd.DataFrame, model: str, n: int) -> go.Figure:
    """Multi-hop accuracy against control two-hop accuracy: up is used, right is unharmed.

    On the falling diagonal an edit answers as many questions that need it as it breaks that do
    not: that is where a change that spreads everywhere lies.
    """
    lines: Any = table.set_index(["condition", "metric"])
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[1, 0], mode="lines", line={"dash": "dot", "color": GREY}, name="net 0"
    )
    for i, name in enumerate(dict.fromkeys(table["condition"])):
        if not {(name, axis) for axis in AXES} <= set(lines.index):
            continue  # its cases have no such question
        x, y = (lines.loc[(name, axis)] for axis in AXES)
        figure.add_scatter(
            x=[x["value"]],
            y=[y["value"]],
            error_x=whiskers([x["value"]], [x["low"]], [x["high"]]),
            error_y=whiskers([y["value"]], [y["low"]], [y["high"]]),
            mode="markers",
            marker={"color": PALETTE[i % len(PALETTE)], "size": 16 - 3 * min(i, 3)},  # may coincide
            name=label(name),
        )
    return styled(
        figure,
        f"{model}: edits used two hops later, n = {n}",
        xaxis={"title": "control two-hop questions still right", "range": [-0.03, 1.05]},
        yaxis={"title": "multi-hop accuracy (any of three)", "range": [-0.03, 1.05]},
        height=560,
    )


def plot_metrics(table: pd.DataFrame, metrics: Sequence[str], model: str, n: int) -> go.Figure:
    """Every metric of every method, with its interval."""
    figure = go.Figure()
    for i, (name, lines) in enumerate(table.groupby("condition", sort=False)):
        own: Any = lines.set_index("metric").reindex(metrics)
        figure.add_scatter(
            x=[_name(metric) for metric in metrics],
            y=own["value"],
            error_y=whiskers(own["value"], own["low"], own["high"]),
            mode="markers",
            marker={"color": PALETTE[i % len(PALETTE)], "size": 9},
            name=label(name),
        )
    return styled(
        figure,
        f"{model}: edits, n = {n}",
        yaxis={"title": "mean over edits", "range": [-0.03, 1.05]},
        scattermode="group",
        height=480,
    )


def plot_curves(table: pd.DataFrame, title: str, value: str, bounded: bool = True) -> go.Figure:
    """A line per method over the number of edits: whole in a row, dashed in one batch."""
    figure = go.Figure()
    colours = {
        name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(table["method"]))
    }
    groups: Any = table.groupby(["method", "order"], sort=False)
    for (name, order), lines in groups:
        own = lines.sort_values("n_edits")
        figure.add_scatter(
            x=own["n_edits"],
            y=own["value"],
            error_y=whiskers(own["value"], own["low"], own["high"]),
            mode="lines+markers",
            line={"color": colours[name], "dash": "solid" if order == "row" else "dash"},
            name=label(name if order == "row" else f"{name}, batch"),
        )
    return styled(
        figure,
        title,
        xaxis={"title": "edits", "type": "log"},
        yaxis={"title": value, **({"range": [-0.03, 1.05]} if bounded else {})},
        height=460,
    )


def plot_card(table: pd.DataFrame, title: str) -> go.Figure:
    """Every metric of an edit card without and with the edit, and with the fact in the prompt."""
    lines: Any = table[table["n"] > 0].iloc[::-1]
    figure = go.Figure()
    for i, (name, symbol, color) in enumerate(
        (("unedited", "line-ns-open", GREY), ("prompt-only", "diamond-open", PALETTE[1]))
    ):
        figure.add_scatter(
            x=lines[name],
            y=lines["title"],
            mode="markers",
            marker={"symbol": symbol, "size": 13 - 4 * i, "color": color, "line": {"width": 3 - i}},
            name=name,
        )
    figure.add_scatter(
        x=lines["edited"],
        y=lines["title"],
        error_x=whiskers(lines["edited"], lines["edited_low"], lines["edited_high"]),
        mode="markers",
        marker={"size": 10, "color": PALETTE[0]},
        name="edited",
    )
    return styled(
        figure,
        title,
        xaxis={"title": "share of questions", "range": [-0.04, 1.06], "tickvals": [0, 0.5, 1]},
        legend={"yref": "paper", "y": 1.02},
        height=110 + 26 * len(lines),
    )


def best(table: pd.DataFrame) -> str:
    """Which method has the largest multi-hop accuracy, and what it costs."""
    values: Any = table.set_index(["condition", "metric"])["value"].unstack()
    if "multi_hop" not in values:
        return "These cases have no multi-hop question."
    name = values["multi_hop"].idxmax()
    right = values.reindex(columns=AXES).loc[name, "control_two_hop"]
    beside = (
        f"with {100 * right:.1f} % of the control two-hop questions still right"
        if math.isfinite(right)
        else "and no control two-hop question was asked"
    )
    return (
        f"The largest multi-hop accuracy is that of {name}: "
        f"{100 * values.loc[name, 'multi_hop']:.1f} %, {beside}."
    )


def protocol_tables(table: pd.DataFrame, definitions: Sequence[BenchmarkMetric]) -> list[Table]:
    """A table of figures per protocol, and one that says what every metric is."""
    by: dict[str, list[str]] = {}
    for one in definitions:
        by.setdefault(one.protocol, []).append(one.name)
    says = pd.DataFrame(
        [(_name(one.name), one.protocol, one.text, one.source) for one in definitions],
        columns=["metric", "protocol", "definition", "source"],
    )
    tables = [
        means_table(f"{protocol}, in %", table, ["condition"], names)
        for protocol, names in by.items()
    ]
    return [*tables, Table("What each metric is", says)]


def _name(metric: str) -> str:
    return NAMES.get(metric, metric).replace("_", " ")


def means_table(
    caption: str,
    table: pd.DataFrame,
    keys: list[str],
    metrics: Sequence[str],
    *,
    times: float = 100,
    digits: int = 1,
    note: str = "",
) -> Table:
    """One row per method (and position), one column per metric: a value and its interval."""
    rows: Any = table[table["metric"].isin(metrics)]
    cells = [
        f"{times * value:.{digits}f} {_bounds(times * low, times * high, digits)}"
        for value, low, high in zip(rows["value"], rows["low"], rows["high"], strict=True)
    ]
    wide = rows.assign(cell=cells).pivot(index=keys, columns="metric", values="cell")
    order = [key for key in dict.fromkeys(map(tuple, rows[keys].to_numpy()))]
    at = [key if len(keys) > 1 else key[0] for key in order]
    frame = wide.loc[at, [c for c in metrics if c in wide]].reset_index()
    return Table(caption, frame, note, NAMES)


def agreement(table: pd.DataFrame, unformed: Mapping[str, int]) -> Section:
    """Whether the edited models agree with themselves about the fact."""
    shares = [name for name in AGREEMENT if name not in MARGINS]
    says = [
        f"{one.title} ({one.wanted}): {one.says}." for one in map(DEFINITIONS.get, shares) if one
    ]
    parts: list[Part] = [means_table("In %", table, ["condition"], shares)]
    if set(MARGINS) & set(table["metric"]):
        margins = means_table("In nats", table, ["condition"], MARGINS, times=1, digits=2)
        parts.append(margins)
    parts.append(says)
    if unformed:
        parts.append([f"{n} not asked: {reason}." for reason, n in unformed.items()])
    return Section(COHERENT, parts)


def _bounds(low: float, high: float, digits: int) -> str:
    known = math.isfinite(low) and math.isfinite(high)
    return f"[{low:.{digits}f}, {high:.{digits}f}]" if known else "(no interval)"
