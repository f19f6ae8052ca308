"""Figures and reports of edits: a comparison of methods, saved edits, and chosen layers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from circuits.editing.evaluation.metrics import DAMAGE
from interp.results.report import Figure, Part, Report, Section, Table, cell_text, excluded_counts
from interp.results.style import GREY, PALETTE, label, styled, whiskers

if TYPE_CHECKING:
    from circuits.editing.comparing import Comparison

COLUMNS = ("multi_hop", "control_two_hop", "net_multi_hop", "efficacy", "paraphrase", "specificity")
AXES = ("control_two_hop", "multi_hop")
NAMES = {
    "multi_hop": "multi-hop",
    "control_two_hop": "control two-hop",
    "net_multi_hop": "net multi-hop",
    "kl": "divergence",
    "perplexity": "perplexity ratio",
    "position": "edited hop",
}


def plot_frontier(result: "Comparison") -> go.Figure:
    """Multi-hop accuracy against control two-hop accuracy: up is used, right is unharmed.

    On the falling diagonal an edit answers as many questions that need it as it breaks that do
    not: that is where a change that spreads everywhere lies.
    """
    table: Any = result.table().set_index(["arm", "metric"])
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[1, 0], mode="lines", line={"dash": "dot", "color": GREY}, name="net 0"
    )
    for i, arm in enumerate(result.arms):
        if not {(arm, name) for name in AXES} <= set(table.index):
            continue  # its cases have no such question
        x, y = (table.loc[(arm, name)] for name in AXES)
        figure.add_scatter(
            x=[x["value"]],
            y=[y["value"]],
            error_x=_whiskers(x),
            error_y=_whiskers(y),
            mode="markers+text",
            text=[label(arm)],
            textposition="top center",
            marker={"color": PALETTE[i % len(PALETTE)], "size": 9},
            name=arm,
            showlegend=False,
        )
    n = result.summary()["n_filtered"]
    return styled(
        figure,
        f"{result.model}: edits used two hops later, n = {n}",
        xaxis={"title": "control two-hop questions still right", "range": [-0.03, 1.05]},
        yaxis={"title": "multi-hop accuracy (any of three)", "range": [-0.03, 1.05]},
        height=560,
    )


def _whiskers(line: Any) -> dict[str, Any]:
    return whiskers([line["value"]], [line["low"]], [line["high"]])


# --- a comparison ------------------------------------------------------------------------------


def comparison_report(result: "Comparison") -> Report:
    """The frontier, the tables, and what was left out."""
    said = result.summary()
    lead = _best(result)
    how = (
        "the edits made one on top of the other, all questions asked after the last"
        if result.options["sequential"]
        else "each edited on its own, asked under its own edit"
    )
    drawn = Figure(
        "Edits used two hops later",
        "Up: more multi-hop questions answered by the edit; right: fewer others broken. On the "
        f"dotted line an edit gains as much as it breaks. {lead}",
        plot_frontier(result),
    )
    all_cases = Table("All cases, in %", _wide(result.table(), ["arm"]), names=NAMES)
    by_hop = _wide(result.table(["position"]), ["arm", "position"])
    return Report(
        title=f"Edits compared: {result.model}",
        lead=f"{said['n_filtered']} of {said['n_cases']} cases of {result.source}; {how}. {lead}",
        sections=[
            Section("Accuracy", [drawn, all_cases]),
            Section("By the position of the edited hop", [Table("In %", by_hop, names=NAMES)]),
            Section("Other text", _damage(result)),
            *([result.placement.section()] if result.placement else []),
        ],
        method=(
            "Brackets are 95 % bootstrap intervals over clusters of cases; one cluster alone has "
            "no interval. A method with + gets the two-hop prompts and preserved questions that "
            "ace gets.",
            f"Settings: {cell_text({k: v for k, v in result.options.items() if k != 'prefix'})}. "
            f"{result.seconds:.0f} s in all.",
        ),
        excluded=excluded_counts(said["excluded"]),
        provenance=result.provenance | {"weights": result.weights_hash},
    )


def _best(result: "Comparison") -> str:
    """Which method has the largest multi-hop accuracy, and what it costs."""
    table: Any = result.table().set_index(["arm", "metric"])["value"].unstack()
    if "multi_hop" not in table:
        return "These cases have no multi-hop question."
    best = table["multi_hop"].idxmax()
    kept = table.reindex(columns=AXES).loc[best, "control_two_hop"]
    beside = (
        f"with {100 * kept:.1f} % of the control two-hop questions still right"
        if math.isfinite(kept)
        else "and no control two-hop question was asked"
    )
    return (
        f"The largest multi-hop accuracy is that of {best}: "
        f"{100 * table.loc[best, 'multi_hop']:.1f} %, {beside}."
    )


def _damage(result: "Comparison") -> list[Part]:
    note = (
        "Fluency: n-gram entropy of what is generated after the edited cloze, in bits. On neutral "
        "text: divergence from the unedited model, in nats per token, and perplexity over the "
        "unedited model's."
    )
    frame = _wide(result.table(), ["arm"], DAMAGE, 1, 3)
    return [Table("Text beside the questions", frame, note, NAMES)]


def _wide(
    table: pd.DataFrame,
    keys: list[str],
    columns: Sequence[str] = COLUMNS,
    times: float = 100,
    digits: int = 1,
) -> pd.DataFrame:
    """One row per method (and position), one column per metric: a value and its interval."""
    rows: Any = table[table["metric"].isin(columns)]
    cells = [
        f"{times * value:.{digits}f} {_bounds(times * low, times * high, digits)}"
        for value, low, high in zip(rows["value"], rows["low"], rows["high"], strict=True)
    ]
    wide = rows.assign(cell=cells).pivot(index=keys, columns="metric", values="cell")
    order = [key for key in dict.fromkeys(map(tuple, rows[keys].to_numpy()))]
    at = [key if len(keys) > 1 else key[0] for key in order]
    return wide.loc[at, [c for c in columns if c in wide]].reset_index()


def _bounds(low: float, high: float, digits: int) -> str:
    known = math.isfinite(low) and math.isfinite(high)
    return f"[{low:.{digits}f}, {high:.{digits}f}]" if known else "(no interval)"
