"""How far two sets or rankings of components agree."""

import warnings
from collections.abc import Collection, Hashable

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import hypergeom, rankdata

from interp.errors import StatisticsError
from interp.statistics.bootstrap import Estimate


def jaccard(a: Collection[Hashable], b: Collection[Hashable]) -> float:
    """Shared part of two sets: size of the intersection over that of the union; 1 if both empty."""
    first, second = set(a), set(b)
    union = first | second
    return len(first & second) / len(union) if union else 1.0


def expected_jaccard(n: int, of: int) -> float:
    """Mean Jaccard index of two independent random sets of `n` out of `of` components.

    Their intersection is hypergeometric: E = sum over x of P(x) x / (2 n - x).
    """
    if not 0 < n <= of:
        raise StatisticsError(f"random sets of {n} of {of} components; choose 1 to {of} of them.")
    shared = np.arange(max(0, 2 * n - of), n + 1)
    return float((hypergeom.pmf(shared, of, n, n) * shared / (2 * n - shared)).sum())


def spearman(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], seed: int = 0, n_resamples: int = 2000
) -> Estimate:
    """Rank correlation of two scorings of the same components, with a bootstrap interval.

    One score per component, in any shape, NaN where there is none; components are resampled.
    The correlation is NaN where all scores of either are equal.

    Source: Spearman 1904; ties share their mean rank.
    """
    if a.shape != b.shape:
        raise StatisticsError(
            f"scores of shapes {a.shape} and {b.shape}; rank the same components."
        )
    both = ~np.isnan(a) & ~np.isnan(b)
    first, second = a[both], b[both]
    n = len(first)
    if n < 3:
        raise StatisticsError(f"{n} components have both scores; a rank correlation needs three.")
    rng = np.random.default_rng(seed)
    resamples = (rng.integers(n, size=n) for _ in range(n_resamples))
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample may hold one rank alone
        value = _rank_correlation(first, second)
        draws = [_rank_correlation(first[drawn], second[drawn]) for drawn in resamples]
        low, high = np.nanquantile(draws, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def auroc(scores: Float[np.ndarray, "..."], labels: Bool[np.ndarray, "..."]) -> float:
    """Area under the receiver operating characteristic; 0.5 is chance.

    The chance that a component of the true circuit (`labels`) outscores one outside; ties count
    one half. Source: Hanley & McNeil 1982.
    """
    inside = int(labels.sum())
    outside = labels.size - inside
    if scores.shape != labels.shape or not inside or not outside or np.isnan(scores).any():
        raise StatisticsError(
            f"scores {scores.shape}, labels {labels.shape} with {inside} true, "
            f"{int(np.isnan(scores).sum())} scores missing; give each component a score and have "
            "both labels occur."
        )
    above = rankdata(scores).reshape(labels.shape)[labels].sum() - inside * (inside + 1) / 2
    return float(above / (inside * outside))
