"""What is asked about a multi-hop case, the same under every condition, and the metrics of it.

`case_questions` lists the questions; `row` makes a generated answer a row of a table; `score`
turns rows into one line per case.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from circuits.editing.evaluation.answers import Answer, beginnings, named_in_order
from circuits.editing.evaluation.benchmark_metrics import BENCHMARK_METRICS
from circuits.editing.evaluation.cases import Case
from circuits.editing.evaluation.control_questions import CONTROLS, ControlKind, KnownQuestion
from interp.errors import PlanError

QuestionKind = Literal["efficacy", "paraphrase", "multi_hop", "hop"] | ControlKind
KINDS = ("efficacy", "paraphrase", "multi_hop", "hop", *CONTROLS)
"""``efficacy``: the edited cloze, without demonstrations; ``paraphrase``: the edited fact's
question; ``multi_hop``: the case's questions; ``hop``: each hop of the new chain; then controls."""

SPECIFICITY = ["same_relation", "same_answer", "neighbour"]
GROUP = ("condition", "seed")
ABOUT = ("cluster", "position", "n_hops", "n_edits")
Match = Literal["strict", "lenient"]
Tables = Mapping[str, Any]
"""Frames (case, kind) of a case's right answers of a kind: mean, any, all, sum, count; and the mean
of old ones."""

METRICS: Mapping[str, Callable[[Tables], Any]] = {
    "efficacy": lambda of: of["mean"]["efficacy"],
    "paraphrase": lambda of: of["mean"]["paraphrase"],
    "hop_recall": lambda of: of["mean"]["hop"],
    "multi_hop": lambda of: of["any"]["multi_hop"],
    "multi_hop_per_question": lambda of: of["mean"]["multi_hop"],
    # after specificity and neighbourhood, arXiv 2202.05262, section 3.4
    "same_relation": lambda of: of["mean"]["same_relation"],
    "same_answer": lambda of: of["mean"]["same_answer"],
    "neighbour": lambda of: of["mean"]["neighbour"],  # relation specificity, arXiv 2307.12976
    "specificity": lambda of: (
        of["sum"][SPECIFICITY].sum(axis=1) / of["count"][SPECIFICITY].sum(axis=1)  # NaN of none
    ),
    "control_two_hop": lambda of: of["mean"]["control_two_hop"],
    # an edit that answers every question of a relation by its new object gets 1 - 1 = 0
    "net_multi_hop": lambda of: of["any"]["multi_hop"] - _broken(of),
    # one wording against one question, where any of several wordings is easier than one
    "multi_hop_excess": lambda of: of["mean"]["multi_hop"] - _broken(of),
    # what followed from the old object still does; arXiv 2506.01386
    "leakage_multi_hop": lambda of: of["old"]["multi_hop"],
}
"""Ours by name: shares of a case's questions that are right, or yes (1) or no (0); two are net
of the control two-hop questions that the edit broke."""
PUBLISHED: Mapping[str, tuple[str, Callable[[Tables], Any]]] = {
    "edit_wise": ("exact", lambda of: of["mean"]["efficacy"]),
    "instance_wise": ("exact", lambda of: of["all"]["hop"]),
    "multi_hop_accuracy": ("exact", lambda of: of["any"]["multi_hop"]),
    "masked_accuracy": ("exact_in_any_case", lambda of: of["any"]["multi_hop"]),
}
"""Published ones by name, with the column of matches that they are taken of.

`benchmark_metrics.BENCHMARK_METRICS` says what each metric is, and of which format."""


@dataclass(frozen=True)
class CaseQuestion:
    """One question of a case, or a cloze to be continued without demonstrations.

    `index` is of the edit, wording, hop or control; `expected` and `original` are the right answers
    after and before the edit.
    """

    kind: QuestionKind
    index: int
    text: str
    expected: Answer
    original: Answer
    cloze: bool = False


def case_questions(
    case: Case, controls: Mapping[ControlKind, Sequence[KnownQuestion]]
) -> list[CaseQuestion]:
    """What is asked about a case after its edit; edited hops by cloze (MQuAKE's instance-wise)."""
    asked: list[CaseQuestion] = []
    rows = zip(case.facts, case.paraphrases, case.targets, case.originals, strict=True)
    for i, (fact, question, new, original) in enumerate(rows):
        asked.append(CaseQuestion("efficacy", i, fact.cloze, new, original, cloze=True))
        asked.append(CaseQuestion("paraphrase", i, question, new, original))
    for i, text in enumerate(case.questions):
        asked.append(CaseQuestion("multi_hop", i, text, case.new_answer, case.answer))
    originals = dict(zip(case.edited_hops, case.originals, strict=True))
    for i, hop in enumerate(case.new_hops):
        text, old = (hop.cloze if i in originals else hop.question), originals.get(i, hop.answer)
        asked.append(CaseQuestion("hop", i, text, hop.answer, old, i in originals))
    for kind, questions in controls.items():
        for i, known in enumerate(questions):
            asked.append(CaseQuestion(kind, i, known.text, known.answer, known.answer))
    return asked


def _broken(of: Tables) -> Any:
    return 1 - of["mean"]["control_two_hop"]


def row(
    case: Case, question: CaseQuestion, generated: str, thought: str | None = None
) -> dict[str, Any]:
    """One answer, as cut out of what was generated, and the thoughts before it, as a table's row.

    What follows the answer to a cloze is not compared, as nothing ends it. ``path`` is whether the
    thoughts name the answer of every hop in order; NaN where none were asked for (``None``).
    """
    expected = question.expected
    said = beginnings(generated) if question.cloze else [generated]
    if question.kind != "multi_hop" or thought is None:
        path = float("nan")
    else:
        path = float(named_in_order(thought, [hop.answer for hop in case.new_hops]))
    return {
        "case": case.id,
        **{name: getattr(case, name) for name in ABOUT},
        "kind": question.kind,
        "index": question.index,
        "expected": expected.text,
        "original": question.original.text,
        "generated": generated,
        "exact": any(map(expected.exact, said)),
        "exact_in_any_case": any(map(expected.exact_in_any_case, said)),
        "strict": any(map(expected.strict, said)),
        "lenient": expected.lenient(generated),
        "path": path,
        "old": question.original.lenient(generated) and not expected.lenient(generated),
    }


def score(rows: pd.DataFrame, match: Match = "lenient", format: str = "mquake") -> pd.DataFrame:
    """One line of scores per case, condition and seed, NaN where nothing was asked.

    The columns are `METRICS`, of answers that match; those of `PUBLISHED` that the format has; and
    ``hop_wise``: whether any wording is answered rightly behind thoughts that name every hop.

    Raises:
        PlanError: a kind is unknown, whose rows would be lost, or a question is there twice.
    """
    names = [*(name for name in GROUP if name in rows), "case"]
    unknown = sorted(set(rows["kind"]) - set(KINDS))
    twice = rows[rows.duplicated([*names, "kind", "index"])]
    if unknown or len(twice):
        fault = f"no question is of kind {unknown[0]!r}" if unknown else "a question is there twice"
        raise PlanError(f"{fault}; score every question once, of kinds {', '.join(KINDS)}.")
    about: Any = rows.groupby(names)[[name for name in ABOUT if name in rows]].first()
    tables = {name: _tables(rows, names, name) for name in (match, "exact", "exact_in_any_case")}
    ours = {**tables[match], "old": _tables(rows, names, "old")["mean"]}
    scores = {name: metric(ours) for name, metric in METRICS.items()}
    defined = {definition.name for definition in BENCHMARK_METRICS[format]}
    for name, (column, metric) in PUBLISHED.items():
        if name in defined:
            scores[name] = metric(tables[column])
    along: Any = rows.assign(right=rows["path"] * rows["lenient"])
    scores["hop_wise"] = along.groupby(names)["right"].max()
    return about.join(pd.DataFrame(scores)).reset_index()


def _tables(rows: pd.DataFrame, names: list[str], column: str) -> Tables:
    right: Any = rows.assign(right=rows[column].astype(float))
    by_kind = right.groupby([*names, "kind"])["right"]
    over = {"mean": "mean", "any": "max", "all": "min", "sum": "sum", "count": "count"}
    return {
        name: by_kind.agg(how).unstack().reindex(columns=list(KINDS)) for name, how in over.items()
    }
