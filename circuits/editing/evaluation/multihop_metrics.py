"""The metrics of edited multi-hop knowledge, each defined once, from a table of answers.

One row is one generated answer. `row` makes it; `score` turns rows into one line per case.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pandas as pd

from circuits.editing.evaluation.case_questions import KINDS, CaseQuestion
from circuits.editing.evaluation.cases import Case
from interp.errors import PlanError, did_you_mean

SPECIFICITY = ["same_relation", "same_answer", "neighbour"]
GROUP = ("condition", "seed")
ABOUT = ("cluster", "position", "n_hops", "n_edits")
Match = Literal["strict", "lenient"]
Tables = Mapping[str, Any]
"""Frames (case, kind) of a case's right answers of a kind: mean, any, all, sum, count."""

METRICS: Mapping[str, Callable[[Tables], Any]] = {
    # generated, not teacher-forced; arXiv 2305.14795, section 3.2: its mean is edit-wise success
    "efficacy": lambda of: of["mean"]["efficacy"],
    "paraphrase": lambda of: of["mean"]["paraphrase"],
    "instance_wise": lambda of: of["all"]["hop"],  # arXiv 2305.14795, section 3.2
    "multi_hop": lambda of: of["any"]["multi_hop"],  # the same
    "multi_hop_per_question": lambda of: of["mean"]["multi_hop"],
    # after specificity and neighbourhood, arXiv 2202.05262, section 3.4
    "same_relation": lambda of: of["mean"]["same_relation"],
    "same_answer": lambda of: of["mean"]["same_answer"],
    "neighbour": lambda of: of["mean"]["neighbour"],  # relation specificity, arXiv 2307.12976
    "specificity": lambda of: of["sum"][SPECIFICITY].sum(axis=1) / _some(of),
    "control_two_hop": lambda of: of["mean"]["control_two_hop"],
    # an edit that answers every question of a relation by its new object gets 1 - 1 = 0
    "net_multi_hop": lambda of: of["any"]["multi_hop"] - _broken(of),
    # one wording against one question, where any of several wordings is easier than one
    "multi_hop_excess": lambda of: of["mean"]["multi_hop"] - _broken(of),
}
"""By name: shares of a case's questions that are right, or yes (1) or no (0); the last two are net
of the control two-hop questions that the edit broke. docs/editing.md says what each means."""


def _some(of: Tables) -> Any:
    counts = of["count"][SPECIFICITY].sum(axis=1)
    return counts.where(counts > 0)


def _broken(of: Tables) -> Any:
    return 1 - of["mean"]["control_two_hop"]


def row(case: Case, question: CaseQuestion, generated: str) -> dict[str, Any]:
    """One answer, as cut out of what was generated, as a row of the table."""
    return {
        "case": case.id,
        **{name: getattr(case, name) for name in ABOUT},
        "kind": question.kind,
        "index": question.index,
        "expected": question.expected.text,
        "original": question.original.text,
        "generated": generated,
        "strict": question.expected.strict(generated),
        "lenient": question.expected.lenient(generated),
    }


def score(rows: pd.DataFrame, match: Match = "lenient") -> pd.DataFrame:
    """One line of scores per case, condition and seed: `METRICS`, NaN where nothing was asked.

    Raises:
        PlanError: a column is missing, a kind unknown, or a question is there twice.
    """
    _check(rows)
    names = [*(name for name in GROUP if name in rows), "case"]
    right: Any = rows.assign(right=rows[match].astype(float))
    by_kind = right.groupby([*names, "kind"])["right"]
    over = {"mean": "mean", "any": "max", "all": "min", "sum": "sum", "count": "count"}
    table = {
        name: by_kind.agg(how).unstack().reindex(columns=list(KINDS)) for name, how in over.items()
    }
    about: Any = rows.groupby(names)[[name for name in ABOUT if name in rows]].first()
    scores = {name: metric(table) for name, metric in METRICS.items()}
    return about.join(pd.DataFrame(scores)).reset_index()


def _check(rows: pd.DataFrame) -> None:
    needed = ("case", "kind", "index", "strict", "lenient")
    for name in needed:
        if name not in rows:
            raise PlanError(f"the table has no column {name!r}; it needs {', '.join(needed)}.")
    for kind in rows["kind"].unique():
        if kind not in KINDS:
            raise PlanError(f"no question is of kind {kind!r}. {did_you_mean(kind, KINDS)}")
    key = [*(name for name in GROUP if name in rows), "case", "kind", "index"]
    twice = rows[rows.duplicated(key)]
    if len(twice):
        first = ", ".join(f"{name} {twice.iloc[0][name]}" for name in key)
        raise PlanError(f"one question has two answers ({first}); score every question once.")
