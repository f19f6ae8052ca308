"""CounterFact, zsRE and RippleEdits: what is asked of an edited model, and their papers' metrics.

`ask` makes a table of what a model does on each prompt or test; `score` turns it into one line per
edit, whose means over edits are the papers' figures.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from circuits.editing.evaluation.cases import SingleEdit
from circuits.editing.evaluation.edited_models import Ask, generations, likelihoods
from circuits.editing.evaluation.formats import CRITERIA, UNRELATED
from interp.model.model import Model

N_RIPPLE = 20
"""Tokens of an answer to RippleEdits (arXiv 2307.12976, section 5.1)."""
PROMPTED = ("efficacy", "paraphrase", "neighbourhood")
MAGNITUDES = tuple(f"{name}_magnitude" for name in PROMPTED)
METRICS: Mapping[str, tuple[str, ...]] = {
    "counterfact": (*PROMPTED, *MAGNITUDES),
    "zsre": PROMPTED,
    "ripple_edits": ("efficacy", *CRITERIA),
}
"""Metrics by format. Of the first two, the harmonic mean of `PROMPTED` is the papers' score S."""


class EditedModels:
    """Edits of a model, and under which of them, behind which text, each case is asked."""

    def __init__(self, model: Model, edits: Any, owner: Sequence[int], before: Sequence[str]):
        self.model, self.edits, self.owner, self.before = model, edits, owner, before

    def replies(self, asked: Sequence[tuple[int, str]]) -> list[str]:
        """The first line of what follows each (case, prompt)."""
        asks = [
            Ask(self.owner[i], self.before[i] + text, self.before[i], n_tokens=N_RIPPLE)
            for i, text in asked
        ]
        return generations(self.model, asks, self.edits)

    def likelihoods(self, asked: Sequence[tuple[int, str, str]]) -> list[tuple[float, float]]:
        """Of the target after each (case, prompt, target); see `edited_models.likelihoods`."""
        targets = [(self.owner[i], self.before[i] + text, to) for i, text, to in asked]
        return likelihoods(self.model, targets, self.edits)


Asking = Callable[[EditedModels, Sequence[SingleEdit]], list[dict[str, Any]]]


def _prompts(cases: Sequence[SingleEdit], form: str = "{}") -> list[tuple[int, str, int, str]]:
    """(case, kind, index, prompt), the neighbourhood's in a form."""
    return [
        (i, kind, n, text)
        for i, case in enumerate(cases)
        for kind, texts in (
            ("efficacy", (case.fact.cloze,)),
            ("paraphrase", case.paraphrases),
            ("neighbourhood", [form.replace("{}", text) for text in case.neighbours]),
        )
        for n, text in enumerate(texts)
    ]


def _counterfact(models: EditedModels, cases: Sequence[SingleEdit]) -> list[dict[str, Any]]:
    """Per prompt, the mean NLL per token of the new and of the true object."""
    prompts = _prompts(cases)
    both = [
        models.likelihoods([(i, text, name(cases[i])) for i, _, _, text in prompts])
        for name in (lambda case: case.fact.target, lambda case: case.true)
    ]
    return [
        _named(cases[i], kind, n) | {"nll_new": new, "nll_true": true}
        for (i, kind, n, _), (new, _), (true, _) in zip(prompts, *both, strict=True)
    ]


def _zsre(models: EditedModels, cases: Sequence[SingleEdit]) -> list[dict[str, Any]]:
    """Per prompt, the share of the answer's tokens that are the likeliest one."""
    prompts = _prompts(cases, f"{UNRELATED}{{}}?")  # as in MEMIT's released evaluation
    targets = [
        (i, text, cases[i].neighbour_answer if kind == "neighbourhood" else cases[i].fact.target)
        for i, kind, _, text in prompts
    ]
    return [
        _named(cases[i], kind, n) | {"correct": correct}
        for (i, kind, n, _), (_, correct) in zip(prompts, models.likelihoods(targets), strict=True)
    ]


def _ripple(models: EditedModels, cases: Sequence[SingleEdit]) -> list[dict[str, Any]]:
    """The edit itself, and per test whether its prerequisites held before and it passes after."""
    plain = EditedModels(models.model, [()], [0] * len(cases), [""] * len(cases))
    tests = [(i, n, *named) for i, case in enumerate(cases) for n, named in enumerate(case.tests)]
    held = _passed(plain, [(i, test.condition_queries or ()) for i, _, _, test in tests])
    passed = _passed(models, [(i, test.test_queries or ()) for i, _, _, test in tests])
    written = models.replies([(i, case.fact.cloze) for i, case in enumerate(cases)])
    edited = [case.targets[0].lenient(text) for case, text in zip(cases, written, strict=True)]
    rows = [
        _named(cases[i], criterion, n)
        | {"passed": test.passed(after), "counts": all(before) and edited[i]}
        for (i, n, criterion, test), before, after in zip(tests, held, passed, strict=True)
    ]
    return rows + [
        _named(case, "efficacy", 0) | {"passed": done, "counts": True}
        for case, done in zip(cases, edited, strict=True)
    ]


def _passed(models: EditedModels, asked: Sequence[tuple[int, Any]]) -> list[list[bool]]:
    """Of each (case, queries), which queries pass."""
    replies = iter(models.replies([(i, q.prompt) for i, queries in asked for q in queries]))
    return [[q.passed(next(replies)) for q in queries] for _, queries in asked]


def _named(case: SingleEdit, kind: str, index: int) -> dict[str, Any]:
    return {"case": case.id, "cluster": case.cluster, "kind": kind, "index": index}


ASK: Mapping[str, Asking] = {"counterfact": _counterfact, "zsre": _zsre, "ripple_edits": _ripple}
"""What is asked, by format: a table with a row per prompt or test."""


def score(rows: pd.DataFrame, format: str) -> pd.DataFrame:
    """One line of scores per edit, condition and seed, from the rows of `ASK`.

    CounterFact: ``efficacy``, ``paraphrase`` and ``neighbourhood`` (ES, PS, NS) are the shares of
    prompts after which the new object is likelier than the true one (in the neighbourhood: the true
    one); a magnitude is the difference of their per-token probabilities. zsRE: the shares of the
    answer's tokens that are the likeliest one. RippleEdits: of each criterion the share of tests
    passed, over tests whose prerequisites held before the edit, of edits that succeeded.

    Source: arXiv 2202.05262, section 3.4; arXiv 2210.07229, section 5.2.2 and its released
    evaluation; arXiv 2307.12976, section 5.1.
    """
    names = [name for name in ("condition", "seed", "case", "cluster") if name in rows]
    if format == "counterfact":
        sign = np.where(rows["kind"] == "neighbourhood", -1.0, 1.0)
        better: Any = sign * (rows["nll_true"] - rows["nll_new"])
        apart: Any = sign * (np.exp(-rows["nll_new"]) - np.exp(-rows["nll_true"]))
        made: Any = rows.assign(success=(better > 0).astype(float), magnitude=apart)
        means = made.groupby([*names, "kind"])[["success", "magnitude"]].mean().unstack()
        means.columns = [f"{k}_magnitude" if v == "magnitude" else k for v, k in means.columns]
    else:
        value = "correct" if format == "zsre" else "passed"
        valued: Any = rows.assign(value=rows[value].astype(float))
        if format == "ripple_edits":
            valued["value"] = valued["value"].where(rows["counts"])
        means = valued.groupby([*names, "kind"])["value"].mean().unstack()
    return means.reindex(columns=list(METRICS[format])).reset_index()
