"""Exact effects of edges, nodes and paths: one intervention per number, many in a packed forward.

    effect(u -> v) = m(clean) - m(clean, but v reads u from the corrupt run)
    effect(u -> v -> ... -> w) = m(clean) - m(clean, but w reads v as it is when v reads u corrupt)

Positive = supports the answer. A row starts at the first token that differs and at v's own layer;
edges into the logits need no run at all. These are the numbers that attribution approximates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast, contrasts, plain_runs, run
from interp.data.pairs import AnswerMode, PromptPairs, load_pairs, tokenise, warn_of
from interp.errors import PlanError
from interp.forward.blocks import attend, bias_of, head_writes, mlp_write, norm, weight_of
from interp.forward.packed import BatchEdit, Pack, Rows, Write, run_packed, shares_prefixes
from interp.metrics import AnyMetric
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import SITES

TOKENS_AT_ONCE = 4096
"""Tokens in a packed batch, the prompts aside."""
EDGES_AT_ONCE = 2048
"""Edges whose values are held at a time."""

Edge = tuple[int, int]
"""(source, destination) indices of the model's `Graph`."""
Moved = Float[Tensor, "edge pair pos d_model"]
"""Changes of what a destination reads."""


def exact_edges(
    model: Model, contrast: Contrast, edges: Sequence[Edge]
) -> Float[Tensor, "pair edge"]:
    """Effect of cutting each edge, alone, pair by pair.

    Source: "edge activation patching" of Syed et al., arXiv 2310.10348.
    """
    work = Effects(model, contrast)
    for source, destination in edges:
        work.graph.edge(work.graph.edge_name(source, destination))
    starts = range(0, len(edges), EDGES_AT_ONCE)
    parts = [work.edges(edges[start : start + EDGES_AT_ONCE]) for start in starts]
    return work.full[:, None] - torch.cat(parts, 1)


def exact_edge_scores(
    model: Model, contrast: Contrast
) -> Iterator[Float[Tensor, "source destination"]]:
    """Effects of all edges, one matrix per pair; 0 where there is no edge."""
    graph = Graph.of(model.arch)
    edges = [(int(s), int(d)) for s, d in graph.exists.nonzero()]
    for row in exact_edges(model, contrast, edges):
        scores = torch.zeros(graph.n_sources, graph.n_destinations, dtype=torch.float64)
        scores[graph.exists] = row
        yield scores


def exact_nodes(
    model: Model, contrast: Contrast, nodes: Sequence[int]
) -> Float[Tensor, "pair node"]:
    """Effect of giving each source of the graph its corrupt activation; the rest is recomputed."""
    work = Effects(model, contrast)
    jobs = [work.node(node) for node in nodes if node != 0]
    with torch.no_grad():
        values = work.run(jobs)
        by_node = {job.key[0]: values[:, i] for i, job in enumerate(jobs)}
        by_node[0] = work.without_embedding()
    return work.full[:, None] - torch.stack([by_node[node] for node in nodes], 1)


@dataclass(frozen=True)
class _Job:
    """One intervention on every pair: what is put into some features (``None``: all) of a site.

    `key` is the edge, or the node twice; features `kept_z` of ``z`` stay as in the clean run.
    """

    key: Edge
    layer: int
    site: str
    features: tuple[int, ...] | None
    values: Float[Tensor, "pair pos width"]
    kept_z: tuple[int, ...] = ()


class Effects:
    """Both plain runs of a contrast, and what patches many rows into the clean one."""

    def __init__(self, model: Model, contrast: Contrast):
        self.model, self.contrast, self.graph = model, contrast, Graph.of(model.arch)
        self.calls = contrast.calls.only(contrast.clean)
        sites = ["resid_pre", "q", "k", "v", "z", "mlp_out"]
        sites += [] if self.graph.parallel else ["resid_mid"]
        self.clean, self.corrupt = plain_runs(model, contrast, sites)
        self.full, self.empty = (self._read(r.final) for r in (self.clean, self.corrupt))
        self._changes: dict[int, Tensor] = {}
        # where rows are whole, they are recomputed from the start
        self.first = contrast.first_difference * int(shares_prefixes(model))

    def _read(self, final: Float[Tensor, "pair pos d_model"]) -> Float[Tensor, " pair"]:
        with torch.no_grad():
            return self.contrast.read(final, self.contrast.pair).double().cpu()

    def without_embedding(self) -> Float[Tensor, " pair"]:
        """The metric with the embeddings of all partners: of equal prompts the corrupt one's."""
        if self.contrast.token_by_token:
            return self.empty
        if beside := self.calls.arguments.of_tokens:
            raise PlanError(
                f"the blocks of {self.model.name} read the prompt's tokens beside the residual "
                f"stream ({', '.join(sorted(beside))}), so a prompt of another length cannot be "
                "what they read; leave the node 'input' out, or give pairs of equal length."
            )
        _, start = self.contrast.embeddings
        return self._read(run(self.model, self.contrast, start, self.contrast.clean, []).final)

    def change(self, source: int) -> Float[Tensor, "pair pos d_model"]:
        """Corrupt minus clean, of what a source writes to the residual stream."""
        if source not in self._changes:
            self._changes |= self._change_of(source)
        return self._changes[source]

    def _change_of(self, source: int) -> dict[int, Tensor]:
        """A source's change; a head comes with its whole layer, whose product is one."""
        clean, corrupt = self.clean.kept, self.corrupt.kept
        if source == 0:
            return {0: corrupt["resid_pre"][0] - clean["resid_pre"][0]}
        layer, head = divmod(source - 1, self.graph.n_heads + 1)
        if head == self.graph.n_heads:
            scale = self.model.parts(layer).mlp_scale
            return {source: scale * (corrupt["mlp_out"][layer] - clean["mlp_out"][layer])}
        by_head = head_writes(self.model, layer, corrupt["z"][layer] - clean["z"][layer])
        own = self.graph.heads(layer)
        return {
            node: self.after_post_norm(layer, by_head[:, i])
            for i, node in enumerate(range(own.start, own.stop))
        }

    def after_post_norm(
        self, layer: int, moved: Float[Tensor, "pair pos d_model"]
    ) -> Float[Tensor, "pair pos d_model"]:
        """Change of attention's write when a head's does, through a post-norm."""
        parts = self.model.parts(layer)
        path = parts.ln1_post
        if path is None:
            return parts.attn_scale * moved
        post, (module, _) = norm(self.model, layer, path), self.model.point(SITES["z"], layer)
        total = module(self.clean.kept["z"][layer])
        return parts.attn_scale * (post(total + moved) - post(total))

    def with_change(
        self, destination: int, change: Float[Tensor, "pair pos d_model"]
    ) -> Float[Tensor, " pair"]:
        """The metric with one destination's residual input changed, the rest recomputed."""
        if destination == self.graph.logits:
            return self._read(self.clean.final + change)
        return self.run(self._jobs(destination, change[None], [-1]))[:, 0]

    def edges(self, edges: Sequence[Edge]) -> Float[Tensor, "pair edge"]:
        """The metric with each edge cut; those into the logits need no run."""
        by_destination: dict[int, list[int]] = {}
        for source, destination in edges:
            by_destination.setdefault(destination, []).append(source)
        out: dict[Edge, Tensor] = {}
        jobs: list[_Job] = []
        with torch.no_grad():
            for destination, sources in by_destination.items():
                if destination == self.graph.logits:
                    for source in sources:
                        changed = self.clean.final + self.change(source)
                        out[source, destination] = self._read(changed)
                else:
                    changes = torch.stack([self.change(source) for source in sources])
                    jobs += self._jobs(destination, changes, sources)
            values = self.run(jobs)
        out |= {job.key: values[:, i] for i, job in enumerate(jobs)}
        return torch.stack([out[edge] for edge in edges], 1)

    def _jobs(self, destination: int, changes: Moved, sources: Sequence[int]) -> list[_Job]:
        """What one destination computes with each source's edge into it cut."""
        layer, place = divmod(destination, 3 * self.graph.n_heads + 1)
        if place == 3 * self.graph.n_heads:
            site = "resid_pre" if self.graph.parallel else "resid_mid"
            resid = self.clean.kept[site][layer] + changes
            return [
                _Job((s, destination), layer, "mlp_out", None, mlp_write(self.model, layer, x))
                for s, x in zip(sources, resid, strict=True)
            ]
        part, head = divmod(place, self.graph.n_heads)
        values, features, kept = self.branch(layer, "qkv"[part], head, changes)
        return [
            _Job((s, destination), layer, "qkv"[part], features, x, kept)
            for s, x in zip(sources, values, strict=True)
        ]

    def branch(
        self, layer: int, part: str, head: int, changes: Moved
    ) -> tuple[Float[Tensor, "edge pair pos d_head"], tuple[int, ...], tuple[int, ...]]:
        """Recompute one head's query, key or value: the values, its features, those of z kept.

        Where a group shares it, its other heads keep their z, as if each had a key of its own.
        """
        a = self.model.arch
        group = a.n_heads // a.n_kv_heads
        unit = head if part == "q" else head // group
        features = list(range(unit * a.d_head, (unit + 1) * a.d_head))
        normed = norm(self.model, layer, self.model.parts(layer).ln1)(
            self.clean.kept["resid_pre"][layer] + changes
        )
        values = normed @ weight_of(self.model, part, layer)[features].T
        bias = bias_of(self.model, part, layer)
        values = values if bias is None else values + bias[features]
        others = [h for h in range(a.n_heads) if part != "q" and h % group != head % group]
        kept = tuple(f for h in others for f in range(h * a.d_head, (h + 1) * a.d_head))
        return values, tuple(features), kept

    def node(self, source: int) -> _Job:
        """A head's or MLP's corrupt activation."""
        layer, head = divmod(source - 1, self.graph.n_heads + 1)
        if head == self.graph.n_heads:
            values = self.corrupt.kept["mlp_out"][layer]
            return _Job((source, source), layer, "mlp_out", None, values)
        d = self.model.arch.d_head
        features = tuple(range(head * d, (head + 1) * d))
        values = self.corrupt.kept["z"][layer][..., list(features)]
        return _Job((source, source), layer, "z", features, values)

    def run(self, jobs: Sequence[_Job]) -> Float[Tensor, "pair job"]:
        """The metric of every pair under each job, all layers' jobs in one growing batch."""
        order = sorted(range(len(jobs)), key=lambda i: jobs[i].layer)
        held = max(1, int((self.calls.mask.shape[1] - self.first).sum()))
        step = max(1, TOKENS_AT_ONCE // held)
        out = torch.zeros(len(self.contrast), len(jobs), dtype=torch.float64)
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            out[:, chosen] = self._packed([jobs[i] for i in chosen])
        return out

    def _packed(self, jobs: Sequence[_Job]) -> Float[Tensor, "pair job"]:
        n_pairs, n_pos = self.calls.mask.shape
        base, pair = torch.arange(n_pairs), torch.arange(n_pairs).repeat(len(jobs))
        start = torch.cat([0 * base, self.first[pair]])
        stop = torch.full_like(start, n_pos)
        present = [sum(job.layer <= layer for job in jobs) for layer in range(self.graph.n_layers)]
        entry = [n_pairs * (1 + n) for n in [*present, len(jobs)]]
        rows = Rows(torch.cat([base, pair]), start, stop, stop - 1, entry, n_pairs)
        pack = Pack(rows, n_pos)
        writes: list[BatchEdit] = []
        for i, job in enumerate(jobs):
            first = n_pairs * (1 + i)
            own = torch.arange(pack.n_tokens(first), pack.n_tokens(first + n_pairs))
            put = job.values[pack.row[own] - first, pack.pos[own]]
            features = _per_token(job.features, own)
            writes.append(Write(SITES[job.site], job.layer, own, put, features))
            if job.kept_z:
                back = _per_token(job.kept_z, own)
                writes.append(Write(SITES["z"], job.layer, own, pack.parent[own], back))
        hidden, pack = run_packed(self.model, self.calls, rows, writes)
        read = self.contrast.read(hidden[pack.grid[n_pairs:]], pair)
        return read.view(len(jobs), n_pairs).T.double().cpu()


def _per_token(features: tuple[int, ...] | None, tokens: Tensor) -> Tensor | None:
    return None if features is None else torch.tensor(features).expand(len(tokens), -1)


# --- paths --------------------------------------------------------------------------------------


def path_patch(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    paths: Sequence[str],
    metric: AnyMetric = "logit_diff",
    answers: AnswerMode = "whole",
) -> xr.DataArray:
    """Exact effects of paths, dims (pair, path).

    `pairs` is anything `load_pairs` takes; each path is as ``"a3.h1->a9.h2<q>->m11->logits"``: a
    node that writes, then what reads it in turn, and what lies after the last one is recomputed;
    `metric` and `answers` are as in `interp.attribute_edges`. Of pairs that cannot be used, an
    `InterpWarning` tells, and ``attrs["excluded"]`` the reason for each, by id.

    Raises:
        PlanError: a path does not parse, or a step goes backwards; the message names it.
        DataError: no pair is usable.

    Source: Wang et al., arXiv 2211.00593, section 3.1; Goldowsky-Dill et al., arXiv 2304.05969.
    """
    graph = Graph.of(model.arch)
    if not paths:
        raise PlanError("no path was given; write some, such as 'a3.h1->a9.h2<q>->logits'.")
    steps = [parse_path(graph, path) for path in paths]
    usable, refused = tokenise(model, load_pairs(pairs), answers)
    attrs = {"excluded": warn_of(refused, len(usable))}
    parts = [path_effects(model, c, steps).numpy() for c in contrasts(model, usable, metric)]
    coords = {"pair": [pair.pair.id for pair in usable], "path": list(paths)}
    return xr.DataArray(np.concatenate(parts), coords, ("pair", "path"), attrs=attrs)


def parse_path(graph: Graph, path: str) -> tuple[int, ...]:
    """A path's first source and then its destinations, as indices of the graph."""
    first, *rest = path.split("->")
    if not rest:
        raise PlanError(f"path {path!r} has no step: write 'a3.h1->a9.h2<q>->logits'.")
    source = graph.node(first)
    found = [source]
    for name in rest:
        if source == graph.n_sources:
            raise PlanError(f"path {path!r} goes on after the logits, where everything ends.")
        destination = graph.edge(f"{graph.sources[source]}->{name}")[1]
        found.append(destination)
        source = int(graph.owner[destination])
    return tuple(found)


def path_effects(
    model: Model, contrast: Contrast, paths: Sequence[Sequence[int]]
) -> Float[Tensor, "pair path"]:
    """Exact effects of parsed paths on one contrast."""
    work, out = Effects(model, contrast), []
    with torch.no_grad():
        for first, *destinations in paths:
            change = work.change(first)
            for destination in destinations[:-1]:
                change = _passed_on(work, destination, change)
            out.append(work.with_change(destinations[-1], change))
    return work.full[:, None] - torch.stack(out, 1)


def _passed_on(work: Effects, destination: int, change: Tensor) -> Float[Tensor, "pair pos d"]:
    """How a node's write changes when the residual stream that one input of it reads does."""
    model, contrast, graph, kept = work.model, work.contrast, work.graph, work.clean.kept
    layer, place = divmod(destination, 3 * graph.n_heads + 1)
    if place == 3 * graph.n_heads:
        site = "resid_pre" if graph.parallel else "resid_mid"
        moved = mlp_write(model, layer, kept[site][layer] + change) - kept["mlp_out"][layer]
        return model.parts(layer).mlp_scale * moved
    part, head = divmod(place, graph.n_heads)
    branches = work.clean.per_head(model, layer)
    values, _, _ = work.branch(layer, "qkv"[part], head, change[None])
    changed = branches["qkv"[part]] = branches["qkv"[part]].clone()
    changed[:, :, head] = values[0]
    kwargs = contrast.calls.of_rows(layer, contrast.clean)
    z = attend(model, layer, kwargs, branches["q"], branches["k"], branches["v"])
    own = slice(head * model.arch.d_head, (head + 1) * model.arch.d_head)
    moved = torch.zeros_like(z)
    moved[..., own] = (z - kept["z"][layer])[..., own]
    return work.after_post_norm(layer, head_writes(model, layer, moved)[:, head])
