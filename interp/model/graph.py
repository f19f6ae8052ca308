"""The computation graph of a transformer: what writes to the residual stream, and what reads it.

Nodes that write ("sources"): the embedding, every head, every MLP. What reads ("destinations"):
each head's query, key and value, every MLP, the logits. An edge joins a source to a destination
that is computed after it. Scores of all edges are one matrix (source, destination).

Convention: EAP-IG and MIB (arXiv 2504.13151); keys and values are read once per *query* head.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import PlanError, shown
from interp.model.architecture import Architecture

_EDGE = re.compile(r"(.+?)->(.+?)(?:<([qkv])>)?")
_IN_PAPERS = re.compile(r"L(\d+)(?:H(\d+)|MLP|([NE])(\d+))", re.IGNORECASE)


@dataclass(frozen=True)
class Graph:
    """Shapes that fix the graph; everything else is index arithmetic, layer by layer.

    In a `parallel` model MLPs read the block's input instead of its heads.
    """

    n_layers: int
    n_heads: int
    d_model: int
    parallel: bool

    @classmethod
    def of(cls, arch: Architecture) -> "Graph":
        """The graph of a model; `PlanError` where its blocks cannot be taken apart into edges."""
        for layer, block in enumerate(arch.layers):
            if block.whole is not None:
                raise PlanError(
                    f"this model cannot be taken apart into edges: in layer {layer}, {block.whole}."
                )
            needed = ("resid_mid",) * (not block.parts.parallel) + ("q", "k", "v", "z", "mlp_out")
            absent = next((site for site in needed if site not in block.points), None)
            if absent is not None:
                raise PlanError(
                    f"this model cannot be taken apart into edges: layer {layer} has no site "
                    f"{absent!r} ({block.missing[absent]})."
                )
        parallel = {block.parts.parallel for block in arch.layers}
        if len(parallel) > 1:
            raise PlanError(
                "this model cannot be taken apart into edges: in some layers attention and MLP "
                "run in parallel, in others one after the other."
            )
        return cls(arch.n_layers, arch.n_heads, arch.d_model, parallel.pop())

    @property
    def n_sources(self) -> int:
        """Embedding, heads and MLPs."""
        return self.before_attention(self.n_layers)

    def heads(self, layer: int) -> slice:
        """Sources: the heads of a layer."""
        start = self.before_attention(layer)
        return slice(start, start + self.n_heads)

    def mlp(self, layer: int) -> int:
        """Source: the MLP of a layer."""
        return (layer + 1) * (self.n_heads + 1)

    def before_attention(self, layer: int) -> int:
        """How many sources come before a layer's heads read."""
        return 1 + layer * (self.n_heads + 1)

    def before_mlp(self, layer: int) -> int:
        """How many sources come before a layer's MLP reads."""
        return self.before_attention(layer) + (0 if self.parallel else self.n_heads)

    @property
    def n_destinations(self) -> int:
        """Queries, keys, values, MLPs and the logits."""
        return self.n_layers * (3 * self.n_heads + 1) + 1

    def qkv(self, layer: int) -> slice:
        """Destinations: queries, then keys, then values of a layer's heads."""
        start = layer * (3 * self.n_heads + 1)
        return slice(start, start + 3 * self.n_heads)

    def mlp_in(self, layer: int) -> int:
        """Destination: the MLP of a layer."""
        return layer * (3 * self.n_heads + 1) + 3 * self.n_heads

    @property
    def logits(self) -> int:
        """Destination: the logits."""
        return self.n_destinations - 1

    def n_before(self, destination: int) -> int:
        """How many sources a destination can read: the first so many."""
        layer, place = divmod(destination, 3 * self.n_heads + 1)
        reads_mlp = place == 3 * self.n_heads
        return self.before_mlp(layer) if reads_mlp else self.before_attention(layer)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources: ``input``, ``a3.h1``, ``m3``."""
        heads = range(self.n_heads)
        blocks = ([*(f"a{i}.h{head}" for head in heads), f"m{i}"] for i in range(self.n_layers))
        return "input", *(name for block in blocks for name in block)

    @cached_property
    def destinations(self) -> tuple[str, ...]:
        """Names of the destinations: ``a3.h1<q>``, ``m3``, ``logits``."""
        reads = [(part, head) for part in "qkv" for head in range(self.n_heads)]
        blocks = ([*(f"a{i}.h{h}<{p}>" for p, h in reads), f"m{i}"] for i in range(self.n_layers))
        return *(name for block in blocks for name in block), "logits"

    @cached_property
    def owner(self) -> Int[Tensor, " destination"]:
        """The source that each destination feeds; `n_sources` stands for the logits."""
        names = [name.partition("<")[0] for name in self.destinations[:-1]]
        return torch.tensor([*(self._index[0][name] for name in names), self.n_sources])

    @cached_property
    def exists(self) -> Bool[Tensor, "source destination"]:
        """Which (source, destination) pairs are edges."""
        before = torch.tensor([self.n_before(d) for d in range(self.n_destinations)])
        return torch.arange(self.n_sources)[:, None] < before

    @cached_property
    def n_edges(self) -> int:
        """Number of edges."""
        return int(self.exists.sum())

    def edge_name(self, source: int, destination: int) -> str:
        """MIB's name of an edge, e.g. ``a5.h3->a9.h2<q>``."""
        return f"{self.sources[source]}->{self.destinations[destination]}"

    @cached_property
    def edge_names(self) -> tuple[str, ...]:
        """All edges' names, in the order of ``exists.nonzero()``."""
        return tuple(self.edge_name(s, d) for s, d in self.exists.nonzero().tolist())

    @cached_property
    def _index(self) -> tuple[dict[str, int], dict[str, int]]:
        named = (self.sources, self.destinations)
        of_source, of_destination = ({name: i for i, name in enumerate(names)} for names in named)
        return of_source, of_destination

    def node(self, name: str) -> int:
        """Index of a source by its name; `PlanError` where this model has no such node."""
        name = component_name(name)
        if name not in self._index[0]:
            raise PlanError(
                f"no node {shown(name)}: nodes are 'input', 'm<layer>' and 'a<layer>.h<head>', "
                f"with {self.n_layers} layers and {self.n_heads} heads here."
            )
        return self._index[0][name]

    def edge(self, name: str) -> tuple[int, int]:
        """Indices of an edge by its name; `PlanError` where this model has no such edge."""
        match = _EDGE.fullmatch(name)
        end = match and component_name(match[2])
        destination = f"{end}<{match[3]}>" if match and match[3] else end
        if match is None or destination not in self._index[1]:
            raise PlanError(
                f"no edge {shown(name)}: edges are written 'a5.h3->a9.h2<q>', 'm1->logits'."
            )
        pair = self.node(match[1]), self._index[1][destination]
        if not self.exists[pair]:
            raise PlanError(
                f"no edge {shown(name)}: {destination} is computed before {match[1]} writes."
            )
        return pair


def component_name(name: str) -> str:
    """``L3H1``, ``L5MLP``, ``L5N17``, ``L5E2`` as ``a3.h1``, ``m5``, ``m5.n17``, ``m5.e2``.

    Other texts stay as they are.
    """
    match = _IN_PAPERS.fullmatch(name)
    if match is None:
        return name
    layer, head, letter, unit = match.groups()
    if head is not None:
        return f"a{layer}.h{head}"
    return f"m{layer}" if letter is None else f"m{layer}.{letter.lower()}{unit}"


def edges_of_nodes(graph: Graph, nodes: Sequence[int]) -> Bool[Tensor, "source destination"]:
    """All edges that leave the given sources (MIB's circuit of nodes)."""
    kept = torch.zeros(graph.n_sources, dtype=torch.bool)
    kept[list(nodes)] = True
    return graph.exists & kept[:, None]
