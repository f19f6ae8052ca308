"""Intervals for effects: resampling prompts, or clusters of prompts, never cells.

Prompts that share an entity are not independent, so with `clusters` whole entities are drawn.
"""

import math
import warnings
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from interp.errors import StatisticsError

CELLS_AT_ONCE = 4096
"""Cells of which all resamples are held at a time."""


class Estimate(NamedTuple):
    """A value and the bounds of its interval: three floats, or three arrays of one shape."""

    value: Any
    low: Any
    high: Any

    def columns(self, name: str) -> dict[str, float]:
        """As three columns of a table: the name, and its ``_low`` and ``_high``."""
        ends = ("", "_low", "_high")
        return {f"{name}{end}": float(one) for end, one in zip(ends, self, strict=True)}


class Equivalence(NamedTuple):
    """Whether a mean is equivalent to zero, and the interval that decided it."""

    holds: Bool[np.ndarray, "..."]
    estimate: Estimate


def bootstrap_mean(
    values: Float[np.ndarray, "pair ..."],
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """Mean over pairs (the first axis) with a percentile bootstrap interval.

    NaN where a pair has no value, or a cell has none; the interval is infinite where only one pair
    or cluster has one, and too narrow with fewer than about 20. All cells share the resamples.
    `clusters` are pairs' entities, resampled with all their pairs; by default each is its own.

    Source: Efron & Tibshirani 1993, section 13.3; Davison & Hinkley 1997, section 3.8 (clusters).
    """
    present = (~np.isnan(values)).astype(float)
    filled = np.where(present, values, 0.0)
    return _ratio(filled, present, present, seed, n_resamples, level, clusters)


def bootstrap_ratio(
    top: Float[np.ndarray, "pair ..."],
    bottom: Float[np.ndarray, " pair"],
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """Ratio of means over pairs, both resampled together; otherwise as `bootstrap_mean`.

    A mean of ratios would be dominated by pairs with a small denominator; benchmarks of
    circuits use the ratio of means (MIB, arXiv 2504.13151).
    """
    present = (~np.isnan(top)).astype(float)
    filled = np.where(present, top, 0.0)
    shaped = bottom.reshape(-1, *[1] * (top.ndim - 1)) * present
    return _ratio(filled, shaped, present, seed, clusters=clusters)


def bootstrap_difference(
    first: Float[np.ndarray, "pair ..."],
    second: Float[np.ndarray, "other ..."],
    paired: bool,
    seed: int = 0,
) -> Estimate:
    """Mean of `second` minus mean of `first`, with a 95 % interval as in `bootstrap_mean`.

    `paired`: both hold the same pairs in the same order, and are resampled together.
    """
    if paired:
        return bootstrap_mean(second - first, seed)
    draws: list[np.ndarray] = []
    for values, own in ((first, seed), (second, seed + 1)):
        present = (~np.isnan(values)).astype(float)
        weights = np.vstack([np.ones(len(values)), resample_weights(len(values), own)])
        with np.errstate(invalid="ignore", divide="ignore"):
            sums = np.tensordot(weights, np.where(present, values, 0.0), 1)
            draws.append(sums / np.tensordot(weights, present, 1))
    found = draws[1] - draws[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a cell without values is all NaN
        low, high = np.nanquantile(found[1:], [0.025, 0.975], axis=0)
    n = np.minimum((~np.isnan(first)).sum(0), (~np.isnan(second)).sum(0))
    low, high = (np.where(n == 1, end, at) for end, at in ((-np.inf, low), (np.inf, high)))
    return Estimate(found[0], low, high)


def equivalence(
    differences: Float[np.ndarray, "pair ..."],
    margin: float,
    alpha: float = 0.05,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Equivalence:
    """Whether a mean difference is shown to be smaller than a margin, by two one-sided tests.

    That nothing was *found* shows nothing; a claim such as "accuracy stays intact" holds only
    if the whole 1 - 2 alpha interval, which is returned, lies inside the margin. A bootstrap knows
    no variation that it did not see: a handful of pairs that all stay the same passes too, so plan
    for hundreds. `differences` are paired; `margin` is the largest one that counts as none, in
    their unit, set beforehand; `alpha` is of either test; else as in `bootstrap_mean`.

    Source: Schuirmann 1987, J. Pharmacokinet. Biopharm. 15.
    """
    if margin <= 0:
        raise StatisticsError(
            f"margin is {margin}; give the largest difference that is still none."
        )
    estimate = bootstrap_mean(differences, seed, level=1 - 2 * alpha, clusters=clusters)
    inside = (estimate.low > -margin) & (estimate.high < margin)
    return Equivalence(np.asarray(inside), estimate)


def resample_weights(
    n: int, seed: int, n_resamples: int = 2000
) -> Float[np.ndarray, "resample unit"]:
    """How often each of `n` pairs or clusters is drawn in each bootstrap resample."""
    if n < 1:
        raise StatisticsError("there are no values to resample; give at least one pair.")
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(float)


def cluster_sums(
    values: Float[np.ndarray, "pair ..."], clusters: Sequence[Hashable] | None
) -> Float[np.ndarray, "cluster ..."]:
    """Sum over the pairs of each cluster, in order of first appearance; None: as they are."""
    if clusters is None:
        return values
    if len(clusters) != len(values):
        raise StatisticsError(
            f"{len(values)} pairs came with {len(clusters)} clusters; name one cluster per pair."
        )
    codes = {cluster: code for code, cluster in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(codes), *values.shape[1:]))
    np.add.at(sums, [codes[cluster] for cluster in clusters], values)
    return sums


def _ratio(
    top: np.ndarray,
    bottom: np.ndarray,
    present: np.ndarray,
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    sums, shape = [cluster_sums(x, clusters) for x in (top, bottom)], top.shape[1:]
    n = (cluster_sums(present, clusters) > 0).sum(0)
    weights = resample_weights(len(sums[0]), seed, n_resamples)
    parts = range(CELLS_AT_ONCE, math.prod(shape), CELLS_AT_ONCE)
    above, below = (np.split(x.reshape(len(x), -1), parts, 1) for x in sums)
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a cell without values is all NaN
        value = top.sum(0) / bottom.sum(0)
        draws = ((weights @ a) / (weights @ b) for a, b in zip(above, below, strict=True))
        ends = np.concatenate([np.nanquantile(one, quantiles, axis=0) for one in draws], 1)
    low, high = ends.reshape(2, *shape)
    low = np.where(n > 1, low, np.where(n == 1, -np.inf, np.nan))
    high = np.where(n > 1, high, np.where(n == 1, np.inf, np.nan))
    return Estimate(value, low, high)
