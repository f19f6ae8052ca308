"""How far two sets or rankings of components agree, and how stable one is."""

import warnings
from collections.abc import Collection, Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from interp.errors import StatisticsError
from interp.statistics.bootstrap import Estimate, cluster_sums, resample_weights


def jaccard(a: Collection[Hashable], b: Collection[Hashable]) -> float:
    """Shared part of two sets: size of the intersection over that of the union; 1 if both empty."""
    first, second = set(a), set(b)
    union = first | second
    return len(first & second) / len(union) if union else 1.0


def stability(
    scores: Float[np.ndarray, "example component"],
    top_n: int,
    n_resamples: int = 100,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """How much of a circuit would be chosen again from other prompts.

    In each bootstrap resample of the examples the `top_n` components by mean score are chosen (of
    equal means the first); the estimate is the mean Jaccard index over all pairs of resamples, with
    the central 95 % of them. Larger scores are more, so pass absolute values to ignore signs; NaN
    where an example has none. `clusters` are examples' entities, resampled with all their examples.

    Source: Jaccard 1901, over bootstrap resamples as Méloux et al. do for circuits.
    """
    if not 0 < top_n < scores.shape[1] or n_resamples < 2:
        raise StatisticsError(
            f"the top {top_n} of {scores.shape[1]} components in {n_resamples} resamples; choose "
            "some, not all of them, and resample at least twice."
        )
    present = ~np.isnan(scores)
    sums = cluster_sums(np.where(present, scores, 0.0), clusters)
    counts = cluster_sums(present.astype(float), clusters)
    weights = resample_weights(len(sums), seed, n_resamples)
    with np.errstate(invalid="ignore"):
        means = np.nan_to_num(weights @ sums / (weights @ counts), nan=-np.inf)
    top = np.argsort(-means, axis=1, kind="stable")[:, :top_n]
    member = np.zeros_like(means)
    np.put_along_axis(member, top, 1.0, axis=1)
    shared = (member @ member.T)[np.triu_indices(n_resamples, 1)]
    overlap = shared / (2 * top_n - shared)
    low, high = np.quantile(overlap, [0.025, 0.975])
    return Estimate(float(overlap.mean()), float(low), float(high))


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
