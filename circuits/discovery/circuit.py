"""`Circuit`: a set of edges of a model's graph, how it was chosen, and what it was chosen on."""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.attribution.scores import EdgeScores, NodeScores, UnitScores
from interp.errors import PlanError
from interp.model.graph import Graph, edges_of_nodes


@dataclass(frozen=True)
class Circuit:
    """Edges of a model's graph, and optionally neurons within its MLPs.

    Attributes:
        graph: the model's graph.
        edges: which edges are in the circuit.
        scores: the scores it was chosen by, where there are any; NaN where there is no edge.
        neurons: by MLP node, the neurons in the circuit; all of them where an MLP is absent.
        method: how it was found.
        model: name of the model; `weights_hash` its weights'.
        prompts: every prompt that discovery saw; evaluation refuses them.
        provenance: versions, machine and command line, filled when saved.
    """

    graph: Graph
    edges: Bool[Tensor, "source destination"] = field(repr=False)
    scores: Float[Tensor, "source destination"] | None = field(default=None, repr=False)
    neurons: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    method: str = ""
    model: str = ""
    weights_hash: str = ""
    prompts: tuple[str, ...] = field(default=(), repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def n_edges(self) -> int:
        """How many edges it has."""
        return int(self.edges.sum())

    @property
    def edge_names(self) -> tuple[str, ...]:
        """Its edges by MIB's names."""
        return tuple(self.graph.edge_name(s, d) for s, d in self.edges.nonzero().tolist())

    @property
    def nodes(self) -> tuple[str, ...]:
        """The sources that lie on its edges."""
        return tuple(np.array(self.graph.sources)[self._touched()].tolist())

    def _touched(self) -> np.ndarray:
        reads = torch.zeros(self.graph.n_sources + 1, dtype=torch.bool)
        reads[self.graph.owner[self.edges.any(0)]] = True
        return (self.edges.any(1) | reads[:-1]).numpy()

    def pruned(self) -> "Circuit":
        """Without edges that lie on no path from the input to the logits (MIB's pruning)."""
        return replace(self, edges=prune(self.graph, self.edges))

    def without(self, nodes: Iterable[str]) -> "Circuit":
        """Without all edges into and out of some nodes."""
        gone = [self.graph.node(name) for name in nodes]
        edges = self.edges.clone()
        edges[gone] = False
        edges[:, torch.isin(self.graph.owner, torch.tensor(gone, dtype=torch.long))] = False
        return replace(self, edges=edges)

    def strongest(self, n: int = 10) -> list[tuple[str, float]]:
        """The edges with the largest scores; none where it was not chosen by scores."""
        if self.scores is None:
            return []
        scored = zip(self.edge_names, self.scores[self.edges].tolist(), strict=True)
        return sorted(scored, key=lambda pair: -abs(pair[1]))[:n]

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {
            "model": self.model,
            "method": self.method,
            "n_edges": self.n_edges,
            "of_edges": self.graph.n_edges,
            "n_nodes": len(self.nodes),
            "n_neurons": sum(map(len, self.neurons.values())) if self.neurons else None,
            "n_prompts": len(self.prompts),
            "nodes": list(self.nodes),
            "top": [{"edge": name, "score": score} for name, score in self.strongest()],
        }

    def __repr__(self) -> str:
        share = self.n_edges / self.graph.n_edges
        return (
            f"Circuit({self.n_edges} of {self.graph.n_edges} edges ({share:.2%}), "
            f"{len(self.nodes)} nodes; {self.method or 'given'} on {self.model or 'no model'})"
        )


def whole(graph: Graph) -> Circuit:
    """The circuit of all edges."""
    return Circuit(graph, graph.exists.clone(), method="all edges")


def of_edges(graph: Graph, names: Iterable[str]) -> Circuit:
    """A circuit from edge names.

    Raises:
        PlanError: a name is no edge of the graph.
    """
    edges = torch.zeros_like(graph.exists)
    for name in names:
        edges[graph.edge(name)] = True
    return Circuit(graph, edges)


def prune(graph: Graph, edges: Bool[Tensor, "source destination"]) -> Bool[Tensor, "s d"]:
    """Drop nodes without an edge in or out, and their edges, until none is left."""
    while True:
        fed = torch.zeros(graph.n_sources + 1, dtype=torch.bool)
        fed[graph.owner[edges.any(0)]] = True
        alive = edges.any(1) & fed[:-1]
        alive[0] = edges[0].any()
        useful = torch.cat([alive, torch.tensor([True])])[graph.owner]
        kept = edges & alive[:, None] & useful
        if bool((kept == edges).all()):
            return kept
        edges = kept


# --- from scores -------------------------------------------------------------------------------


def edge_matrix(scores: EdgeScores) -> Float[Tensor, "source destination"]:
    """Mean scores as a matrix; NaN where there is no edge."""
    out = torch.full(scores.graph.exists.shape, float("nan"), dtype=torch.float64)
    out[scores.graph.exists] = torch.from_numpy(scores.mean().values).double()
    return out


def top_edges(scores: EdgeScores, n: int, absolute: bool = True) -> Circuit:
    """The `n` highest-scored edges, pruned.

    Args:
        scores: of all edges.
        n: how many, before pruning.
        absolute: rank by size (what matters either way: MIB's CMD), or by signed score (what
            supports the answer: CPR).

    Raises:
        PlanError: more edges than there are.
    """
    graph, matrix = scores.graph, edge_matrix(scores)
    check_size(n, graph.n_edges)
    rank = (matrix.abs() if absolute else matrix).nan_to_num(nan=-np.inf).flatten()
    edges = torch.zeros(rank.numel(), dtype=torch.bool)
    edges[rank.argsort(descending=True, stable=True)[:n]] = True
    return _chosen(scores, prune(graph, edges.view_as(matrix)), matrix, f"top {n}")


def threshold_edges(scores: EdgeScores, least: float, absolute: bool = True) -> Circuit:
    """Every edge whose score is at least `least`, pruned."""
    matrix = edge_matrix(scores)
    edges = (matrix.abs() if absolute else matrix).nan_to_num(nan=-np.inf) >= least
    return _chosen(scores, prune(scores.graph, edges), matrix, f"score >= {least:g}")


def greedy_edges(scores: EdgeScores, n: int, absolute: bool = True) -> Circuit:
    """Grow from the logits: always the best edge into a node that is already in the circuit.

    Every edge then lies on a path to the logits. Source: Hanna et al., arXiv 2403.17806.

    Raises:
        PlanError: more edges than there are.
    """
    graph, matrix = scores.graph, edge_matrix(scores)
    check_size(n, graph.n_edges)
    rank = (matrix.abs() if absolute else matrix).numpy()
    reads: dict[int, list[int]] = {}
    for destination, owner in enumerate(graph.owner.tolist()):
        reads.setdefault(owner, []).append(destination)
    edges, heap, inside = torch.zeros_like(graph.exists), [], set[int]()

    def enter(node: int) -> None:
        if node in inside:
            return
        inside.add(node)
        for destination in reads.get(node, []):
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
    check_size(n, graph.n_sources - 1)
    mean = torch.from_numpy(scores.mean().values).double()
    rank = (mean.abs() if absolute else mean)[1:]
    nodes = (1 + rank.argsort(descending=True, stable=True)[:n]).tolist()
    edges = prune(graph, edges_of_nodes(graph, [0, *nodes]))
    per_edge = torch.where(graph.exists, mean[:, None], torch.nan)
    return _chosen(scores, edges, per_edge, f"top {n} nodes")


def top_neurons(scores: UnitScores, n: int, absolute: bool = True) -> Circuit:
    """All edges, and within the MLPs only the `n` highest-scored neurons of all layers.

    Args:
        scores: of ``mlp_post`` over ``layer,neuron``.
        n: how many neurons.
        absolute: rank by size, or by signed score.

    Raises:
        PlanError: scores with other axes.
    """
    if scores.over != ("layer", "neuron"):
        raise PlanError(
            f"neuron circuits need scores over layer and neuron, not {list(scores.over)}; use "
            "attribute(model, pairs, 'mlp_post', over='layer,neuron')."
        )
    mean = torch.from_numpy(scores.mean().values)
    check_size(n, mean.numel())
    order = (mean.abs() if absolute else mean).flatten().argsort(descending=True, stable=True)[:n]
    neurons: dict[str, list[int]] = {f"m{layer}": [] for layer in range(len(mean))}
    for flat in order.sort().values.tolist():
        neurons[f"m{flat // mean.shape[1]}"].append(flat % mean.shape[1])
    chosen = _chosen(scores, scores.graph.exists.clone(), None, f"top {n} neurons")
    return replace(chosen, neurons={name: tuple(kept) for name, kept in neurons.items()})


def check_size(n: int, most: int) -> None:
    """Refuse a number of components that the graph does not have."""
    if not 0 <= n <= most:
        raise PlanError(f"cannot take {n} components: there are {most}.")


def _chosen(
    scores: EdgeScores | NodeScores | UnitScores,
    edges: Bool[Tensor, "source destination"],
    matrix: Tensor | None,
    how: str,
) -> Circuit:
    return Circuit(
        graph=scores.graph,
        edges=edges,
        scores=matrix,
        method=f"{scores.method}, {how}",
        model=scores.model,
        weights_hash=scores.weights_hash,
        prompts=scores.prompts,
    )
