"""Edges, attributed and exact, beside plain hooks: what a source writes is measured."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from conformance.plain_hooks import Place, at_site, plain_runs_of, put, word_pairs
from interp.attribution.attribute import attribute_edges
from interp.model.graph import Graph
from interp.model.model import Model

Vector = Float[Tensor, "1 pos d_model"]


def edges_beside_plain_hooks(model: Model) -> tuple[float, str]:
    """Largest absolute difference of an edge's score or effect, and what was compared.

    Attribution (`eap`): every edge into an MLP and into the logits, and all edges of a source into
    the queries, keys and values of a layer, summed. Exact effects: edges into MLPs, logits and
    queries.
    """
    graph = Graph.of(model.arch)
    pairs = word_pairs()[:1]
    eap, exact = (
        attribute_edges(model, pairs, method, progress=False).values[0]
        for method in ("eap", "exact")
    )
    edges = _PlainEdges(model, graph)
    worst, n = 0.0, 0
    slopes = edges.slopes()
    for source in range(graph.n_sources):
        name, change, linear = graph.sources[source], edges.change(source), edges.linear(source)
        for end, slope in slopes.items():
            ends = _ends(graph, end)
            own = [f"{name}->{each}" for each in ends if f"{name}->{each}" in eap.edge.values]
            if own:
                got = float(eap.sel(edge=own).sum())
                worst, n = max(worst, abs(got + float((slope * linear).sum()))), n + 1
        for end in [name for name in graph.destinations if "<k>" not in name and "<v>" not in name]:
            edge = f"{name}->{end}"
            if edge in exact.edge.values:
                got = float(exact.sel(edge=edge))
                worst, n = max(worst, abs(got - edges.effect(end, change))), n + 1
    return worst, f"{n} edges or sums of edges"


def _ends(graph: Graph, end: str) -> list[str]:
    """Destinations by name; ``a3``: queries, keys and values of layer 3."""
    return [name for name in graph.destinations if name == end or name.startswith(f"{end}.h")]


class _PlainEdges:
    """What each source writes differently in the corrupt run, and how the clean run reads it."""

    def __init__(self, model: Model, graph: Graph):
        self.model, self.graph, self.plain = model, graph, plain_runs_of(model)[0]
        self.full = float(self.plain.metric(self.plain.clean))
        self.resid: dict[tuple[str, int], Vector] = {}

    def change(self, source: int) -> Vector:
        """Corrupt minus clean, as the block's output moves when the source's activation does."""
        plain = self.plain
        if source == 0:
            corrupt, clean = (
                plain.seen(ids, "resid_pre", 0) for ids in (plain.corrupt, plain.clean)
            )
            return corrupt - clean
        layer, places = self.corrupted(source)
        of_head = self.graph.sources[source].startswith("a")
        read = "resid_mid" if of_head and not self.graph.parallel else "resid_post"
        return plain.seen(plain.clean, read, layer, places) - plain.seen(plain.clean, read, layer)

    def corrupted(self, source: int) -> tuple[int, list[Place]]:
        """A head's or an MLP's layer, and its output in the corrupt run put into another."""
        layer, head = divmod(source - 1, self.graph.n_heads + 1)
        width, site, where = self.model.arch.d_head, "mlp_out", ...
        if head < self.graph.n_heads:
            site, where = "z", (..., slice(head * width, (head + 1) * width))
        value = self.plain.seen(self.plain.corrupt, site, layer)
        return layer, [at_site(self.model, site, layer, put(value, where))]

    def linear(self, source: int) -> Vector:
        """As `change`, with the norm behind attention in its first-order form."""
        if source == 0 or self.graph.sources[source].startswith("m"):
            return self.change(source)
        layer, places = self.corrupted(source)
        path = self.model.parts(layer).ln1_post
        if path is None:
            return self.change(source)
        norm, found = self.model.blocks[layer].get_submodule(path), list[Tensor]()

        def keep(x: Tensor) -> Tensor:
            found.append(x.detach())
            return x

        for changes in ([], places):
            self.plain.metric(self.plain.clean, [*changes, (norm, "in", keep)])
        moved = torch.func.jvp(norm, (found[0],), (found[1] - found[0],))[1]
        return self.model.parts(layer).attn_scale * moved

    def slopes(self) -> dict[str, Vector]:
        """Gradient of the metric at what each MLP, each layer's attention and the logits read."""
        zeros = torch.zeros_like(self.plain.seen(self.plain.clean, "resid_pre", 0))
        starts = {
            end: zeros.clone().requires_grad_(True)
            for end in dict.fromkeys(name.partition(".")[0] for name in self.graph.destinations)
        }
        places = [place for end, start in starts.items() for place in self.reads(end, start)]
        metric = self.plain.metric(self.plain.clean, places)
        found = torch.autograd.grad(metric, list(starts.values()))
        return dict(zip(starts, found, strict=True))

    def effect(self, end: str, change: Vector) -> float:
        """The metric's fall when one destination reads a source as it is in the corrupt run."""
        name, _, part = end.partition("<")
        places = self.reads(name.partition(".")[0], change)
        if part:
            layer, head = (int(x) for x in name[1:].split(".h"))
            width = self.model.arch.d_head
            query = self.plain.seen(self.plain.clean, "q", layer, places)
            where = (..., slice(head * width, (head + 1) * width))
            places = [at_site(self.model, "q", layer, put(query, where))]
        return self.full - float(self.plain.metric(self.plain.clean, places))

    def reads(self, end: str, shift: Vector) -> list[Place]:
        """Let one destination read the residual stream plus a shift."""
        if end == "logits":
            last = self.model.arch.n_layers - 1
            return [at_site(self.model, "resid_post", last, lambda x: x + shift)]
        layer = int(end[1:])
        block, parts = self.model.blocks[layer], self.model.parts(layer)
        stream = "resid_pre" if self.graph.parallel or end[0] == "a" else "resid_mid"
        if (stream, layer) not in self.resid:
            self.resid[stream, layer] = self.plain.seen(self.plain.clean, stream, layer)
        resid = self.resid[stream, layer]
        path = parts.ln1 if end[0] == "a" else parts.ln2
        # forward, since hooks on the norm itself must not see this
        norm: Callable[[Tensor], Tensor] = (
            block.get_submodule(path).forward if path else lambda x: x
        )

        def read(x: Tensor) -> Tensor:
            return x + (norm(resid + shift) - norm(resid))

        if end[0] == "m":
            return [(block.get_submodule(parts.mlp), "in", read)]
        if parts.ln1 and parts.ln1 != parts.ln2:  # attention may take it three times
            return [(block.get_submodule(parts.ln1), "out", read)]
        attention = self.model.attention(layer)
        assert attention is not None
        return [(attention, "in", read)]
