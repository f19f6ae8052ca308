"""Exact effects of edges and nodes: one intervention a number, many at once in one walk.

    effect(u -> v) = m(clean) - m(clean, but v reads u from the corrupt run)

Positive = supports the answer. A row of the walk starts at the first token that differs and at
v's own layer; edges into the logits need no run at all. These are the numbers that attribution
approximates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attribution.contrast import Contrast
from interp.attribution.runs import run
from interp.blocks import bias_of, head_writes, mlp_write, norm, weight_of
from interp.calls import LayerCalls
from interp.graph import Graph
from interp.model import Model
from interp.sites import SITES
from interp.walk import Pack, Put, Rows, Write, shares_prefixes, walk_tokens

TOKENS_AT_ONCE = 4096
"""Tokens in a walk's batch, the prompts aside."""


def exact_edges(
    model: Model, contrast: Contrast, edges: Sequence[tuple[int, int]]
) -> Float[Tensor, "pair edge"]:
    """Effect of cutting each edge, alone, pair by pair.

    Args:
        model: the model.
        contrast: the pairs.
        edges: (source, destination) indices of the model's `Graph`.

    Source: "edge activation patching" of Syed et al., arXiv 2310.10348.
    """
    work = Effects(model, contrast)
    out = torch.zeros(len(contrast), len(edges), dtype=torch.float64)
    graph, wanted = work.graph, torch.tensor(edges).view(-1, 2)
    for destination in wanted[:, 1].unique().tolist():
        which = (wanted[:, 1] == destination).nonzero()[:, 0]
        out[:, which] = work.into(destination, wanted[which, 0])
    _check(graph, edges)
    return work.full[:, None] - out


def exact_nodes(
    model: Model, contrast: Contrast, nodes: Sequence[int]
) -> Float[Tensor, "pair node"]:
    """Effect of giving each node its corrupt activation, alone; everything after recomputed.

    Args:
        model: the model.
        contrast: the pairs.
        nodes: source indices of the model's `Graph`.
    """
    work = Effects(model, contrast)
    values = [work.node(node) for node in nodes]
    return work.full[:, None] - torch.stack(values, 1)


def _check(graph: Graph, edges: Sequence[tuple[int, int]]) -> None:
    for source, destination in edges:
        graph.edge(graph.edge_name(source, destination))


@dataclass(frozen=True)
class _Place:
    """Where rows are changed: a site, whose features, and what of it is put back as it was."""

    layer: int
    site: str
    features: tuple[int, ...] | None = None
    kept_z: tuple[int, ...] = ()


class Effects:
    """Both plain runs of a contrast, and the walk that patches many rows into the clean one."""

    def __init__(self, model: Model, contrast: Contrast):
        self.model, self.contrast, self.graph = model, contrast, Graph.of(model.arch)
        self.calls: LayerCalls = contrast.calls.only(contrast.clean)
        sites = ["resid_pre", "z", "mlp_out"] + ["resid_mid"] * (not self.graph.parallel)
        pair = torch.arange(len(contrast))
        with torch.no_grad():
            self.clean, self.corrupt = (
                run(model, contrast, contrast.calls.embeddings[which], pair, sites)
                for which in (contrast.clean, contrast.corrupt)
            )
            self.full = contrast.read(self.clean.final, pair).double().cpu()
        self.first = _first_difference(contrast, shares_prefixes(model))

    def change(self, source: int) -> Float[Tensor, "pair pos d_model"]:
        """Corrupt minus clean, of what a source writes to the residual stream."""
        clean, corrupt = self.clean.kept, self.corrupt.kept
        if source == 0:
            return corrupt["resid_pre"][0] - clean["resid_pre"][0]
        layer, head = divmod(source - 1, self.graph.n_heads + 1)
        if head == self.graph.n_heads:
            return corrupt["mlp_out"][layer] - clean["mlp_out"][layer]
        z = clean["z"][layer]
        moved = head_writes(self.model, layer, corrupt["z"][layer] - z)[:, head]
        path = self.model.arch.parts.ln1_post
        if path is None:
            return moved
        post, (module, _) = norm(self.model, layer, path), self.model.point(SITES["z"], layer)
        return post(module(z) + moved) - post(module(z))

    def into(self, destination: int, sources: Int[Tensor, " edge"]) -> Float[Tensor, "pair edge"]:
        """The metric with each source's edge into one destination cut."""
        with torch.no_grad():
            changes = torch.stack([self.change(s) for s in sources.tolist()])
            if destination == self.graph.logits:
                return self._logits(changes)
            layer, place = divmod(destination, 3 * self.graph.n_heads + 1)
            if place == 3 * self.graph.n_heads:
                site = "resid_pre" if self.graph.parallel else "resid_mid"
                resid = self.clean.kept[site][layer] + changes
                values = torch.stack([mlp_write(self.model, layer, x) for x in resid])
                return self._walk(_Place(layer, "mlp_out"), values)
            part, head = divmod(place, self.graph.n_heads)
            return self._branch(layer, "qkv"[part], head, changes)

    def _logits(self, changes: Tensor) -> Float[Tensor, "pair edge"]:
        pair = torch.arange(len(self.contrast))
        final = [self.contrast.read(self.clean.final + change, pair) for change in changes]
        return torch.stack(final, 1).double().cpu()

    def _branch(self, layer: int, part: str, head: int, changes: Tensor) -> Tensor:
        """Recompute one head's query, key or value.

        Keys and values are shared in a group: the heads that are not the same member of theirs
        keep their z, as if each query head had keys and values of its own.
        """
        a = self.model.arch
        group = a.n_heads // a.n_kv_heads
        unit = head if part == "q" else head // group
        features = tuple(range(unit * a.d_head, (unit + 1) * a.d_head))
        normed = norm(self.model, layer, a.parts.ln1)(self.clean.kept["resid_pre"][layer] + changes)
        values = normed @ weight_of(self.model, part, layer)[list(features)].T
        bias = bias_of(self.model, part, layer)
        values = values if bias is None else values + bias[list(features)]
        others = [h for h in range(a.n_heads) if part != "q" and h % group != head % group]
        kept = tuple(f for h in others for f in range(h * a.d_head, (h + 1) * a.d_head))
        return self._walk(_Place(layer, part, features, kept), values)

    def node(self, source: int) -> Float[Tensor, " pair"]:
        """The metric with a node's corrupt activation."""
        with torch.no_grad():
            if source == 0:
                pair = torch.arange(len(self.contrast))
                return self.contrast.read(self.corrupt.final, pair).double().cpu()
            layer, head = divmod(source - 1, self.graph.n_heads + 1)
            if head == self.graph.n_heads:
                values = self.corrupt.kept["mlp_out"][layer]
                return self._walk(_Place(layer, "mlp_out"), values[None])[:, 0]
            d = self.model.arch.d_head
            features = tuple(range(head * d, (head + 1) * d))
            values = self.corrupt.kept["z"][layer][..., list(features)]
            return self._walk(_Place(layer, "z", features), values[None])[:, 0]

    def _walk(
        self, place: _Place, values: Float[Tensor, "row pair pos width"]
    ) -> Float[Tensor, "pair row"]:
        """The metric of every pair with each of the values at a place."""
        n_pairs, n_pos = self.calls.mask.shape
        pair = torch.arange(n_pairs).repeat(len(values))
        held = int((n_pos - self.first).sum())
        step = max(1, TOKENS_AT_ONCE // max(1, held)) * n_pairs
        flat = values.flatten(0, 1)
        parts = [
            self._rows(place, p, v) for p, v in zip(pair.split(step), flat.split(step), strict=True)
        ]
        return torch.cat(parts).view(len(values), n_pairs).T.double().cpu()

    def _rows(self, place: _Place, pair: Tensor, values: Tensor) -> Float[Tensor, " row"]:
        n_pairs, n_pos = self.calls.mask.shape
        base = torch.arange(n_pairs)
        prompt = torch.cat([base, pair])
        start = torch.cat([0 * base, self.first[pair]])
        stop = torch.full_like(start, n_pos)
        layers = self.graph.n_layers
        entry = [n_pairs if at < place.layer else len(prompt) for at in range(layers)]
        rows = Rows(prompt, start, stop, stop - 1, [*entry, len(prompt)], n_pairs)
        pack = Pack(rows, n_pos)
        own = torch.arange(pack.n_tokens(n_pairs), len(pack.row))
        row, pos = pack.row[own] - n_pairs, pack.pos[own]
        put = values[row.to(values.device), pos.to(values.device)]
        writes: list[Write | Put] = [
            Put(SITES[place.site], place.layer, own, put, _per_token(place.features, own))
        ]
        if place.kept_z:
            features = _per_token(place.kept_z, own)
            writes.append(Write(SITES["z"], place.layer, own, pack.parent[own], features))
        hidden, pack = walk_tokens(self.model, self.calls, rows, writes)
        return self.contrast.read(hidden[pack.grid[n_pairs:]], pair)


def _per_token(features: tuple[int, ...] | None, tokens: Tensor) -> Tensor | None:
    return None if features is None else torch.tensor(features).expand(len(tokens), -1)


def _first_difference(contrast: Contrast, shared: bool) -> Int[Tensor, " pair"]:
    """First position from which a patched row must be recomputed; 0 where rows are whole."""
    both = contrast.calls.embeddings
    differ = (both[contrast.clean] != both[contrast.corrupt]).any(-1) & contrast.mask
    return differ.int().argmax(-1).cpu() * int(shared)
