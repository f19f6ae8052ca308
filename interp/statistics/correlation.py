"""Correlations with an interval and permuted ratings, and a ridge read-out that leaves one out."""

from typing import Any

import numpy as np
from jaxtyping import Float

N_DRAWS = 999
"""Bootstrap resamples of an interval."""


def ridge_left_out(
    x: Float[np.ndarray, "word d_model"], y: Float[np.ndarray, "word *rating"]
) -> Float[np.ndarray, "word *rating"]:
    """Each word's rating, predicted by ridge regression with an intercept on all other words.

    The penalty is the mean squared length of the centred vectors; nothing is tuned. With the hat
    matrix H of all words, the prediction without word i is y_i - (y_i - (Hy)_i) / (1 - H_ii).
    """
    n, moved = len(x), x - x.mean(0)
    gram = moved @ moved.T
    hat = gram @ np.linalg.inv(gram + np.trace(gram) / n * np.eye(n)) + 1 / n
    return y - (y - hat @ y) / (1 - np.diag(hat)).reshape(-1, *[1] * (y.ndim - 1))


def pearson(x: Float[np.ndarray, "word *draw"], y: Float[np.ndarray, "word *draw"]) -> Any:
    """Pearson's r along the first axis; NaN where all values are one."""
    a, b = x - x.mean(0), y - y.mean(0)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def correlation(
    x: Float[np.ndarray, " word"],
    y: Float[np.ndarray, " word"],
    null: Float[np.ndarray, " draw"],
    rng: np.random.Generator,
) -> dict[str, float]:
    """``r`` with its 95 % bootstrap interval over words, beside r under permuted ratings.

    ``null`` is the 95th percentile of these, ``p`` the part of them that is as large.
    """
    drawn = rng.integers(len(x), size=(len(x), N_DRAWS))
    r, (low, high) = pearson(x, y), np.nanquantile(pearson(x[drawn], y[drawn]), [0.025, 0.975])
    p = (1 + (null >= r).sum()) / (1 + len(null))
    return {"r": r, "low": low, "high": high, "null": np.quantile(null, 0.95), "p": p}
