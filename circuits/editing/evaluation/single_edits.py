"""CounterFact, zsRE, RippleEdits and KnowEdit: what is asked of an edited model, and its metrics.

`ASK` makes a table of what a model does on each prompt or test; `score` turns it into one line per
edit: our metrics, the same as of multi-hop cases, and beside them those of the papers.
`benchmark_metrics.BENCHMARK_METRICS` says what each is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from circuits.editing.change import Changes
from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.benchmark_metrics import BENCHMARK_METRICS, SCORES
from circuits.editing.evaluation.cases import SingleEdit
from circuits.editing.evaluation.edited_models import Ask, TargetReading, generations, likelihoods
from circuits.editing.evaluation.single_edit_rows import UNRELATED
from interp.brief import brief
from interp.model.model import Model
from interp.results.run_folder import TABLES, Steps

N_TOKENS = {"ripple_edits": 20}
"""Tokens of an answer, by format; RippleEdits' as in arXiv 2307.12976, section 5.1."""
N_OTHERS = 10
UNCHANGED = ("relation_specificity", "preservation")
"""Criteria of RippleEdits whose answers an edit does not change."""
COMPOSED = ("compositionality_1", "compositionality_2")
CASES_AT_ONCE = 64
Rows = list[dict[str, Any]]


@brief
@dataclass(frozen=True)
class EditedModels:
    """Edits of a model, and under which of them, behind which text, each case is asked.

    `plain` are replies of the unedited model by prompt, which are not asked for again; `n_tokens`
    are those of a reply, at most.
    """

    model: Model
    edits: Sequence[Changes]
    owner: Sequence[int] = ()
    before: Sequence[str] = ()
    plain: dict[str, str] = field(default_factory=dict)
    n_tokens: int = N_OTHERS

    def replies(self, asked: Sequence[tuple[int, str]]) -> list[str]:
        """The first line of what follows each (case, prompt)."""
        asks = [
            Ask(self.owner[i], self.before[i] + text, self.before[i], n_tokens=self.n_tokens)
            for i, text in asked
        ]
        return generations(self.model, asks, self.edits)

    def plain_replies(self, prompts: Sequence[str]) -> list[str]:
        """The same of the unedited model, with nothing before the prompts."""
        new = [text for text in dict.fromkeys(prompts) if text not in self.plain]
        asks = [Ask(0, text, n_tokens=self.n_tokens) for text in new]
        self.plain.update(zip(new, generations(self.model, asks, [()]), strict=True))
        return [self.plain[text] for text in prompts]

    def likelihoods(self, asked: Sequence[tuple[int, str, str]]) -> list[TargetReading]:
        """Of the target after each (case, prompt, target); see `edited_models.likelihoods`."""
        targets = [(self.owner[i], self.before[i] + text, to) for i, text, to in asked]
        return likelihoods(self.model, targets, self.edits)


def asked_before(
    model: Model,
    cases: Sequence[SingleEdit],
    format: str,
    steps: Steps,
    progress: Callable[[int, int], None],
) -> dict[str, str]:
    """What the unedited model says where an edit must change nothing, or a test has conditions."""
    plain = EditedModels(model, [()], n_tokens=N_TOKENS.get(format, N_OTHERS))
    for lo in range(0, len(cases), CASES_AT_ONCE):
        some = cases[lo : lo + CASES_AT_ONCE]
        prompts = list(dict.fromkeys(text for case in some for text in _asked_before(case)))

        def make(prompts: list[str] = prompts) -> dict[str, pd.DataFrame]:
            replies = plain.plain_replies(prompts)
            return {"replies": pd.DataFrame({"prompt": prompts, "reply": replies}, dtype=object)}

        if prompts:
            table = steps.step(f"before/{lo:06d}", make, TABLES)["replies"]
            plain.plain.update(zip(table["prompt"], table["reply"], strict=True))
            progress(lo + len(some), len(cases))
    return plain.plain


def _asked_before(case: SingleEdit) -> list[str]:
    conditions = [q.prompt for _, test in case.tests for q in test.condition_queries or ()]
    unchanged = [
        query.prompt for name, test in case.tests if name in UNCHANGED for query in test.queries
    ]
    local = [one.prompt for one in case.probes if one.kind.startswith("locality")]
    return [*case.neighbours, *conditions, *unchanged, *local]


# --- what is asked -----------------------------------------------------------------------------

Prompts = list[tuple[int, str, int, str, Answer]]
"""Case, kind, index within the kind, prompt, and what must follow."""


def _prompts(cases: Sequence[SingleEdit]) -> Prompts:
    return [
        (i, kind, n, text, Answer(answer))
        for i, case in enumerate(cases)
        for kind, texts, answer in (
            ("efficacy", (case.fact.cloze,), case.fact.target),
            ("paraphrase", case.paraphrases, case.fact.target),
            ("neighbourhood", case.neighbours, case.neighbour_answer),
        )
        for n, text in enumerate(texts)
    ]


def _generated(models: EditedModels, cases: Sequence[SingleEdit], prompts: Prompts) -> Rows:
    """Per prompt what is generated, whether it is right, and whether it was before the edit.

    The latter is asked of what an edit must not change, and said of the rest.
    """
    replies = models.replies([(i, text) for i, _, _, text, _ in prompts])
    local = [kind.startswith(("neighbourhood", "locality")) for _, kind, *_ in prompts]
    asked = [one[3] for one, kept in zip(prompts, local, strict=True) if kept]
    plain = iter(models.plain_replies(asked))
    return [
        _named(cases[i], kind, n)
        | {"generated": reply, "right": answer.lenient(reply)}
        | {"known": answer.lenient(next(plain)) if kept else True}
        for (i, kind, n, _, answer), reply, kept in zip(prompts, replies, local, strict=True)
    ]


def _counterfact(models: EditedModels, cases: Sequence[SingleEdit]) -> Rows:
    """Per prompt, the mean NLL per token of the new and of the true object."""
    prompts = _prompts(cases)
    new, true = (
        models.likelihoods([(i, text, name(cases[i])) for i, _, _, text, _ in prompts])
        for name in (lambda case: case.fact.target, lambda case: case.true)
    )
    return [
        row | {"nll_new": a.nll, "nll_true": b.nll}
        for row, a, b in zip(_generated(models, cases, prompts), new, true, strict=True)
    ]


def _zsre(models: EditedModels, cases: Sequence[SingleEdit]) -> Rows:
    """Per prompt, the share of the answer's tokens that are the likeliest one."""
    prompts = _prompts(cases)
    targets = [
        # as in MEMIT's released evaluation
        (i, f"{UNRELATED}{text}?" if kind == "neighbourhood" else text, answer.text)
        for i, kind, _, text, answer in prompts
    ]
    rows = _generated(models, cases, prompts)
    readings = models.likelihoods(targets)
    return [row | {"correct": one.correct} for row, one in zip(rows, readings, strict=True)]


def _knowedit(models: EditedModels, cases: Sequence[SingleEdit]) -> Rows:
    """The same, and the share of tokens along the answer that are the unedited model's."""
    prompts = _prompts(cases)
    for i, case in enumerate(cases):
        prompts += [(i, one.kind, n, one.prompt, one.answer) for n, one in enumerate(case.probes)]
    targets = [(i, text, answer.text) for i, _, _, text, answer in prompts]
    rows, readings = _generated(models, cases, prompts), models.likelihoods(targets)
    local = [k for k, (_, kind, *_) in enumerate(prompts) if kind.startswith("locality")]
    plain = likelihoods(models.model, [(0, *targets[k][1:]) for k in local], [()])
    same = dict.fromkeys(range(len(prompts)), float("nan"))
    for k, before in zip(local, plain, strict=True):
        same[k] = float(np.mean(np.equal(readings[k].likeliest, before.likeliest)))
    return [row | {"correct": readings[k].correct, "same": same[k]} for k, row in enumerate(rows)]


def _ripple(models: EditedModels, cases: Sequence[SingleEdit]) -> Rows:
    """The edit itself, and per test whether it passes after and what held before the edit."""
    tests = [(i, n, *named) for i, case in enumerate(cases) for n, named in enumerate(case.tests)]
    replies = iter(models.replies([(i, q.prompt) for i, *_, test in tests for q in test.queries]))
    held = _passed_before(models, [test.condition_queries or () for *_, test in tests])
    own = [test.queries if name in UNCHANGED else () for *_, name, test in tests]
    known = _passed_before(models, own)
    written = models.replies([(i, case.fact.cloze) for i, case in enumerate(cases)])
    edited = [case.targets[0].lenient(text) for case, text in zip(cases, written, strict=True)]
    rows = [
        _named(cases[i], name, n)
        | {"right": test.passed([q.passed(next(replies)) for q in test.queries])}
        | {"held": all(held[k]), "edited": edited[i]}
        | {"known": name not in UNCHANGED or test.passed(known[k])}
        for k, (i, n, name, test) in enumerate(tests)
    ]
    return rows + [
        _named(case, "efficacy", 0) | {"right": done, "held": True, "edited": done, "known": True}
        for case, done in zip(cases, edited, strict=True)
    ]


def _passed_before(models: EditedModels, asked: Sequence[Any]) -> list[list[bool]]:
    """Of each list of queries, which the unedited model passes."""
    replies = iter(models.plain_replies([q.prompt for queries in asked for q in queries]))
    return [[q.passed(next(replies)) for q in queries] for queries in asked]


def _named(case: SingleEdit, kind: str, index: int) -> dict[str, Any]:
    return {"case": case.id, "cluster": case.cluster, "kind": kind, "index": index}


Asking = Callable[[EditedModels, Sequence[SingleEdit]], Rows]
ASK: Mapping[str, Asking] = {
    "counterfact": _counterfact,
    "zsre": _zsre,
    "zsre_rome": _zsre,
    "ripple_edits": _ripple,
    "knowedit": _knowedit,
}
"""What is asked, by format: a table with a row per prompt or test."""


# --- scores ------------------------------------------------------------------------------------


def score(rows: pd.DataFrame, format: str) -> pd.DataFrame:
    """One line of scores per edit, condition and seed, from the rows of `ASK`.

    The columns are the metrics of `BENCHMARK_METRICS` but the harmonic means of `SCORES`, which are
    taken of means over edits; NaN where an edit has no such prompt.
    """
    names = [name for name in ("condition", "seed", "case", "cluster") if name in rows]
    means: dict[str, Any] = {}
    for name, (own, value) in _values(rows, format).items():
        valued = own.assign(value=value)
        if name in BY_TYPE:
            valued = valued.groupby([*names, "kind"], as_index=False)["value"].mean()
        means[name] = valued.groupby(names)["value"].mean()
    every: Any = rows.groupby(names).size().index
    metrics = [m.name for m in BENCHMARK_METRICS[format] if m.name != SCORES.get(format, ("",))[0]]
    return pd.DataFrame(means).reindex(index=every, columns=metrics).reset_index()


BY_TYPE = ("portability", "locality")
"""Metrics that are a mean over types of prompts."""


def _values(rows: Any, format: str) -> dict[str, tuple[Any, Any]]:
    """By metric: the rows that it is taken of, and a number for each."""
    kind, right = rows["kind"], rows["right"].astype(float)

    def of(chosen: Any, values: Any = right) -> tuple[Any, Any]:
        return rows[chosen], values[chosen]

    local = kind.str.startswith(("neighbourhood", "locality")) | kind.isin(UNCHANGED)
    composed = kind.eq("portability/reasoning")
    if format == "ripple_edits":
        composed = kind.isin(COMPOSED) & rows["held"]
    found = {
        "efficacy": of(kind == "efficacy"),
        "paraphrase": of(kind == "paraphrase"),
        "multi_hop": of(composed),
        "specificity": of(local & rows["known"]),
    }
    if format == "counterfact":
        return found | _of_counterfact(rows, of)
    if format == "ripple_edits":
        counts = rows["held"] & rows["edited"]
        return found | {name: of(counts & (kind == name)) for name in {*kind} - {"efficacy"}}
    return found | {
        name: of(kind.str.startswith(prompts), rows[column])
        for name, (prompts, column) in TEACHER_FORCED[format].items()
    }


ZSRE = {
    "efficacy_accuracy": ("efficacy", "correct"),
    "paraphrase_accuracy": ("paraphrase", "correct"),
    "unrelated_accuracy": ("neighbourhood", "correct"),
}
TEACHER_FORCED: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "zsre": ZSRE,
    "zsre_rome": ZSRE,
    "knowedit": {
        "edit_success": ("efficacy", "correct"),
        "rephrase_accuracy": ("paraphrase", "correct"),
        "portability": ("portability", "correct"),
        "locality": ("locality", "same"),
    },
}
"""By format and metric: the prompts that it is taken of, and the column."""


def _of_counterfact(rows: Any, of: Any) -> dict[str, tuple[Any, Any]]:
    kind = rows["kind"]
    sign = np.where(kind == "neighbourhood", -1.0, 1.0)
    better = (sign * (rows["nll_true"] - rows["nll_new"]) > 0).astype(float)
    apart = sign * (np.exp(-rows["nll_new"]) - np.exp(-rows["nll_true"]))
    return {
        f"{name}_{what}": of(kind == name, values)
        for name in ("efficacy", "paraphrase", "neighbourhood")
        for what, values in (("score", better), ("magnitude", apart))
    }
