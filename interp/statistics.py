"""Intervals for effects. One definition each, resampling prompts (never cells)."""

import numpy as np
from jaxtyping import Float


def bootstrap_mean(
    values: Float[np.ndarray, "pair ..."],
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Mean over pairs with a percentile bootstrap interval.

    Args:
        values: one value a pair on the first axis; NaN where a pair has none.
        seed: of the resampling.
        n_resamples: bootstrap resamples of the pairs, shared by all cells.
        level: coverage.

    Returns:
        (mean, low, high), each without the pair axis; NaN where no pair has a value, and an
        infinite interval where only one pair does.

    Source: Efron & Tibshirani 1993, section 13.3.
    """
    weights = resample_weights(len(values), seed, n_resamples)
    return _interval(values, weights, level)


def bootstrap_ratio(
    top: Float[np.ndarray, "pair ..."],
    bottom: Float[np.ndarray, " pair"],
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Ratio of means over pairs, both resampled together; returns as `bootstrap_mean`.

    A mean of ratios would be dominated by pairs with a small denominator; benchmarks of
    circuits use the ratio of means (MIB, arXiv 2504.13151).
    """
    weights = resample_weights(len(top), seed, n_resamples)
    present = ~np.isnan(top)
    filled = np.where(present, top, 0.0)
    shaped = bottom.reshape(-1, *[1] * (top.ndim - 1)) * present
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = filled.sum(0) / shaped.sum(0)
        draws = np.tensordot(weights, filled, 1) / np.tensordot(weights, shaped, 1)
    return _with_bounds(ratio, draws, present.sum(0), level)


def resample_weights(n: int, seed: int, n_resamples: int) -> Float[np.ndarray, "resample pair"]:
    """How often each pair is drawn in each bootstrap resample."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(float)


def _interval(values: np.ndarray, weights: np.ndarray, level: float):
    present = ~np.isnan(values)
    filled = np.where(present, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(0) / present.sum(0)
        draws = np.tensordot(weights, filled, 1) / np.tensordot(weights, present.astype(float), 1)
    return _with_bounds(mean, draws, present.sum(0), level)


def _with_bounds(centre: np.ndarray, draws: np.ndarray, n: np.ndarray, level: float):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low = np.where(n > 1, low, np.where(n == 1, -np.inf, np.nan))
    high = np.where(n > 1, high, np.where(n == 1, np.inf, np.nan))
    return centre, low, high
