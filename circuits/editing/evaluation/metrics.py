"""The metrics of edited multi-hop knowledge, each defined once, from a table of answers.

One row is one generated answer. `row` makes it; `score` turns rows into one line a case;
`circuits.editing.evaluation.summaries` turns lines into intervals and comparisons.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from circuits.editing.evaluation.asking import KINDS, Asked
from circuits.editing.evaluation.cases import Case
from interp.errors import PlanError, did_you_mean

SPECIFICITY = ("same_relation", "same_answer", "neighbour")
GROUP = ("arm", "seed")
ABOUT = ("cluster", "position", "n_hops", "n_edits")
Match = Literal["strict", "lenient"]


def row(case: Case, asked: Asked, generated: str) -> dict[str, Any]:
    """One answer as a row of the table.

    Args:
        case: whose question it is.
        asked: the question.
        generated: the answer as cut out of the generation.
    """
    return {
        "case": case.id,
        **{name: getattr(case, name) for name in ABOUT},
        "kind": asked.kind,
        "index": asked.index,
        "expected": asked.expected.text,
        "original": asked.original.text,
        "generated": generated,
        "strict": asked.expected.strict(generated),
        "lenient": asked.expected.lenient(generated),
    }


def score(rows: pd.DataFrame, match: Match = "lenient") -> pd.DataFrame:
    """One line of scores a case, arm and seed.

    Args:
        rows: of `row`, with columns ``arm`` and ``seed`` where there are several.
        match: which matching decides.

    Returns:
        The columns that name the case, and one a metric of `METRICS`: a share between 0 and 1
        (the two net ones: -1 to 1), NaN where the case has no question of that kind.

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


Tables = Mapping[str, Any]
"""Frames (case, kind) of a case's right answers of a kind: mean, any, all, sum, count."""


def efficacy(of: Tables) -> pd.Series:
    """Share of the edits whose cloze, without demonstrations, is continued by the new object.

    Generated, not teacher-forced. Its mean over edits is MQuAKE's edit-wise success rate.
    Source: arXiv 2305.14795, section 3.2.
    """
    return of["mean"]["efficacy"]


def paraphrase(of: Tables) -> pd.Series:
    """Share of the edits whose question is answered by the new object.

    Source: generalisation, arXiv 2202.05262, section 3.4.
    """
    return of["mean"]["paraphrase"]


def instance_wise(of: Tables) -> pd.Series:
    """Whether every hop of the new chain is recalled: edited ones by cloze, others by question.

    Source: arXiv 2305.14795, section 3.2.
    """
    return of["all"]["hop"]


def multi_hop(of: Tables) -> pd.Series:
    """Whether any of the case's questions is answered by the new answer.

    Source: arXiv 2305.14795, section 3.2.
    """
    return of["any"]["multi_hop"]


def multi_hop_per_question(of: Tables) -> pd.Series:
    """Share of the case's questions that are answered by the new answer."""
    return of["mean"]["multi_hop"]


def same_relation(of: Tables) -> pd.Series:
    """Share of questions about the edited relation of other subjects that stay right.

    Source: after specificity, arXiv 2202.05262, section 3.4, generated and by question.
    """
    return of["mean"]["same_relation"]


def same_answer(of: Tables) -> pd.Series:
    """Share of questions about other facts with the old object that stay right.

    Source: CounterFact's neighbourhood, arXiv 2202.05262, section 3.4.
    """
    return of["mean"]["same_answer"]


def neighbour(of: Tables) -> pd.Series:
    """Share of questions about other relations of the edited subject that stay right.

    Source: relation specificity, arXiv 2307.12976, section 3.
    """
    return of["mean"]["neighbour"]


def specificity(of: Tables) -> pd.Series:
    """Share of all single-fact controls of the case that stay right, of the three kinds alike."""
    kinds = list(SPECIFICITY)
    counts = of["count"][kinds].sum(axis=1)
    return of["sum"][kinds].sum(axis=1) / counts.where(counts > 0)


def control_two_hop(of: Tables) -> pd.Series:
    """Share of the composed questions of other chains that stay right."""
    return of["mean"]["control_two_hop"]


def net_multi_hop(of: Tables) -> pd.Series:
    """`multi_hop` minus the share of control two-hop questions that the edit broke.

    An edit that answers every question of a relation by its new object gets 1 - 1 = 0. Any of
    several wordings is easier than one, so compare arms by it, and see `multi_hop_excess`.
    """
    return multi_hop(of) - (1 - control_two_hop(of))


def multi_hop_excess(of: Tables) -> pd.Series:
    """D2: `multi_hop_per_question` minus the share of control two-hop questions broken.

    One wording against one question: at or below 0, "multi-hop" answers are no more frequent
    than broken unrelated questions.
    """
    return multi_hop_per_question(of) - (1 - control_two_hop(of))


METRICS: Mapping[str, Callable[[Tables], pd.Series]] = {
    metric.__name__: metric
    for metric in (
        efficacy,
        paraphrase,
        instance_wise,
        multi_hop,
        multi_hop_per_question,
        same_relation,
        same_answer,
        neighbour,
        specificity,
        control_two_hop,
        net_multi_hop,
        multi_hop_excess,
    )
}


DAMAGE = ("fluency", "kl", "perplexity")
"""Of the edited model, measured beside its answers: `published.ngram_entropy` of what it writes on
from the edited cloze, in bits; and on neutral text (`circuits.editing.drift`) the divergence from
the plain model, in nats a token, and the perplexity over the plain one's."""


def edit_wise(rows: pd.DataFrame, match: Match = "lenient") -> float:
    """Share of all edits, of whatever case, whose cloze is continued by the new object.

    Source: arXiv 2305.14795, section 3.2.
    """
    edits: Any = rows.loc[rows["kind"] == "efficacy", match]
    return float(edits.mean()) if len(edits) else np.nan


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
