"""`EditCard`: what a person reads before trusting an edit."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from circuits.editing.evaluation.card_questions import SHIPPED
from circuits.editing.evaluation.fact_questions import PAIRED
from circuits.editing.evaluation.figures import plot_card
from circuits.editing.evaluation.metric_definitions import (
    ABILITIES,
    ABILITY,
    ABLE,
    CONDITIONS,
    DEFINITIONS,
    EDITED,
    GROUPS,
    IN_PROMPT,
    UNEDITED,
    MetricDefinition,
)
from circuits.editing.evaluation.multihop_metrics import SPECIFICITY
from interp.brief import brief
from interp.results.report import NONE, Figure, Report, Section, Table, excluded_counts
from interp.results.result import Result
from interp.statistics import bootstrap_mean, wilson

if TYPE_CHECKING:
    import plotly.graph_objects as go

SMALLEST = 5
"""Questions from which an interval is given."""
HALF, LOSS, LOSS_TWO_HOP, PERPLEXITY = 0.5, 0.15, 0.20, 1.05
"""What holds: at least half of the questions of what is wanted high; of what is to stay, a loss of
at most .15, of two-hop questions .20 (the criteria of docs/results/editing.md); perplexity."""
YES, NO, UNKNOWN = "yes", "no", "cannot tell"
JUDGED_BY = {
    "negation": ("negation_shift",),
    **{name: (name,) for name in ("negation_shift", "fact_check", "reversal_shift")},
    **dict.fromkeys(("affirms_new", "denies_old"), ("affirms_new", "denies_old")),
}
"""Metrics that are mirrored before the edit: where the unedited model is not right about its own
fact in at least half of the questions of all these, the edited one cannot be judged by them."""


@brief
@dataclass(frozen=True)
class EditCard(Result):
    """What became of a model by one edit; `card_measurement.card` measures it.

    Attributes:
        rows: every question under every condition (`fact_questions.COLUMNS` and ``condition``).
        drift: by window of neutral text, divergence in nats per token, and the mean negative
            log-likelihood's rise.
        old: the object of each fact before the edit, and whose word it is.
        missing: questions that could not be formed, or were not known before, by reason.
        cost: seconds, rank, bytes, matrices.
    """

    KIND = "edit card"

    rows: pd.DataFrame = field(repr=False)
    drift: pd.DataFrame = field(repr=False)
    edit: str
    method: str
    model: str
    weights_hash: str
    facts: tuple[str, ...]
    old: tuple[str, ...]
    given: bool
    missing: dict[str, int] = field(repr=False)
    cost: dict[str, float]
    seconds: float

    def table(self) -> pd.DataFrame:
        """A line per metric, in the order of `metric_definitions.GROUPS`.

        Columns: ``group``, ``metric``, ``title``, ``wanted``, ``n`` questions, the shares of hits
        by condition, the edited one's 95 % Wilson interval, and ``verdict``.
        """
        hits: Any = self.rows.assign(hit=self.rows["hit"].astype(float))
        pooled = hits[hits["kind"].isin(SPECIFICITY)].assign(kind="specificity")
        by_kind: Any = pd.concat([hits, pooled]).groupby(["kind", "condition"])["hit"]
        n, k = by_kind.count().unstack(), by_kind.sum().unstack()
        named = {name: (group, one) for group, own in GROUPS.items() for name, one in own.items()}
        named |= {
            name: (ABLE, replace(ABILITY, title=name.replace("_", " "))) for name in ABILITIES
        }
        lines = [
            {"group": group, "metric": name, "title": one.title, "wanted": one.wanted}
            | _shares(n, k, name)
            for name, (group, one) in named.items()
        ]
        table = pd.DataFrame(lines)
        at = table.set_index("metric")
        return table.assign(verdict=[_verdict(at, name) for name in table["metric"]])

    @property
    def perplexity(self) -> tuple[float, float, float]:
        """Perplexity on neutral text over the unedited model's, with its interval."""
        found = bootstrap_mean(self.drift["nll"].to_numpy(float))
        value, low, high = (float(np.exp(x)) for x in found)
        return value, low, high

    @property
    def divergence(self) -> tuple[float, float, float]:
        """Divergence from the unedited model on neutral text, in nats per token, with interval."""
        value, low, high = map(float, bootstrap_mean(self.drift["kl"].to_numpy(float)))
        return value, low, high

    def verdict(self) -> str:
        """A reader's questions, each answered in a word, with what fails and what cannot tell."""
        table: Any = self.table()
        parts: list[str] = []
        for group, lines in table.groupby("group", sort=False):
            named = {v: list(lines[lines["verdict"] == v]["title"]) for v in (YES, NO, UNKNOWN)}
            if named[NO]:
                answer = f"No: {', '.join(named[NO])}"
            else:
                answer = "Yes" if named[YES] else "Cannot tell"
            n = len(named[UNKNOWN])
            some = f" ({n} of {len(lines)} cannot tell)" if n and answer != "Cannot tell" else ""
            parts.append(f"{group} {answer}{some}.")
        if self.perplexity[0] > PERPLEXITY:
            parts.append(f"Neutral text is {self.perplexity[0]:.2f} times as perplexing.")
        failed = table.set_index("metric").loc["efficacy", "verdict"] == NO
        return ("Do not use this edit. " if failed else "") + " ".join(parts)

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        keys = ("n", *CONDITIONS, "edited_low", "edited_high", "wanted", "verdict")
        lines: Any = self.table().set_index("metric")
        return {
            "kind": self.KIND,
            **self.named("edit", "method", "model"),
            "facts": list(self.facts),
            "old": list(self.old),
            "verdict": self.verdict(),
            "metrics": {name: {key: line[key] for key in keys} for name, line in lines.iterrows()},
            "kl": list(self.divergence),
            "perplexity_ratio": list(self.perplexity),
            "cost": self.cost,
            "left_out": self.missing,
            "seconds": round(self.seconds, 1),
        }

    def plot(self) -> "go.Figure":
        """Every metric before and after."""
        return plot_card(self.table(), f"{self.model}: {'; '.join(self.facts)}")

    def report(self) -> Report:
        """The page: verdict, figure, tables with their definitions, and what was asked."""
        table = self.table()
        whose = "as given" if self.given else "what the unedited model says"
        unknown = list(table[table["verdict"] == UNKNOWN]["title"])
        sections = [Section("At a glance", [Figure("Before and after", SAYS, self.plot())])]
        for group, lines in table.groupby("group", sort=False):
            own = GROUPS.get(str(group), {"": ABILITY})
            sections.append(Section(str(group), [_group_table(str(group), lines), _defined(own)]))
        cost = pd.DataFrame(self.cost.items(), columns=["what", "value"])
        sections += [
            Section("Drift and cost", [self._drift_table(), Table("Cost of the edit", cost)]),
            Section("What was asked", [self._asked()]),
        ]
        n = len(self.facts)
        return Report(
            title=f"Edit card: {'; '.join(self.facts[:3])}{' …' * (n > 3)}",
            lead=f"{self.verdict()} Edit {self.edit} of {self.model} by {self.method}; before: "
            f"{', '.join(self.old[:3])} ({whose}).",
            sections=sections,
            warnings=[f"Cannot tell: {', '.join(unknown)}. {CANNOT}"] if unknown else [],
            method=HOW,
            excluded=excluded_counts(self.missing),
            provenance=self.provenance | {"weights": self.weights_hash},
        )

    def _drift_table(self) -> Table:
        lines = [
            ("divergence from the unedited model, nats per token", *self.divergence),
            ("perplexity over the unedited model's", *self.perplexity),
        ]
        frame = pd.DataFrame(lines, columns=["on neutral text", "value", "low", "high"])
        return Table("Drift", frame, f"{len(self.drift)} windows of text that names no fact.")

    def _asked(self) -> Table:
        """Questions with their replies without and with the edit."""
        keys = ["fact", "kind", "index", "text"]
        hidden = (*ABILITIES, *PAIRED, "subject_by_new", "subject_by_old")  # without a reply
        rows: Any = self.rows[self.rows["condition"].isin((UNEDITED, EDITED))]
        shown = rows[~rows["kind"].isin(hidden)]
        by: Any = shown.set_index([*keys, "condition"])[["reply", "hit"]].unstack("condition")
        order = dict.fromkeys(map(tuple, shown[keys].to_numpy()))
        frame = pd.DataFrame(
            {
                "metric": [DEFINITIONS[kind].title for _, kind, *_ in order],
                "question": [text for *_, text in order],
                "unedited": [by.loc[key, ("reply", UNEDITED)] for key in order],
                "edited": [by.loc[key, ("reply", EDITED)] for key in order],
                "counted": [bool(by.loc[key, ("hit", EDITED)]) for key in order],
            }
        )
        return Table("Questions and replies", frame, ASKED)


SAYS = (
    "Each point is a share of questions: grey without the edit, blue with it (95 % interval), "
    "diamonds with the fact stated in the prompt instead."
)
CANNOT = (
    "The unedited model is itself not right about its own fact there, or no question could be "
    "formed: the number says nothing about the edit."
)
ASKED = (
    "Replies are greedy; of a comparison the likelier option is given. Counted: whether the reply "
    "counts for the metric, which for leakage is what should not be."
)
HOW = (
    "Every question is put to the model without the edit, with it, and with the fact stated in the "
    "prompt. Brackets are 95 % Wilson intervals over questions, from 5 questions on; questions of "
    "one fact are not independent.",
    f"Multi-hop and control questions are drawn from {SHIPPED}, of what the unedited model answers "
    "rightly; all others are made of the fact's own words.",
    "Holds: half of the questions or more, and more than without the edit; leakage less than half, "
    f"and less than without it; of what is to stay, a loss of at most {LOSS} ({LOSS_TWO_HOP} of "
    "two-hop questions). Mirrored metrics are judged only where the unedited model is right about "
    "its own fact in half of them.",
)


def _shares(n: Any, k: Any, name: str) -> dict[str, Any]:
    """Shares of hits by condition, and the edited one's interval; NaN where nothing was asked."""
    line: dict[str, Any] = {"n": 0}
    for condition in CONDITIONS:
        asked = n[condition].get(name, np.nan)
        line[condition] = float(k[condition][name] / asked) if asked and asked == asked else np.nan
        if condition == EDITED and asked == asked:
            line["n"] = int(asked)
    low, high = -np.inf, np.inf
    if line["n"] >= SMALLEST:
        _, low, high = wilson(int(k[EDITED][name]), line["n"])
    return line | {"edited_low": low, "edited_high": high}


def _verdict(at: Any, name: str) -> str:
    """Whether a metric is as a good edit has it; see `HOW`."""
    line = at.loc[name]
    before, after = line[UNEDITED], line[EDITED]
    if not line["n"]:
        return UNKNOWN
    if line["wanted"] == "as before":
        loss = LOSS_TWO_HOP if name == "control_two_hop" else LOSS
        return YES if after >= before - loss - 1e-9 else NO
    if line["wanted"] == "low":
        return UNKNOWN if before == 0 == after else YES if after < min(HALF, before) else NO
    competent = min([1 - at.loc[judge, UNEDITED] for judge in JUDGED_BY.get(name, ())], default=1.0)
    if name == "reversal":  # its own fact turned round is what leakage asks
        competent = at.loc["leakage", UNEDITED]
    if after >= HALF and after > before:
        return YES if competent >= HALF or name == "reversal" else UNKNOWN
    return NO if competent >= HALF else UNKNOWN


def _group_table(group: str, lines: Any) -> Table:
    """What a reader looks for first stands first: on a phone the rest is scrolled to."""
    edited = [
        f"{_share(value)} [{low:.2f}, {high:.2f}]" if np.isfinite(low) else _share(value)
        for value, low, high in zip(
            lines[EDITED], lines["edited_low"], lines["edited_high"], strict=True
        )
    ]
    columns: dict[str, Any] = {
        "metric": list(lines["title"]),
        "holds": list(lines["verdict"]),
        "edited": edited,
        "unedited": list(map(_share, lines[UNEDITED])),
        "n": list(lines["n"]),
    }
    if group != ABLE:
        columns["fact in the prompt"] = list(map(_share, lines[IN_PROMPT]))
    return Table("Shares of questions", pd.DataFrame(columns))


def _share(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else NONE


def _defined(own: Mapping[str, MetricDefinition]) -> list[str]:
    return [
        f"{one.title[0].upper()}{one.title[1:]} ({one.wanted}): {one.says}."
        + f" [{one.source}]" * bool(one.source)
        for one in own.values()
    ]
