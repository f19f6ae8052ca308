"""Reports of emotions: a discovery, and the arms of a comparison with their replies."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from interp.results.report import Figure, Part, Report, Section, Table, cell_text, interval
from interp.results.style import BLUE, GREY, PALETTE, label, styled, whiskers

if TYPE_CHECKING:
    from circuits.emotion.control import Control
    from circuits.emotion.discovery import Discovery

EXAMPLES = 2
SHOWN = ("unmodulated", "prompting", "steering", "circuit", "random")
"""Arms in the table of examples and confusions."""
NAMES = {
    "ratio": "perplexity ratio",
    "faulty": "with faults of form",
    "distinct_2": "distinct bigrams",
    "n_words": "words",
    "accuracy": "accuracy [95 % interval]",
    "quality": "quality [95 % interval]",
    "joint": "joint [95 % interval]",
}


def plot_arms(control: "Control") -> go.Figure:
    """Accuracy, quality and joint of every arm, with 95 % intervals over scenarios."""
    table, figure = control.table(), go.Figure()
    for name, colour in (("accuracy", BLUE), ("quality", GREY), ("joint", PALETTE[1])):
        error = whiskers(table[name], table[f"{name}_low"], table[f"{name}_high"])
        figure.add_bar(
            x=[label(arm) for arm in table["arm"]],
            y=table[name],
            error_y=error,
            name=name,
            marker={"color": colour},
        )
    n = max(int(rows) for rows in table["n"].tolist())
    chance = {"color": GREY, "dash": "dot"}
    figure.add_hline(y=1 / len(EMOTIONS), line=chance, annotation_text="chance of accuracy")
    title = f"{control.model}: {n} replies per arm, judge {control.judges[0]}"
    width = 80 + 60 * len(table)
    return styled(figure, title, yaxis={"range": [0, 1]}, height=460, width=width)


def plot_frontier(control: "Control", title: str) -> go.Figure:
    """Accuracy against quality, one point per arm; up and to the right is better."""
    table, figure = control.table(), go.Figure()
    kinds = table["arm"].map(lambda name: "steering" if str(name).startswith("steer") else "other")
    for kind, colour in (("steering", BLUE), ("other", PALETTE[1])):
        rows = table[kinds == kind]
        figure.add_scatter(
            x=rows["quality"],
            y=rows["accuracy"],
            text=[label(arm) for arm in rows["arm"]],
            mode="markers+text",
            textposition="top center",
            textfont={"size": 9},
            marker={"color": colour, "size": 9},
            name=kind,
        )
    axes: dict[str, Any] = {
        "xaxis": {"title": "quality: coherent and relevant"},
        "yaxis": {"title": "accuracy"},
    }
    return styled(figure, title, height=560, **axes)


def plot_confusion(control: "Control") -> go.Figure:
    """What the judge said of each target's replies, one map per arm."""
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
    title, colours = "target (rows) and label (columns)", {"cmin": 0, "cmax": 1}
    return styled(figure, title, coloraxis=colours, height=400, width=80 + 240 * len(arms))


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


# --- reports -----------------------------------------------------------------------------------


def control_report(control: "Control", found: "Discovery | None" = None) -> Report:
    """All arms, their replies, and where given the discovery behind them.

    Args:
        control: the comparison.
        found: the discovery that steering and circuits come from.
    """
    table, limits = control.table(), control.limits
    best = table.loc[table["joint"].idxmax()]
    lead = (
        f"The largest joint score is that of {best['arm']}: {cell_text(float(best['joint']))} "
        f"{interval(best['joint_low'], best['joint_high'])}."
    )
    n, judge = max(int(rows) for rows in table["n"].tolist()), control.judges[0]
    return Report(
        title=f"Emotion control on {control.model}",
        lead=f"{n} replies per arm, judged by {judge}. {lead}",
        sections=[
            Section("Arms", _arms(control, table, lead)),
            *_pairs(control),
            Section("What the judge answers", [_confusions(control)]),
            *_other_judges(control),
            Section("Replies side by side", _replies(control)),
            *([_discovery_section(found)] if found else []),
        ],
        method=(
            "Accuracy: the judge, which is not given the target, names it among seven labels. "
            f"Quality: the reply is coherent (no fault of form and at most {limits.ratio:g} times "
            "the perplexity of the unmodulated reply) and relevant (the event makes the reply "
            f"likelier by more than {limits.relevance:g} nats per token). Joint: all three. "
            "Intervals: 95 %, over scenarios.",
        ),
        provenance=dict(control.provenance),
    )


def _arms(control: "Control", table: pd.DataFrame, lead: str) -> list[Part]:
    arms = _marks(control)
    for name in ("neutral", "ratio", "faulty", "distinct_2", "n_words"):
        arms[name] = table[name]
    chance = f"chance of accuracy is {1 / len(EMOTIONS):.3f}"
    by_accuracy = table.loc[table["accuracy"].idxmax(), "arm"]
    says = f"Up: the emotion is found more often ({by_accuracy} most often); right: better replies."
    return [
        Figure(
            "Accuracy, quality and joint per arm", f"{lead} Dotted: {chance}.", plot_arms(control)
        ),
        Table("All arms", arms, names=NAMES),
        Figure("Accuracy against quality", says, plot_frontier(control, "Accuracy and quality")),
    ]


def _pairs(control: "Control") -> list[Section]:
    differences = control.summary()["paired"]
    rows = [
        {"difference": name, "joint": value, "low": low, "high": high}
        for name, (value, low, high) in differences.items()
    ]
    table = Table("Circuit less another arm, reply by reply", pd.DataFrame(rows))
    return [Section("Circuit against the other arms", [table])] if rows else []


def _confusions(control: "Control") -> Figure:
    shares: dict[str, float] = {}
    for arm in control.arms:
        counts = control.confusion(arm)
        shares[arm] = np.trace(counts[:, : len(EMOTIONS)]) / max(counts.sum(), 1)
    told = ", ".join(f"{arm} {cell_text(float(shares[arm]))}" for arm in SHOWN if arm in shares)
    says = f"Rows: targets; columns: labels; the diagonal is right. Part on the diagonal: {told}."
    return Figure("Labels of each target's replies", says, plot_confusion(control))


def _other_judges(control: "Control") -> list[Section]:
    tables = [
        Table(f"Judge: {judge}", _marks(control.by(judge)), names=NAMES)
        for judge in control.judges[1:]
    ]
    return [Section("Other judges", tables)] if tables else []


def _replies(control: "Control") -> list[Part]:
    note = "The first situations of the file, not chosen; ✓: joint."
    return [Table("Replies to the same events", examples(control), note)]


def discovery_report(found: "Discovery") -> Report:
    """Where emotions are read, what carries them, and their circuits."""
    section = _discovery_section(found)
    return Report(
        title=f"Emotions found in {found.model or 'a model'}",
        lead=f"{found.directions.n_groups} groups of texts in six emotions; states are read best "
        f"in layer {found.layer}.",
        sections=[section, Section("Circuits", _circuits(found))],
        method=(
            f"Styles: {', '.join(found.settings.styles)}. Directions: mean difference of an "
            "emotion's states from the mean over emotions, per text. Influence: rise of the final "
            "state along the reference direction for one unit of a nudge at a sublayer's output.",
            f"Cost: {cell_text(dict(found.cost))}.",
        ),
        provenance=found.provenance,
    )


def _discovery_section(found: "Discovery") -> Section:
    n = found.directions.resid_post.shape[1]
    layers = sorted({n // 3, found.layer, n - 1})
    at: Any = found.readings[found.readings["layer"] == found.layer].drop(columns="layer")
    best = at["accuracy"].min() if len(at) else float("nan")
    cosines = found.directions.similarity(found.layer).numpy()
    between = cosines[~np.eye(len(cosines), dtype=bool)]
    peaks = found.influence.values.mean((0, 1)).argmax(-1).tolist()
    return Section(
        "Discovery",
        [
            Figure(
                "States on the two main axes of their layer",
                "2-D PCA of last-token activations, each text's mean subtracted; one point per "
                "text and emotion. Clusters that part by colour can be told apart in that layer.",
                plot_states(found.projections, "States on the main axes of their layer"),
            ),
            Figure(
                "Accuracy of reading, layer by layer",
                f"The line marks layer {found.layer}, where every test is at least "
                f"{cell_text(float(best))} right. Dotted: chance; dashed: 95th percentile of "
                "shuffled labels.",
                plot_transfer(found.readings, "Tests that chose the reading layer", found.layer),
            ),
            Table(f"Accuracy at layer {found.layer}", at, "", {"null": "shuffled labels, 95th"}),
            Figure(
                "Cosines between directions",
                f"Blue: alike; red: opposed. In layer {found.layer} different emotions have "
                f"cosines from {cell_text(float(between.min()))} to "
                f"{cell_text(float(between.max()))}; centring alone makes their mean -0.2.",
                plot_similarity(found.directions, layers, "Cosines between directions"),
            ),
            Figure(
                "Influence of each sublayer on the final state",
                f"Mean over emotions, attention has most influence in layer {peaks[0]} and the "
                f"MLP in layer {peaks[1]}.",
                plot_influence(found.influence, "Influence of each sublayer on the final state"),
            ),
        ],
    )


def _circuits(found: "Discovery") -> list[Part]:
    parts: list[Part] = []
    for name, circuits in found.circuits.items():
        sizes = [
            {"emotion": emotion, "neurons": len(one.units("neurons"))}
            | {"heads": len(one.units("heads")), "layers": len(one.layers)}
            for emotion, one in circuits.items()
        ]
        heads = [unit for one in circuits.values() for unit in one.units("heads")]
        shared = len([unit for unit in set(heads) if heads.count(unit) == len(circuits)])
        says = (
            f"Left: neurons of each emotion by layer; right: how many emotions have a head. "
            f"{shared} of {len(set(heads))} heads are in every emotion's circuit."
        )
        parts += [
            Figure(f"Circuits: {name}", says, plot_circuits(circuits, f"Circuits: {name}")),
            Table(f"Sizes: {name}", pd.DataFrame(sizes)),
        ]
    return parts


def _marks(control: "Control") -> pd.DataFrame:
    """Accuracy, quality and joint of every arm by the first judge, with their bounds."""
    names = ("accuracy", "quality", "joint")
    bounds = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    return control.table().loc[:, ["arm", "n", *bounds]]


# --- the whole chain -----------------------------------------------------------------------------


class EmotionRun(NamedTuple):
    """What `interp emotion run` leaves: a comparison, and the discovery behind it."""

    control: "Control"
    found: "Discovery"

    def summary(self) -> dict[str, Any]:
        """The figures of the comparison."""
        return self.control.summary()


def load_run(path: Path) -> EmotionRun:
    """Read the folder of `interp emotion run`; errors as of its two parts."""
    from circuits.emotion.control import Control
    from circuits.emotion.discovery import Discovery

    return EmotionRun(Control.load(path / "control"), Discovery.load(path / "discovery"))


def run_report(run: EmotionRun) -> Report:
    """The comparison with the discovery behind it."""
    return control_report(run.control, run.found)
