"""Figures and the report page of a comparison of editing methods."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from circuits.editing.evaluation.metrics import DAMAGE
from circuits.editing.methods import Placement
from interp.figures import STYLE

if TYPE_CHECKING:
    from circuits.editing.comparing import Comparison

COLUMNS = ("multi_hop", "control_two_hop", "net_multi_hop", "efficacy", "paraphrase", "specificity")


def plot_frontier(result: "Comparison") -> go.Figure:
    """Multi-hop accuracy against control two-hop accuracy: up is used, right is unharmed.

    On the falling diagonal an edit answers as many questions that need it as it breaks that do
    not: that is where a change that spreads everywhere lies.
    """
    table: Any = result.table().set_index(["arm", "metric"])
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[1, 0], mode="lines", line={"dash": "dot", "color": "#999"}, name="net 0"
    )
    for arm in result.arms:
        x, y = (table.loc[(arm, m)] for m in ("control_two_hop", "multi_hop"))
        figure.add_scatter(
            x=[x["value"]],
            y=[y["value"]],
            error_x=_whiskers(x),
            error_y=_whiskers(y),
            mode="markers+text",
            text=[arm],
            textposition="top center",
            name=arm,
            showlegend=False,
        )
    n = result.summary()["n_filtered"]
    return figure.update_layout(
        template="simple_white",
        title=f"{result.model}: edits used two hops later, n = {n}",
        xaxis={"title": "control two-hop questions still right", "range": [-0.03, 1.05]},
        yaxis={"title": "multi-hop accuracy (any of three)", "range": [-0.03, 1.05]},
        width=760,
        height=560,
    )


def plot_separation(placement: Placement, model: str) -> go.Figure:
    """How well each deep layer's gains tell a fact's questions from others, and what was chosen."""
    layers = list(placement.separation)
    chosen = [layer in placement.value for layer in layers]
    figure = go.Figure()
    for name, colour, mine in (("value layers", "#c44", True), ("others", "#999", False)):
        at = [layer for layer, one in zip(layers, chosen, strict=True) if one is mine]
        y = [placement.separation[layer] for layer in at]
        figure.add_bar(x=at, y=y, name=name, marker={"color": colour})
    return figure.update_layout(
        template="simple_white",
        title=f"{model}: which layer knows a fact's questions from others",
        xaxis={"title": "layer", "dtick": 1},
        yaxis={"title": "separation (AUROC; .5 is chance)", "range": [0.5, 1]},
        width=760,
        height=380,
    )


def _whiskers(line: Any) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [line["high"] - line["value"]],
        "arrayminus": [line["value"] - line["low"]],
        "thickness": 1,
    }


def page(result: "Comparison") -> str:
    """A page of its own: the frontier, the table, the table by position, and what was left out."""
    said = result.summary()
    figure = plot_frontier(result).to_html(full_html=False, include_plotlyjs=True)
    excluded = "".join(f"<li>{n}: {html.escape(why)}</li>" for why, n in said["excluded"].items())
    by_position = _wide(result.table(["position"]), ["arm", "position"])
    attribution = _attribution(result)
    at = result.placement
    placed = "none of the ACE family"
    if at is not None:
        placed = f"queries in {list(at.query)}, values in {list(at.value)} ({html.escape(at.by)})"
    piled = result.options["sequential"]
    how = (
        "the edits made one on top of the other, all questions asked after the last"
        if piled
        else "each edited on its own, asked under its own edit"
    )
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>{html.escape(result.model)}: edits compared</title><style>{STYLE}</style></head><body>
<h1>Edits compared: {html.escape(result.model)}</h1>
<p>{said["n_filtered"]} of {said["n_cases"]} cases of {html.escape(result.source)}; {how}. Brackets
are 95 % bootstrap intervals over clusters of cases.</p>
{figure}
<h2>All cases</h2>{_wide(result.table(), ["arm"])}
<h2>By the position of the edited hop</h2>{by_position}
<h2>Other text</h2>
<p>Fluency: n-gram entropy of what is written on from the edited cloze, in bits. On neutral text:
divergence from the plain model, nats a token, and perplexity over the plain model's.</p>
{_wide(result.table(), ["arm"], DAMAGE, 1, 3)}
{attribution}
<h2>Left out</h2><ul>{excluded or "<li>nothing</li>"}</ul>
<p>Layers: {placed}. {result.seconds:.0f} s in all.</p></body></html>"""


def _attribution(result: "Comparison") -> str:
    """The picture of what chose the layers, where that is known."""
    at = result.placement
    if at is None or not at.separation:
        return ""
    figure = plot_separation(at, result.model).to_html(full_html=False, include_plotlyjs=False)
    return f"<h2>Why these layers</h2>{figure}"


def _wide(
    table: pd.DataFrame,
    keys: list[str],
    columns: Sequence[str] = COLUMNS,
    times: float = 100,
    digits: int = 1,
) -> str:
    shown: Any = table[table["metric"].isin(columns)]
    cells = [
        f"{times * v:.{digits}f} [{times * a:.{digits}f}, {times * b:.{digits}f}]"
        for v, a, b in zip(shown["value"], shown["low"], shown["high"], strict=True)
    ]
    wide = shown.assign(cell=cells).pivot(index=keys, columns="metric", values="cell")
    order = [key for key in dict.fromkeys(map(tuple, shown[keys].to_numpy()))]
    rows = [key if len(keys) > 1 else key[0] for key in order]
    return wide.loc[rows, [c for c in columns if c in wide]].to_html(border=0, na_rep="–")
