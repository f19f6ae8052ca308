"""Whether prompts fall into groups by their scores: given groups, and those that are found.

A silhouette is 1 where each prompt is much nearer to its own group than to the next one, and 0
where groups make no difference.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score

from interp.brief import brief
from interp.errors import StatisticsError
from interp.statistics.bootstrap import Estimate
from interp.statistics.significance import empirical_p

Points = Float[np.ndarray, "prompt axis"]
Codes = Int[np.ndarray, " prompt"]


@brief
@dataclass(frozen=True)
class Grouping:
    """Groups of prompts, and how clear they are.

    Attributes:
        labels: group of each prompt, 0 the largest.
        silhouette: mean over prompts.
        p: part of the comparison data with a silhouette at least as large.
        by_chance: mean silhouette of the comparison data, with its central 95 %.
    """

    labels: tuple[int, ...]
    silhouette: float
    p: float
    by_chance: Estimate


def coordinates(scores: Float[np.ndarray, "prompt component"]) -> Points:
    """Prompts as points whose distances are those of their scores, each scaled to length 1.

    Squared distance = 2 - 2 cosine, so what counts is which components a prompt uses, not how much
    metric it has. At most as many axes as prompts, centred.
    """
    norms = np.linalg.norm(scores.astype(float), axis=1)
    if len(scores) < 3 or not (np.isfinite(norms) & (norms > 0)).all():
        raise StatisticsError(
            f"{len(scores)} prompts, {int((~(norms > 0)).sum())} of them without any score; groups "
            "need three prompts or more with scores."
        )
    gram = (scores @ scores.T).astype(float) / np.outer(norms, norms)
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    values, vectors = np.linalg.eigh(centred)
    return vectors * np.sqrt(values.clip(0))


def silhouette_test(
    points: Points, labels: Sequence[Hashable], seed: int = 0, n_permutations: int = 1000
) -> Grouping:
    """How clear given groups are, beside the same labels dealt to the prompts at random.

    Source: Rousseeuw 1987 (silhouette); a permutation test.
    """
    names = sorted(set(labels), key=lambda name: (-list(labels).count(name), str(name)))
    codes = np.array([names.index(label) for label in labels])
    if not 1 < len(names) < len(codes):
        raise StatisticsError(
            f"{len(names)} groups of {len(codes)} prompts; silhouettes need at least two groups, "
            "of which one has two prompts."
        )
    distances, rng = squareform(pdist(points)), np.random.default_rng(seed)
    null = [_silhouette(distances, rng.permutation(codes)) for _ in range(n_permutations)]
    return _grouping(codes, _silhouette(distances, codes), null)


def found_groups(points: Points, most: int = 6, seed: int = 0, n_null: int = 200) -> Grouping:
    """The 2 to `most` groups of the clearest silhouette, beside data without groups.

    Groups are cut from Ward's tree. The comparison data are as many points of one normal
    distribution with the covariance of these points, grouped in the same way: axes along which
    prompts vary are not groups yet.

    Source: Ward 1963; Liu et al. 2008 (SigClust, for the comparison data).
    """
    n = len(points)
    if n < 4 or most < 2:
        raise StatisticsError(f"{n} prompts into 2 to {most} groups; give four prompts or more.")
    rng = np.random.default_rng(seed)
    codes, value = _clearest(points, most)
    centred = points - points.mean(0)
    draws = (rng.standard_normal((n, n)) @ centred / np.sqrt(n - 1) for _ in range(n_null))
    return _grouping(codes, value, [_clearest(drawn, most)[1] for drawn in draws])


def _silhouette(distances: Float[np.ndarray, "prompt prompt"], codes: Codes) -> float:
    return float(silhouette_score(distances, codes, metric="precomputed"))


def _clearest(points: Points, most: int) -> tuple[Codes, float]:
    apart = pdist(points)
    tree, distances = linkage(apart, "ward"), squareform(apart)
    best: tuple[Codes, float] | None = None
    for k in range(2, min(most, len(points) - 1) + 1):
        codes = fcluster(tree, k, "maxclust") - 1
        value = _silhouette(distances, codes) if codes.max() else -1.0  # equal points stay together
        if codes.max() and (best is None or value > best[1]):
            best = codes, value
    if best is None:
        return np.zeros(len(points), dtype=int), 0.0
    order = np.argsort(-np.bincount(best[0]), kind="stable")
    return np.argsort(order)[best[0]], best[1]


def _grouping(codes: Codes, value: float, null: Sequence[float]) -> Grouping:
    drawn = np.array(null)
    low, high = np.quantile(drawn, [0.025, 0.975])
    chance = Estimate(float(drawn.mean()), float(low), float(high))
    return Grouping(tuple(codes.tolist()), value, float(empirical_p(value, drawn)), chance)
