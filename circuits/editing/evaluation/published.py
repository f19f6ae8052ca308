"""The metrics of CounterFact, zsRE and RippleEdits, and fluency, as their papers define them."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import PlanError

COUNTERFACT = {"rewrite": "ES", "paraphrase": "PS", "neighbourhood": "NS"}


def harmonic_mean(values: Sequence[float]) -> float:
    """Harmonic mean of scores; 0 if one of them is."""
    given = np.asarray(values, float)
    if not len(given) or (given < 0).any():
        raise PlanError(f"a harmonic mean needs scores of at least 0, not {list(values)}.")
    return float(len(given) / (1 / given).sum()) if given.all() else 0.0


def counterfact_scores(rows: pd.DataFrame) -> pd.Series:
    """ES, PS, NS, their magnitudes EM, PM, NM, and the score S.

    Args:
        rows: one a prompt: ``case``, ``kind`` (``rewrite``, ``paraphrase``, ``neighbourhood``),
            and the mean negative log-likelihood a token, in nats, of the new and the true object
            after it: ``nll_new``, ``nll_true``.

    Returns:
        Means over cases of each case's mean. On rewrites and paraphrases success is that the new
        object is likelier, in the neighbourhood that the true one is; a magnitude is the
        difference of their per-token probabilities. S is the harmonic mean of ES, PS and NS.

    Source: arXiv 2202.05262, section 3.4.
    """
    sign = np.where(rows["kind"] == "neighbourhood", -1.0, 1.0)
    better: Any = sign * (rows["nll_true"] - rows["nll_new"])
    apart: Any = sign * (np.exp(-rows["nll_new"]) - np.exp(-rows["nll_true"]))
    made: Any = rows.assign(success=(better > 0).astype(float), magnitude=apart)
    means: Any = (
        made.groupby(["kind", "case"])[["success", "magnitude"]].mean().groupby("kind").mean()
    )
    missing = [kind for kind in COUNTERFACT if kind not in means.index]
    if missing:
        raise PlanError(f"no prompts of kind {', '.join(missing)}; S needs all three.")
    scores = {short: means.loc[kind, "success"] for kind, short in COUNTERFACT.items()}
    sizes = {f"{short[0]}M": means.loc[kind, "magnitude"] for kind, short in COUNTERFACT.items()}
    return pd.Series({**scores, **sizes, "S": harmonic_mean(list(scores.values()))})


def token_accuracy(rows: pd.DataFrame) -> pd.Series:
    """zsRE: share of the object's tokens that are the likeliest one, teacher-forced, by kind.

    Args:
        rows: one a token: ``case``, ``kind`` (``rewrite``, ``paraphrase``, ``neighbourhood``; of
            the last, the tokens of the unrelated question's own answer), ``correct``.

    Returns:
        For each kind, the mean over cases of the case's share; and their harmonic mean ``S``.

    Source: arXiv 2210.07229, section 5.2.2; its released evaluation.
    """
    right: Any = rows.assign(correct=rows["correct"].astype(float))
    means: Any = right.groupby(["kind", "case"])["correct"].mean().groupby("kind").mean()
    return pd.concat([means, pd.Series({"S": harmonic_mean(list(means))})])


def ripple_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """RippleEdits: accuracy by criterion.

    Args:
        rows: one a test: ``case``, ``criterion``, ``passed``, ``conditions`` (whether the model
            passed all of its condition queries before the edit) and ``edited`` (whether the edit
            itself succeeded).

    Returns:
        A row a criterion: ``accuracy`` (the mean over edits of the share of tests passed, of the
        edits that succeeded and the tests whose conditions held), ``edits`` and ``tests`` that
        count, and ``tests_left_out``.

    Source: arXiv 2307.12976, section 5.1.
    """
    rows = rows.astype({"passed": float})
    counts: Any = rows["conditions"].astype(bool) & rows["edited"].astype(bool)
    by_edit: Any = rows[counts].groupby(["criterion", "case"])["passed"].agg(["mean", "count"])
    over = by_edit.groupby("criterion")
    table: Any = pd.DataFrame(
        {
            "accuracy": over["mean"].mean(),
            "edits": over.size(),
            "tests": over["count"].sum(),
        }
    ).reindex(sorted(rows["criterion"].unique()))
    table["tests_left_out"] = (~counts).groupby(rows["criterion"]).sum()
    return table.fillna({"edits": 0, "tests": 0}).astype({"edits": int, "tests": int})


def ngram_entropy(text: str) -> float:
    """GE: fluency of a generation, in bits; papers print a hundred times its mean.

    The mean of 2/3 of the entropy of its bigrams and 4/3 of that of its trigrams; repetition
    lowers it. Words and punctuation marks are the tokens; the papers use NLTK's, which also part
    contractions, so compare figures of one tokenisation only.

    Source: arXiv 2202.05262, section 3.4, after Zhang et al. 2018.
    """
    tokens = re.findall(r"\w+|[^\w\s]", text)
    weighted = [w * _entropy(tokens, n) for n, w in ((2, 2 / 3), (3, 4 / 3))]
    return float(np.mean(weighted))


def _entropy(tokens: Sequence[str], n: int) -> float:
    grams = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    if not grams:
        return 0.0
    p = np.array(list(grams.values())) / grams.total()
    return float(-(p * np.log2(p)).sum())
