"""`EmotionComparison`: the replies under all conditions, judged, with intervals; and its making.

Each condition is a step of its run, so that a stopped run goes on where it was. Judges read the
finished replies; another judge or other criteria cost no generation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from circuits.emotion.emotion_metrics import (
    CRITERIA,
    AnyJudge,
    confusion,
    distinct_bigrams,
    judged,
    presentable,
    with_criteria,
    with_ratio,
)
from circuits.emotion.emotion_settings import ReplyCriteria, ReplySettings
from circuits.emotion.endpoint_judge import EndpointJudge
from circuits.emotion.figures import plot_conditions, plot_confusion
from circuits.emotion.judges import fitted_judges, with_lexicon
from circuits.emotion.prompts import EmotionTexts, ReplyPrompts
from circuits.emotion.replies import ReplyWriter
from circuits.emotion.result import EmotionDiscovery
from circuits.emotion.steering import Condition
from circuits.emotion.texts import EMOTIONS, situations
from interp.errors import DataError, PlanError
from interp.model.model import Model
from interp.progress import StageProgress
from interp.results.report import Figure, Part, Report, Section, Table, cell_text, interval
from interp.results.result import Result
from interp.results.run_folder import RunFolder, fingerprint, identity
from interp.statistics import Estimate, bootstrap_mean

MAIN = ("unmodulated", "prompting", "steering", "circuit", "random")
"""Conditions in the table of examples and in the confusions."""
SCORES = ("accuracy", "quality", "joint")
NAMES = {"faulty": "with faults", "distinct_2": "distinct bigrams", "n_words": "words"}


@dataclass(frozen=True)
class EmotionComparison(Result):
    """The replies under every condition, measured and judged.

    Attributes:
        replies: a row per reply: ``condition``, the situation, ``emotion`` (the target), ``reply``,
            the measures of `measure`, and the labels of each judge.
        judges: which have read the replies; the first decides.
        settings: decoding, criteria and sources.
    """

    KIND: ClassVar[str] = "emotion comparison"
    replies: pd.DataFrame
    criteria: ReplyCriteria
    judges: tuple[str, ...]
    model: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions, in the order in which they were given."""
        return list(dict.fromkeys(self.replies["condition"]))

    @cached_property
    def marked(self) -> pd.DataFrame:
        """The replies with the criteria that they meet, by the first judge."""
        return with_criteria(self.replies, self.criteria, self.judges[0])

    def by(self, judge: str) -> "EmotionComparison":
        """The same, decided by another judge; `DataError` where it has not read the replies."""
        if judge not in self.judges:
            raise DataError(f"no judge {judge!r}; {', '.join(self.judges)} have read the replies.")
        return replace(self, judges=(judge, *(one for one in self.judges if one != judge)))

    def of(self, condition: str) -> pd.DataFrame:
        """One condition's replies with their criteria, by situation and emotion."""
        found: Any = self.marked[self.marked["condition"] == condition]
        if found.empty:
            raise DataError(f"no condition {condition!r}; there are {', '.join(self.conditions)}.")
        return found.sort_values(["situation", "emotion"], ignore_index=True)

    def paired(self, first: str, second: str, criterion: str = "joint") -> Estimate:
        """Difference of two conditions, reply by reply; scenarios are resampled whole."""
        one, other = self.of(first), self.of(second)
        keys = ["situation", "emotion"]
        if not one[keys].equals(other[keys]):
            raise DataError(f"{first!r} and {second!r} did not reply to the same situations.")
        values = _values(one, criterion) - _values(other, criterion)
        return bootstrap_mean(values, clusters=list(one["scenario"]))

    def paired_table(self) -> pd.DataFrame:
        """Circuit minus each other condition, on joint: ``difference``, ``joint``, its bounds."""
        others = [one for one in self.conditions if one != "circuit"]
        others = others if "circuit" in self.conditions else []
        rows = [(f"circuit - {one}", *map(float, self.paired("circuit", one))) for one in others]
        return pd.DataFrame(rows, columns=["difference", "joint", "low", "high"])

    def table(self) -> pd.DataFrame:
        """A row per condition: scores with intervals, and the measures of form beside them."""
        return pd.DataFrame([self._row(condition) for condition in self.conditions])

    def _row(self, condition: str) -> dict[str, Any]:
        rows: Any = self.of(condition)
        met = {name: _values(rows, name) for name in CRITERIA}
        out: dict[str, Any] = {"condition": condition, "n": len(rows)}
        for name, values in {
            "accuracy": met["expressed"],
            "quality": met["coherent"] * met["relevant"],
            **{name: met[name] for name in ("joint", "coherent", "relevant")},
        }.items():
            out |= bootstrap_mean(values, clusters=list(rows["scenario"])).columns(name)
        means = {name: float(rows[name].mean()) for name in ("n_words", "exclamations", "capitals")}
        return out | {
            "neutral": float((rows[f"label_{self.judges[0]}"] == "neutral").mean()),
            "perplexity_ratio": float(rows["perplexity_ratio"].median()),
            "faulty": float((rows["faults"] != "").mean()),
            "distinct_2": distinct_bigrams(list(rows["reply"])),
            **means,
        }

    def by_emotion(self, criterion: str = "joint") -> pd.DataFrame:
        """Share that meets a criterion: a row per condition and a column per emotion."""
        found: Any = self.marked.pivot_table(criterion, "condition", "emotion", aggfunc="mean")
        return found.loc[self.conditions, list(EMOTIONS)].reset_index()

    def confusion(self, condition: str) -> Int[np.ndarray, "target label"]:
        """How many replies of each target were given each label by the first judge."""
        rows = self.of(condition)
        return confusion(list(rows[f"label_{self.judges[0]}"]), list(rows["emotion"]))

    def examples(self, n: int = 2) -> pd.DataFrame:
        """Replies of the main conditions side by side: the first situations, in every emotion.

        They are not chosen: a row shows every reply, but for coarse and hateful ones.
        """
        tables: dict[str, Any] = {one: self.of(one) for one in MAIN if one in self.conditions}
        first: Any = next(iter(tables.values())).sort_values("place")
        rows: list[dict[str, str]] = []
        for situation in list(dict.fromkeys(first["situation"]))[:n]:
            for emotion in EMOTIONS:
                row = {"text": "", "emotion": emotion}
                for name, table in tables.items():
                    at = (table["situation"] == situation) & (table["emotion"] == emotion)
                    one = table[at].iloc[0]
                    row["text"] = str(one["text"])
                    row[name] = presentable(str(one["reply"])) + " ✓" * bool(one["joint"])
                rows.append(row)
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """The main figures, for a JSON line."""
        rows: Any = self.table().to_dict("records")
        plain = ("n", "perplexity_ratio", "faulty", "distinct_2", "n_words")
        return {
            "model": self.model,
            "n": max(row["n"] for row in rows),
            "n_scenarios": len(set(self.replies["scenario"])),
            "judge": self.judges[0],
            "criteria": self.criteria.model_dump(),
            "conditions": {
                row["condition"]: {name: row[name] for name in (*SCORES, *plain)}
                | {f"{name}_ci": [row[f"{name}_low"], row[f"{name}_high"]] for name in SCORES}
                for row in rows
            },
            "paired": {name: bounds for name, *bounds in self.paired_table().to_numpy().tolist()},
        }

    def report(self, found: EmotionDiscovery | None = None) -> Report:
        """All conditions, their replies, and where given the discovery behind them."""
        table, criteria = self.table(), self.criteria
        best: Any = table.loc[table["joint"].idxmax()]
        n = max(table["n"].tolist())
        lead = (
            f"The largest joint score is that of {best['condition']}: "
            f"{cell_text(float(best['joint']))} {interval(best['joint_low'], best['joint_high'])}."
        )
        plot = plot_conditions(table, f"{self.model}: {n} replies, judge {self.judges[0]}")
        every = self._scores().join(table[["neutral", "perplexity_ratio", *NAMES]])
        paired = self.paired_table()
        first = "The first situations of the file, not chosen; ✓: joint."
        sections: dict[str, Sequence[Part]] = {
            "Conditions": [
                Figure(
                    "Accuracy, quality and joint per condition",
                    f"{lead} Dotted: chance of accuracy is {1 / len(EMOTIONS):.3f}.",
                    plot,
                ),
                Table("All conditions", every, names=NAMES),
            ],
            "Circuit against the other conditions": [
                Table("Circuit minus another condition, reply by reply", paired)
            ][: len(paired)],
            "What the judge answers": [self._confusions()],
            "Other judges": [
                Table(f"Judge: {judge}", self.by(judge)._scores()) for judge in self.judges[1:]
            ],
            "Replies side by side": [Table("Replies to the same events", self.examples(), first)],
        }
        return Report(
            title=f"Emotion control on {self.model}",
            lead=f"{n} replies per condition, judged by {self.judges[0]}. {lead}",
            sections=[
                *(Section(title, parts) for title, parts in sections.items() if parts),
                *([found.section()] if found else []),
            ],
            method=(
                "Accuracy: the judge, which is not given the target, names it among seven labels. "
                "Quality: the reply is coherent (no fault of form and at most "
                f"{criteria.perplexity_ratio:g} times the perplexity of the unmodulated reply) and "
                "relevant (the event makes the reply likelier by more than "
                f"{criteria.relevance:g} nats per token). Joint: all three. Intervals: 95 %, over "
                "scenarios.",
            ),
            provenance=self.provenance,
        )

    def _scores(self) -> pd.DataFrame:
        bounds = [column for name in SCORES for column in (name, f"{name}_low", f"{name}_high")]
        return self.table().loc[:, ["condition", "n", *bounds]]

    def _confusions(self) -> Figure:
        counts = {one: self.confusion(one) for one in MAIN if one in self.conditions}
        diagonal = {
            name: float(np.trace(table[:, : len(EMOTIONS)]) / max(table.sum(), 1))
            for name, table in counts.items()
        }
        says = (
            "Rows: targets; columns: labels; the diagonal is right. On the diagonal: "
            f"{cell_text(diagonal)}."
        )
        return Figure("Labels of each target's replies", says, plot_confusion(counts))

    def __repr__(self) -> str:
        n, m = len(self.conditions), len(self.replies)
        return f"EmotionComparison({self.model}: {n} conditions, {m} replies)"


def _values(rows: pd.DataFrame, name: str) -> Float[np.ndarray, " reply"]:
    return rows[name].to_numpy(float)


@dataclass(frozen=True)
class EmotionRun:
    """What `interp emotion run` writes: a comparison, and the discovery behind it."""

    comparison: EmotionComparison
    found: EmotionDiscovery

    @classmethod
    def load(cls, path: Path) -> "EmotionRun":
        """Read its folder; errors as of its two parts."""
        found = EmotionDiscovery.load(path / "discovery")
        return cls(EmotionComparison.load(path / "comparison"), found)

    def summary(self) -> dict[str, Any]:
        """The figures of the comparison."""
        return self.comparison.summary()

    def report(self) -> Report:
        """The comparison with the discovery behind it."""
        return self.comparison.report(self.found)


# --- making one -----------------------------------------------------------------------------------


def evaluate(
    writer: ReplyWriter,
    conditions: Sequence[Condition],
    judges: Mapping[str, AnyJudge],
    criteria: ReplyCriteria,
    note: Mapping[str, Any] | None = None,
) -> EmotionComparison:
    """Write, measure and judge every condition; a lexicon is the last judge.

    One condition must be ``unmodulated`` (else `DataError`); the first judge decides; `note` is
    recorded with the result.
    """
    written: list[pd.DataFrame] = []
    for condition in conditions:
        written.append(writer.write(condition))
        writer.steps.count(len(written), len(conditions))
    table = pd.concat(written, ignore_index=True)
    plain: Any = table[table["condition"] == "unmodulated"]
    table = judged(with_ratio(table, plain), judges)
    return EmotionComparison(
        replies=with_lexicon(table, plain),
        criteria=criteria,
        judges=(*judges, "lexicon"),
        model=writer.model.name,
        settings={"decoding": writer.decoding.model_dump(mode="json")} | dict(note or {}),
    )


def compare(
    model: Model,
    conditions: Sequence[Condition],
    settings: ReplySettings,
    texts: EmotionTexts,
    load_judge: Callable[[str], Model],
    out: str | Path,
    found: EmotionDiscovery | None = None,
    force: bool = False,
    progress: StageProgress | None = None,
    endpoint: EndpointJudge | None = None,
) -> EmotionComparison:
    """Reply to the events of the texts under all conditions; a stopped run goes on.

    Args:
        model: the model.
        conditions: of `circuits.emotion.steering.conditions_of`.
        settings: a recipe has them.
        texts: all texts.
        load_judge: loads the judges' model by name, once the replies are written.
        out: run folder.
        found: the discovery behind the conditions, for the page; `DataError` where it read any of
            the events.
        force: replace another run, or a damaged one, that `out` holds.
        progress: called with (condition, replies done, in all).
        endpoint: a further judge; the built-in one still decides (see `EmotionComparison.by`).

    Raises:
        PlanError: the judges' model is the model itself.
        ModelError: the endpoint does not answer; the replies are kept.
        RunFolderError: `out` holds another run, or something else.
    """
    itself = f"the judges' model must not be the model under test, {model.name}; give another."
    if settings.judge_model == model.name:
        raise PlanError(itself)
    if found:
        found.refuse_seen(texts.events)
    texts.frames.style(settings.style)  # a bad one is refused now
    asking = ReplyPrompts(texts.frames, texts.replies, settings.style)
    given = {"self-written": texts.replies, "published": texts.verdicts, "blind": texts.labelled}
    record = settings.model_dump(mode="json", exclude={"model"})
    options = record | identity(model) | {"texts": fingerprint(texts)}
    if endpoint:
        options["endpoint"] = [endpoint.url, endpoint.name]
    options["conditions"] = {condition.name: condition.digest for condition in conditions}
    verb = "emotion evaluate" if found else "emotion elicit"
    with RunFolder.open(out, verb, options, unit="conditions", force=force) as run:
        if not run.finished:
            chosen = situations(texts.events, min(settings.n, 3 * len(texts.events)))
            writer = ReplyWriter(model, asking, chosen, settings.decoding, run, progress)
            for condition in conditions:
                writer.write(condition)
            judge = load_judge(settings.judge_model)
            if judge.hash_in(torch.bfloat16) == model.hash_in(torch.bfloat16):  # by another name
                raise PlanError(itself)
            judges: dict[str, AnyJudge] = {**fitted_judges(judge, texts)}
            note = record | {"judges_saw": [name for name, rows in given.items() if rows]}
            if endpoint:
                judges["endpoint"] = endpoint
            made = evaluate(writer, conditions, judges, settings.criteria, note)
            if endpoint:
                asked = {"model": endpoint.name, "unclear": endpoint.unclear}
                made = replace(made, settings=made.settings | {"endpoint": asked})
            run.finish(
                made.save,
                page=lambda at: EmotionComparison.load(at).report(found).write(at / "index.html"),
            )
    return EmotionComparison.load(out)
