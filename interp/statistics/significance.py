"""p-values and proportions: permutation, random controls, McNemar, Wilson, false discoveries."""

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from interp.errors import StatisticsError
from interp.statistics.bootstrap import Estimate, cluster_sums


def sign_flip_test(
    differences: Float[np.ndarray, "pair ..."],
    seed: int = 0,
    n_permutations: int = 10_000,
    clusters: Sequence[Hashable] | None = None,
) -> Float[np.ndarray, "..."]:
    """Two-sided p-value per cell of a mean paired difference, by flipping signs.

    Under the null either sign of a difference is as likely. All 2^n flips are enumerated if
    they are no more than `n_permutations`; otherwise they are drawn, the same ones for all cells,
    and the observed one counts. NaN where a pair, or a cell, has no difference; `clusters` are
    pairs' entities, whose pairs flip together.

    Source: Fisher 1935, section 21; Phipson & Smyth 2010 (the added one).
    """
    present = ~np.isnan(differences)
    sums = cluster_sums(np.where(present, differences, 0.0), clusters)
    n = len(sums)
    if n < 1:
        raise StatisticsError("there are no differences to test; give at least one pair.")
    exact = 2**n <= n_permutations
    if exact:
        flips = 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        flips = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_permutations, n))
    # equal sums may differ in their last bits, by the order of addition
    least = np.abs(sums.sum(0)) - 1e-9 * np.abs(sums).sum(0)
    blocks = np.array_split(flips, len(flips) // 1000 + 1)  # bounds the memory of many cells
    count = sum((np.abs(np.tensordot(block, sums, 1)) >= least).sum(0) for block in blocks)
    p = count / len(flips) if exact else (1 + count) / (1 + n_permutations)
    return np.where(present.any(0), p, np.nan)


def empirical_p(
    observed: Float[np.ndarray, "..."] | float,
    null: Float[np.ndarray, "draw ..."],
    side: Literal["greater", "less", "two-sided"] = "greater",
) -> Float[np.ndarray, "..."]:
    """p-value of a statistic among those of N random controls: (1 + #{null >= observed}) / (1 + N).

    Such as the effect of ablating a circuit. `null` has the controls on the first axis; `side` says
    which ones count as at least as extreme: ``two-sided`` doubles the smaller p-value.

    Source: Davison & Hinkley 1997, equation 4.11.
    """
    if len(null) < 1 or np.isnan(null).any() or np.isnan(observed).any():
        raise StatisticsError(
            f"{len(null)} random controls, {int(np.isnan(null).sum())} values missing; give at "
            "least one control and drop cells without a value."
        )
    greater = (1 + (null >= observed).sum(0)) / (1 + len(null))
    less = (1 + (null <= observed).sum(0)) / (1 + len(null))
    both = np.minimum(1, 2 * np.minimum(greater, less))
    return np.asarray({"greater": greater, "less": less, "two-sided": both}[side])


def benjamini_hochberg(p: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Adjust a family of p-values; keeping those below q bounds the false discovery rate by q.

    All p-values of the family, in any shape, NaN where there was no test.
    Source: Benjamini & Hochberg 1995; valid for independent or positively dependent tests.
    """
    tested = ~np.isnan(p)
    if ((p < 0) | (p > 1)).any():
        raise StatisticsError("p-values lie between 0 and 1; adjust the raw ones, once.")
    adjusted = np.full(p.shape, np.nan)
    if tested.any():
        adjusted[tested] = stats.false_discovery_control(p[tested])
    return adjusted


def wilson(k: int, n: int, level: float = 0.95) -> Estimate:
    """Proportion k / n of independent trials with its Wilson score interval.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001.
    """
    if not 0 <= k <= n or n < 1:
        raise StatisticsError(
            f"{k} successes of {n} trials; a proportion needs 0 <= k <= n, n > 0."
        )
    low, high = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    return Estimate(k / n, float(low), float(high))


def discordant(
    first: Bool[np.ndarray, " pair"], second: Bool[np.ndarray, " pair"]
) -> tuple[int, int]:
    """How many pairs only the first, and only the second condition got right: for `mcnemar`."""
    if first.shape != second.shape:
        raise StatisticsError(
            f"{len(first)} outcomes against {len(second)}; compare the same pairs, in one order."
        )
    return int((first & ~second).sum()), int((second & ~first).sum())


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided p-value that two conditions are right equally often on the same pairs.

    `b` pairs only the first got right, `c` only the second. Source: McNemar 1947, binomial form.
    """
    return float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0
