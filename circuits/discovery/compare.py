"""How alike circuits are: overlap of edges and nodes, and stability over resampled prompts."""

from dataclasses import dataclass

import numpy as np

from circuits.discovery.circuit import Circuit
from interp.attribution.scores import Scores
from interp.brief import brief
from interp.errors import PlanError
from interp.statistics import Estimate, jaccard, spearman, stability


@brief
@dataclass(frozen=True)
class Overlap:
    """Two circuits of one model beside each other.

    Attributes:
        edges, nodes: Jaccard overlap: shared / either.
        expected: Jaccard overlap of two random edge sets of these sizes, in expectation.
        shared_edges: edges in both.
        only_first, only_second: nodes that one alone has.
        rank_correlation: Spearman correlation of their scores over all edges, where both score
            every edge; else ``None``.
    """

    edges: float
    nodes: float
    expected: float
    shared_edges: int
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    rank_correlation: float | None


def overlap(first: Circuit, second: Circuit) -> Overlap:
    """Compare two circuits.

    Raises:
        PlanError: circuits of differently shaped models.
    """
    if first.graph != second.graph:
        raise PlanError(f"{first!r} and {second!r} are of differently shaped models.")
    a, b = set(first.edge_names), set(second.edge_names)
    nodes = set(first.nodes), set(second.nodes)
    chance = len(a) * len(b) / first.graph.n_edges
    union, exists, correlation = len(a) + len(b) - chance, first.graph.exists, None
    if first.scores is not None and second.scores is not None:
        x, y = first.scores[exists].numpy(), second.scores[exists].numpy()
        if np.isfinite(x + y).all():
            # One resample: only the value is wanted, and there may be a million edges.
            correlation = float(spearman(x, y, n_resamples=1).value)
    return Overlap(
        edges=jaccard(a, b),
        nodes=jaccard(*nodes),
        expected=chance / union if union else 1.0,
        shared_edges=len(a & b),
        only_first=tuple(sorted(nodes[0] - nodes[1])),
        only_second=tuple(sorted(nodes[1] - nodes[0])),
        rank_correlation=correlation,
    )


def score_stability(scores: Scores, top_n: int, n_resamples: int = 50, seed: int = 0) -> Estimate:
    """Mean Jaccard overlap of the `top_n` largest components between resamples of the pairs.

    Source: Meloux et al. recommend 0.8 or more.
    """
    flat = np.abs(scores.values.values.reshape(scores.n_pairs, -1))
    return stability(flat, top_n, n_resamples=n_resamples, seed=seed)
