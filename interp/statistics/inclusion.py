"""Which components are chosen again from other prompts: inclusion, and agreement of samples.

A sample of prompts is a row of weights: how often each prompt is in it. All rows share one matrix
product with the scores of every prompt, which are computed once.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from interp.errors import StatisticsError

AT_ONCE = 2**23
"""Numbers of one stack of summed scores."""

PerPrompt = Float[np.ndarray, "prompt component"]
Weights = Float[np.ndarray, "sample prompt"]


def top_members(sizes: Float[np.ndarray, "row component"], n: int) -> Bool[np.ndarray, "row c"]:
    """The `n` largest of each row; of equal ones the first, as a stable sort has them."""
    count = sizes.shape[1]
    top = torch.from_numpy(sizes).topk(n if 0 < n <= count else count).values.numpy()
    if top.shape[1] != n or np.isnan(top).any():  # a missing score counts as the largest there
        raise StatisticsError(
            f"the top {n} of {count} components, {int(np.isnan(sizes).sum())} scores missing; "
            "choose some of them, and give each a score."
        )
    least = top[:, -1:]
    chosen, tied = sizes > least, sizes == least
    missing = n - chosen.sum(1)
    for row in np.flatnonzero(tied.sum(1) > missing):
        tied[row, np.flatnonzero(tied[row])[missing[row] :]] = False
    return chosen | tied


def inclusion(
    scores: PerPrompt, weights: Weights, n: int, absolute: bool = True
) -> Float[np.ndarray, " component"]:
    """Part of the samples in which each component is among the `n` of the largest summed score.

    `weights` are bootstrap weights (`resample_weights`), or any other samples of the prompts;
    `absolute` ranks by size of the sum, else the signed sum. The values add up to `n`.
    """
    counts = sum(top_members(sums, n).sum(0) for sums in _summed(scores, weights, absolute))
    return np.asarray(counts / len(weights))


def mean_ranks(scores: PerPrompt, weights: Weights) -> Float[np.ndarray, " component"]:
    """Mean rank by size of each component over the samples, 1 the largest.

    N + 1 - rank is the sum over n = 1 … N of the inclusion among the top n, so an order by mean
    rank is an order by inclusion averaged over all sizes.
    """
    total = np.zeros(scores.shape[1])
    places = np.arange(1, scores.shape[1] + 1)
    for sums in _summed(scores, weights, absolute=True):
        for row in sums:
            total[np.argsort(-row, kind="stable")] += places
    return total / len(weights)


def random_samples(
    n_units: int, size: int, n: int, seed: int = 0
) -> tuple[Float[np.ndarray, "draw unit"], Float[np.ndarray, "draw unit"]]:
    """`n` pairs of random samples of `size` units each, without a common unit, as 0 and 1."""
    if not 0 < 2 * size <= n_units:
        raise StatisticsError(
            f"two samples of {size} do not fit into {n_units} prompts or entities; give more."
        )
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(n_units), (n, 1)), axis=1)
    return (order < size).astype(float), (order >= n_units - size).astype(float)


def sample_agreement(
    scores: PerPrompt, first: Weights, second: Weights, n: int, absolute: bool = True
) -> tuple[Float[np.ndarray, " draw"], Float[np.ndarray, " draw"]]:
    """Of each pair of samples the Jaccard index of their top `n`, and the rank correlation.

    The latter is Spearman's, of the signed sums of all components; NaN where those are all equal.
    """
    overlaps, correlations = [], []
    both = zip(_summed(scores, first, False), _summed(scores, second, False), strict=True)
    for pair in both:
        top = [top_members(np.abs(sums) if absolute else sums, n) for sums in pair]
        overlaps.append(set_jaccard(*top))
        correlations.append(rank_correlations(*pair))
    return np.concatenate(overlaps), np.concatenate(correlations)


def set_jaccard(
    first: Bool[np.ndarray, "row c"], second: Bool[np.ndarray, "row c"]
) -> Float[np.ndarray, " row"]:
    """Jaccard index of two sets of components, row by row."""
    return (first & second).sum(1) / (first | second).sum(1)


def rank_correlations(
    first: Float[np.ndarray, "row component"], second: Float[np.ndarray, "row component"]
) -> Float[np.ndarray, " row"]:
    """Spearman's correlation, row by row; ties share their mean rank."""
    a, b = (rankdata(x, axis=1) - (x.shape[1] + 1) / 2 for x in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def _summed(scores: PerPrompt, weights: Weights, absolute: bool) -> Iterator[np.ndarray]:
    """Weighted sums of the scores, a few samples at a time, in the scores' own precision."""
    if weights.ndim != 2 or weights.shape[1] != len(scores) or not len(weights):
        raise StatisticsError(
            f"weights {list(weights.shape)} of {len(scores)} prompts; give a row per sample."
        )
    step = max(1, AT_ONCE // scores.shape[1])
    for start in range(0, len(weights), step):
        sums = weights[start : start + step].astype(scores.dtype) @ scores
        yield np.abs(sums, out=sums) if absolute else sums
