"""Circuits from scores: the best edges, nodes or neurons, by size or by sign."""

import heapq
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.discovery.circuit import Circuit, prune
from interp.attribution.scores import EdgeScores, NodeScores, Scores, UnitScores
from interp.errors import PlanError
from interp.model.graph import edges_of_nodes

Matrix = Float[Tensor, "source destination"]


def edge_matrix(scores: EdgeScores) -> Matrix:
    """Mean scores as a matrix; NaN where there is no edge."""
    out = torch.full(scores.graph.exists.shape, float("nan"), dtype=torch.float64)
    out[scores.graph.exists] = torch.from_numpy(scores.mean().values).double()
    return out


def top_edges(scores: EdgeScores, n: int, absolute: bool = True) -> Circuit:
    """The `n` highest-scored edges, pruned; `PlanError` where there are fewer.

    `absolute` ranks by size (what matters either way: MIB's CMD), else by signed score (what
    supports the answer: CPR).
    """
    graph, matrix = scores.graph, edge_matrix(scores)
    _check_size(n, graph.n_edges)
    rank = (matrix.abs() if absolute else matrix).nan_to_num(nan=-np.inf).flatten()
    edges = torch.zeros(rank.numel(), dtype=torch.bool)
    taken, near = _first(scores, rank, n)
    edges[taken] = True
    return _chosen(scores, prune(graph, edges.view_as(matrix)), matrix, f"top {n}{near}")


def threshold_edges(scores: EdgeScores, least: float, absolute: bool = True) -> Circuit:
    """Every edge whose score is at least `least`, pruned."""
    matrix = edge_matrix(scores)
    edges = (matrix.abs() if absolute else matrix).nan_to_num(nan=-np.inf) >= least
    return _chosen(scores, prune(scores.graph, edges), matrix, f"score >= {least:g}")


def greedy_edges(scores: EdgeScores, n: int, absolute: bool = True) -> Circuit:
    """Grow from the logits: always the best edge into a node that is already in the circuit.

    Every edge then lies on a path to the logits. Source: Hanna et al., arXiv 2403.17806.
    """
    graph, matrix = scores.graph, edge_matrix(scores)
    _check_size(n, graph.n_edges)
    rank = (matrix.abs() if absolute else matrix).numpy()
    edges, heap, inside = torch.zeros_like(graph.exists), [], set[int]()

    def enter(node: int) -> None:
        if node in inside:
            return
        inside.add(node)
        for destination in (graph.owner == node).nonzero()[:, 0].tolist():
            for source in range(graph.n_before(destination)):
                heapq.heappush(heap, (-rank[source, destination], source, destination))

    enter(graph.n_sources)
    for _ in range(n):
        if not heap:
            break
        _, source, destination = heapq.heappop(heap)
        edges[source, destination] = True
        enter(source)
    return _chosen(scores, prune(graph, edges), matrix, f"greedy {n}")


def top_nodes(scores: NodeScores, n: int, absolute: bool = True) -> Circuit:
    """The `n` highest-scored heads and MLPs with all their outgoing edges (MIB's node circuits).

    The embedding is always in the circuit, and not counted: without it nothing is fed.
    """
    graph = scores.graph
    _check_size(n, graph.n_sources - 1)
    mean = torch.from_numpy(scores.mean().values).double()
    rank = (mean.abs() if absolute else mean)[1:]
    taken, near = _first(scores, rank, n)
    edges = prune(graph, edges_of_nodes(graph, [0, *(1 + taken).tolist()]))
    per_edge = torch.where(graph.exists, mean[:, None], torch.nan)
    return _chosen(scores, edges, per_edge, f"top {n} nodes{near}")


def top_neurons(scores: UnitScores, n: int, absolute: bool = True) -> Circuit:
    """All edges, and of the MLPs the `n` neurons of the highest scores over ``layer,neuron``."""
    if scores.over != ("layer", "neuron"):
        raise PlanError(
            f"neuron circuits need scores over layer and neuron, not {list(scores.over)}; use "
            "attribute(model, pairs, 'mlp_post', over='layer,neuron')."
        )
    mean = torch.from_numpy(scores.mean().values)
    _check_size(n, mean.numel())
    order, near = _first(scores, (mean.abs() if absolute else mean).flatten(), n)
    names = [f"m{layer}" for layer in scores.values["layer"].values]  # of those with neurons
    neurons: dict[str, list[int]] = {name: [] for name in names}
    for flat in order.sort().values.tolist():
        neurons[names[flat // mean.shape[1]]].append(flat % mean.shape[1])
    chosen = _chosen(scores, scores.graph.exists.clone(), None, f"top {n} neurons{near}")
    return replace(chosen, neurons={name: tuple(kept) for name, kept in neurons.items()})


def _first(scores: Scores, rank: Float[Tensor, " unit"], n: int) -> tuple[Tensor, str]:
    """The `n` of largest rank, ties by place, and how many others rounding could put there."""
    order = rank.argsort(descending=True, stable=True)
    least = rank[order[n - 1 : n]] - scores.rounding
    near = int((rank[order[n:]] >= least).sum()) if n else 0
    said = f", {near} left out are within rounding of the last" * bool(near)
    return order[:n], said


def _check_size(n: int, most: int) -> None:
    if not 0 <= n <= most:
        raise PlanError(f"cannot take {n} components: there are {most}.")


def _chosen(scores: Scores, edges: Tensor, matrix: Matrix | None, how: str) -> Circuit:
    return Circuit(
        graph=scores.graph,
        edges=edges,
        scores=matrix,
        method=f"{scores.method}, {how}",
        model=scores.model,
        weights_hash=scores.weights_hash,
        prompts=scores.prompts,
    )
