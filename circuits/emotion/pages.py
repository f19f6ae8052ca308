"""The report page of a comparison: arms, curves, confusions, examples, and the discovery behind."""

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.emotion.data import EMOTIONS, LABELS
from circuits.emotion.figures import (
    plot_circuits,
    plot_influence,
    plot_similarity,
    plot_states,
    plot_transfer,
)
from circuits.emotion.quality import uncoarse
from interp.figures import STYLE

if TYPE_CHECKING:
    from circuits.emotion.control import Control
    from circuits.emotion.discovery import Discovery

EXAMPLES = 2
SHOWN = ("unmodulated", "prompting", "steering", "circuit", "random")
"""Arms in the table of examples and confusions."""
LOOK: dict[str, Any] = {"template": "plotly_white", "font": {"size": 13}, "margin": {"t": 70}}


def plot_arms(control: "Control") -> go.Figure:
    """Accuracy, quality and joint of every arm, with 95 % intervals over scenarios."""
    table, figure = control.table(), go.Figure()
    for name, colour in (("accuracy", "#1f77b4"), ("quality", "#bbbbbb"), ("joint", "#d95f02")):
        error = {
            "type": "data",
            "array": table[f"{name}_high"] - table[name],
            "arrayminus": table[name] - table[f"{name}_low"],
        }
        figure.add_bar(
            x=table["arm"], y=table[name], error_y=error, name=name, marker={"color": colour}
        )
    n = max(int(rows) for rows in table["n"].tolist())
    figure.add_hline(y=1 / len(EMOTIONS), line_dash="dot", annotation_text="chance of accuracy")
    title = f"{html.escape(control.model)}: {n} replies an arm, judge {control.judges[0]}"
    return figure.update_layout(title=title, yaxis={"range": [0, 1]}, height=460, **LOOK)


def plot_frontier(control: "Control", title: str) -> go.Figure:
    """Accuracy against quality, a point an arm; up and to the right is better."""
    table, figure = control.table(), go.Figure()
    kinds = table["arm"].map(lambda name: "steering" if str(name).startswith("steer") else "other")
    for kind, colour in (("steering", "#1f77b4"), ("other", "#d95f02")):
        rows = table[kinds == kind]
        figure.add_scatter(
            x=rows["quality"],
            y=rows["accuracy"],
            text=rows["arm"],
            mode="markers+text",
            textposition="top center",
            textfont={"size": 9},
            marker={"color": colour, "size": 9},
            name=kind,
        )
    axes = {"xaxis": {"title": "quality: coherent and relevant"}, "yaxis": {"title": "accuracy"}}
    return figure.update_layout(title=title, height=560, **axes, **LOOK)


def plot_confusion(control: "Control") -> go.Figure:
    """What the judge said of each target's replies, a map an arm."""
    arms = [arm for arm in SHOWN if arm in control.arms]
    figure = make_subplots(1, len(arms), subplot_titles=arms, shared_yaxes=True)
    for column, arm in enumerate(arms, 1):
        counts = control.confusion(arm)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        figure.add_heatmap(
            z=share,
            x=list(LABELS),
            y=list(EMOTIONS),
            texttemplate="%{z:.2f}",
            textfont={"size": 9},
            coloraxis="coloraxis",
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    colours = {"colorscale": "Blues", "cmin": 0, "cmax": 1}
    return figure.update_layout(
        title="target (rows) and label (columns)", coloraxis=colours, height=380, **LOOK
    )


def examples(control: "Control", n: int = EXAMPLES) -> pd.DataFrame:
    """Replies of the main arms side by side, the first situations of the file, in every emotion.

    They are not chosen: a row shows whatever the arms said, but for coarse and hateful replies.
    """
    arms = [arm for arm in SHOWN if arm in control.arms]
    tables: dict[str, Any] = {arm: control.of(arm) for arm in arms}
    first = list(dict.fromkeys(tables[arms[0]].sort_values("place")["situation"]))[:n]
    rows: list[dict[str, str]] = []
    for situation in first:
        for emotion in EMOTIONS:
            row: dict[str, str] = {"emotion": emotion}
            for arm, table in tables.items():
                one = table[(table["situation"] == situation) & (table["emotion"] == emotion)]
                row = {"text": str(one["text"].iloc[0])} | row
                mark = " ✓" if bool(one["joint"].iloc[0]) else ""
                row[arm] = uncoarse(str(one["reply"].iloc[0])) + mark
            rows.append(row)
    return pd.DataFrame(rows)


def control_page(control: "Control", found: "Discovery | None" = None) -> str:
    """A self-contained HTML page: no network is needed to read it."""
    figures = [plot_arms(control), plot_frontier(control, "Accuracy and quality"),
               plot_confusion(control)]  # fmt: skip
    figures += discovery_figures(found) if found else []
    drawn = [f.to_html(full_html=False, include_plotlyjs=i == 0) for i, f in enumerate(figures)]
    table, arms = control.table(), _marks(control)
    for name in ("neutral", "ratio", "faulty", "distinct_2", "n_words"):
        arms[name] = table[name]
    differences = control.summary()["paired"]
    paired = pd.DataFrame({"difference": list(differences)}).assign(
        joint=[_span(*found) for found in differences.values()]
    )
    by_judge = [
        f"<h3>Judge: {html.escape(judge)}</h3>{_table(_marks(control.by(judge)))}"
        for judge in control.judges[1:]
    ]
    limits = control.limits
    said = (
        "Expressed: the judge, which is not told the target, names it among seven labels. "
        f"Coherent: no fault of form and at most {limits.ratio:g} times the perplexity of the "
        "unmodulated reply. Relevant: the event makes the reply likelier by more than "
        f"{limits.relevance:g} nats a token. Joint: all three. Intervals: 95 %, over scenarios."
    )
    return _page(
        f"Emotion control on {control.model}",
        f"<p class='muted'>{said}</p>{drawn[0]}{_table(arms)}"
        f"<h2>Circuit against the other arms, joint, paired</h2>{_table(paired)}"
        f"{drawn[1]}{drawn[2]}<h2>Other judges</h2>{''.join(by_judge)}"
        f"<h2>Replies side by side</h2><p class='muted'>✓: joint.</p>{_table(examples(control))}"
        f"<h2>Discovery</h2>{''.join(drawn[3:])}",
        dict(control.provenance),
    )


def discovery_page(found: "Discovery", model: str) -> str:
    """A discovery as a self-contained HTML page."""
    figures = discovery_figures(found)
    drawn = [f.to_html(full_html=False, include_plotlyjs=i == 0) for i, f in enumerate(figures)]
    return _page(f"Emotions found in {model}", "".join(drawn), {})


def discovery_figures(found: "Discovery") -> list[go.Figure]:
    """States and readings by layer, similarity of directions, influence, and circuits."""
    n = found.directions.resid_post.shape[1]
    layers = sorted({n // 3, found.layer, n - 1})
    return [
        plot_states(
            found.projections,
            "States of discovery texts, less their text's mean, on the main axes of their layer",
        ),
        plot_transfer(found.readings, "Tests that chose the reading layer", found.layer),
        plot_similarity(found.directions, layers, "Cosines between directions"),
        plot_influence(found.influence, "Influence of each sublayer on the final state"),
        *(
            plot_circuits(circuits, f"Circuits: {name}")
            for name, circuits in found.circuits.items()
        ),
    ]


def _marks(control: "Control") -> pd.DataFrame:
    """Every arm's marks by the first judge, each as value [low, high]."""
    table = control.table()
    out = table.loc[:, ["arm", "n"]]
    for name in ("accuracy", "quality", "joint"):
        bounds = (table[column].tolist() for column in (name, f"{name}_low", f"{name}_high"))
        out[name] = [_span(*row) for row in zip(*bounds, strict=True)]
    return out


def _span(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _table(table: pd.DataFrame) -> str:
    return table.to_html(index=False, float_format=lambda x: f"{x:.3f}", border=0)


def _page(title: str, body: str, made: dict[str, Any]) -> str:
    note = f"{made.get('made', '')} {' '.join(made.get('command', []))}"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}<hr>"
        f"<p class='muted'>{html.escape(note)}</p></body></html>"
    )
