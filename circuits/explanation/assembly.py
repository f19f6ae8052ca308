"""From a linearised prompt to a graph: which nodes, what each writes and reads, which edges stay.

Every reader is contracted with all writes before it at once, and only its largest edges are held.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.explanation.attribution import LinearRun, Place
from circuits.explanation.graph import (
    EDGE_COLUMNS,
    FIXED,
    NODE_COLUMNS,
    AttributionGraph,
    by_size,
    node_id,
)
from circuits.explanation.target_metric import recorded_prompt
from circuits.explanation.tracer_records import rows_of
from interp.brief import brief
from interp.model.model import Model

Node = tuple[str, int, int, int]
"""(kind, layer, unit, position); the unit of a rest is 0 of attention, 1 of an MLP."""


def strongest(run: LinearRun, n: int | None = None, share: float | None = None) -> list[Node]:
    """The heads, neurons and MLPs of the largest attributions by size.

    The first `n`, or the fewest whose sizes add up to a `share` of all sizes.
    """
    sizes: list[Tensor] = []
    places: list[tuple[str, int, int]] = []  # kind, layer, units per position
    for layer in range(run.model.arch.n_layers):
        neurons = layer in run.neurons
        mlp = run.of_neurons(layer) if neurons else run.mlp(layer)[:, None]
        for kind, score in (("head", run.heads(layer)), ("neuron" if neurons else "mlp", mlp)):
            sizes.append(score.abs().flatten().double().cpu())
            places.append((kind, layer, score.shape[1]))
    flat = torch.cat(sizes)
    order = flat.argsort(descending=True, stable=True)
    order = order[: int((flat > 0).sum())]
    if share is not None:
        before = flat[order].cumsum(0) - flat[order]
        order = order[before < share * flat.sum()]
    starts = np.cumsum([0, *map(len, sizes)])
    found = order[:n].numpy()
    at = np.searchsorted(starts, found, "right") - 1
    pos, unit = np.divmod(found - starts[at], np.array([width for *_, width in places])[at])
    rows = zip(at.tolist(), pos.tolist(), unit.tolist(), strict=True)
    return [(*places[i][:2], -1 if places[i][0] == "mlp" else u, p) for i, p, u in rows]


def run_again(model: Model, graph: AttributionGraph) -> LinearRun:
    """A graph's prompt, linearised again; errors as of the graph's `check_model` and `prompt`."""
    graph.check_model(model)
    return LinearRun.of(model, recorded_prompt(model, graph.prompt))


def shown_nodes(graph: AttributionGraph) -> list[Node]:
    """The heads, neurons and MLPs of a graph, strongest first."""
    own = by_size(graph.nodes[~graph.nodes["kind"].isin(FIXED)], "attribution")
    return list(rows_of(own, "kind", "layer", "unit", "pos"))


def of_kind(nodes: Sequence[Node], kind: str, layer: int) -> list[Place]:
    """(unit, position) of the nodes of one kind in one layer."""
    return [(unit, pos) for k, own, unit, pos in nodes if k == kind and own == layer]


def stage(kind: str, layer: int, unit: int = 0) -> int:
    """When a node writes: embeddings at -1, attention of layer l at 2 l, its MLP at 2 l + 1."""
    if kind == "embedding":
        return -1
    return 2 * layer + int(kind in ("neuron", "mlp") or (kind == "rest" and unit == 1))


@brief
@dataclass(frozen=True)
class Sources:
    """What is written to the stream: by shown nodes, by the rest of each sublayer, and in all.

    Attributes:
        nodes: embeddings, chosen nodes and rests.
        stages, pos, attribution: of each node.
        writes: its change, clean minus the other end.
        before: everything that is written before each stage, biases aside.
    """

    nodes: list[Node]
    stages: np.ndarray
    pos: np.ndarray
    attribution: np.ndarray
    writes: Float[Tensor, "node d_model"]
    before: dict[int, Float[Tensor, "pos d_model"]]

    @classmethod
    def of(cls, run: LinearRun, chosen: Sequence[Node]) -> "Sources":
        """The sources of a graph with some chosen nodes."""
        every = range(run.n_pos)
        nodes: list[Node] = [("embedding", -1, -1, pos) for pos in every]
        writes, scores = [run.change("resid_pre", 0)], [run.embeddings()]
        stream, before = writes[0], {0: writes[0]}
        parallel = run.model.parts(0).parallel
        for layer in range(run.model.arch.n_layers):
            heads, by_head = of_kind(chosen, "head", layer), run.head_writes(layer)
            score = run.heads(layer)
            own = torch.tensor(heads, dtype=torch.long).view(-1, 2).T
            parts = [(heads, "head", 0, by_head[own[0], own[1]], score[own[1], own[0]])]
            totals = [(by_head.sum(0), score.sum(1))]
            before[2 * layer + 1] = stream if parallel else stream + totals[0][0]
            parts.append(_mlp_parts(run, layer, chosen))
            totals.append((run.mlp_write(layer), run.mlp(layer)))
            for part, (total, all_of_it) in zip(parts, totals, strict=True):
                places, kind, sub, write, attribution = part
                rest, left = total.clone(), all_of_it.clone()
                if places:
                    pos = torch.tensor([p for _, p in places], device=rest.device)
                    rest.index_add_(0, pos, -write)
                    left.index_add_(0, pos, -attribution)
                nodes += [(kind, layer, unit, p) for unit, p in places]
                nodes += [("rest", layer, sub, p) for p in every]
                writes += [write, rest]
                scores += [attribution, left]
                stream = stream + total
            before[2 * layer + 2] = stream
        return cls(
            nodes,
            np.array([stage(kind, layer, unit) for kind, layer, unit, _ in nodes]),
            np.array([pos for *_, pos in nodes]),
            torch.cat(scores).double().cpu().numpy(),
            torch.cat(writes),
            before,
        )

    def into(
        self, at: int, reads: Float[Tensor, "reader branch pos d_model"]
    ) -> tuple[Float[np.ndarray, "reader branch node"], Float[np.ndarray, " reader"]]:
        """Edges from every source into readers at a stage, and what all writes together give.

        Sources that are not before the readers have 0.
        """
        out = np.zeros((*reads.shape[:2], len(self.nodes)))
        for pos in range(reads.shape[2]):
            own = np.flatnonzero((self.pos == pos) & (self.stages < at))
            read = reads[:, :, pos].flatten(0, 1)
            flow = read @ self.writes[torch.from_numpy(own)].to(read).T
            out[:, :, own] = flow.unflatten(0, reads.shape[:2]).double().cpu().numpy()
        total = (reads * self.before[at].to(reads)).sum((1, 2, 3))
        return out, total.double().cpu().numpy()


def _mlp_parts(run: LinearRun, layer: int, chosen: Sequence[Node]) -> Any:
    """Chosen neurons of a layer, or its MLP at chosen positions: places, writes, attributions."""
    if layer in run.neurons:
        places = of_kind(chosen, "neuron", layer)
        scores = run.of_neurons(layer)
        units, pos = (list(x) for x in zip(*places, strict=True)) if places else ([], [])
        writes = run.neuron_writes(layer, places) if places else run.mlp_write(layer)[:0]
        return places, "neuron", 1, writes, scores[pos, units]
    places = of_kind(chosen, "mlp", layer)
    pos = [p for _, p in places]
    return places, "mlp", 1, run.mlp_write(layer)[pos], run.mlp(layer)[pos]


Read = tuple[Node, float, int, Float[Tensor, "branch pos d_model"]]
"""A reader, its attribution, its stage, and its multipliers by branch and position."""


def readers(run: LinearRun, chosen: Sequence[Node]) -> Iterator[list[Read]]:
    """All readers of a graph, first ones first, in stacks of one stage."""
    d, n_pos = run.model.arch.d_model, run.n_pos
    parallel = run.model.parts(0).parallel
    for layer in range(run.model.arch.n_layers):
        heads = of_kind(chosen, "head", layer)
        score = run.heads(layer)
        for numbers, reads in run.head_reads(layer, heads) if heads else ():
            yield [
                (("head", layer, *heads[i]), float(score[heads[i][1], heads[i][0]]), 2 * layer, r)
                for i, r in zip(numbers, reads, strict=True)
            ]
        places, kind, _, _, scores = _mlp_parts(run, layer, chosen)
        if not places:
            continue
        if kind == "neuron":
            read = run.neuron_reads(layer, places)
        else:
            read = run.mlp_read(layer)[[p for _, p in places]]
        at = 2 * layer + (not parallel)
        stack: list[Read] = []
        for place, r, own in zip(places, read, scores, strict=True):
            spread = r.new_zeros(1, n_pos, d)
            spread[0, place[1]] = r
            stack.append(((kind, layer, *place), float(own), at, spread))
        yield stack


def named(node: Node) -> str:
    """A node's id."""
    kind, layer, unit, pos = node
    return node_id(kind, layer, pos, unit)


def edge_table(
    run: LinearRun, sources: Sources, chosen: Sequence[Node], share: float
) -> tuple[pd.DataFrame, dict[str, float], float]:
    """Edges into every reader; in-flow from what is not shown; and the largest error of sums.

    Of each reader the largest edges stay that together reach a share of its absolute in-flow. The
    error is of in-flow against attribution, by absolute in-flow or the target, whichever is more
    (of prompts alone, where what is missing is what biases give, 0).
    """
    ids = np.array([named(node) for node in sources.nodes] + ["bias"])
    rows: list[tuple[str, str, str, float]] = []
    unshown: dict[str, float] = {}
    error = 0.0
    last = 2 * run.model.arch.n_layers
    # of several logits nodes the parts are equal to the metric by position of the list
    values = _part_values(run)
    many = len(run.final) > 1
    logits: list[list[Read]] = [
        [(("logits", last // 2, i if many else -1, -1), values[i], last, r[None])]
        for i, r in enumerate(run.final)
    ]
    for stack in [*readers(run, chosen), *logits]:
        edges, totals = sources.into(stack[0][2], torch.stack([r for *_, r in stack]))
        for (node, attribution, _, _), flow, total in zip(stack, edges, totals, strict=True):
            missing = attribution - total
            size = float(np.abs(flow).sum()) + abs(missing)
            biased = not run.prompt.paired
            if not biased:
                error = max(error, abs(missing) / max(size, abs(run.total), 1e-30))
            all_of_it = np.concatenate([flow.ravel(), [missing if biased else 0.0]])
            order = np.argsort(-np.abs(all_of_it), kind="stable")
            sizes = np.abs(all_of_it[order])
            kept = order[(sizes.cumsum() - sizes < share * sizes.sum()) & (sizes > 0)]
            name = named(node)
            unshown[name] = attribution - float(all_of_it[kept].sum())
            branches = ("q", "k", "v") if node[0] == "head" else ("",)
            for i in kept.tolist():
                branch, source = divmod(i, flow.shape[1])
                own = "" if branch == len(branches) else branches[branch]
                source = -1 if branch == len(branches) else source
                rows.append((str(ids[source]), name, own, float(all_of_it[i])))
    return pd.DataFrame(rows, columns=list(EDGE_COLUMNS)), unshown, error


def _part_values(run: LinearRun) -> list[float]:
    """What each logits node adds to what is attributed."""
    zero = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        high = run.prompt.parts(run.at.clean.final, zero)[0].double()
        low = run.prompt.parts(run.at.end.final, zero)[0].double()
    return (high - low if run.prompt.paired else high).tolist()


def node_table(
    run: LinearRun, sources: Sources, edges: pd.DataFrame, unshown: dict[str, float]
) -> pd.DataFrame:
    """All nodes: embeddings, chosen ones, rests with an edge, biases of prompts alone, logits."""
    used = {*edges["source"], *edges["target"]}
    n_layers, rows = run.model.arch.n_layers, list[tuple[Any, ...]]()
    for i, node in enumerate(sources.nodes):
        kind, layer, unit, pos = node
        name, own = named(node), float(sources.attribution[i])
        if kind == "rest" and name not in used:
            continue
        label = run.prompt.tokens[pos] if kind == "embedding" else ""
        unit = -1 if kind == "rest" else unit
        hidden = own if kind == "rest" else unshown.get(name, 0.0)
        ends = _activations(run, node)
        rows.append((name, kind, layer, pos, unit, *ends, own, hidden, label, ""))
    nan, last = float("nan"), run.prompt.n_prompt - 1
    if not run.prompt.paired:
        own = run.total - float(run.embeddings().sum())
        rows.append(("bias", "bias", -1, -1, -1, nan, nan, own, 0.0, "biases", ""))
    many = len(run.final) > 1
    for i, (own, label) in enumerate(zip(_part_values(run), run.prompt.labels, strict=True)):
        name = named(("logits", n_layers, i if many else -1, -1))
        unit, ends = (i, (nan, nan)) if many else (-1, (run.value, run.low_value))
        ends = ends if run.prompt.paired else (ends[0], nan)
        rows.append((name, "logits", n_layers, last, unit, *ends, own, unshown[name], label, ""))
    return pd.DataFrame(rows, columns=list(NODE_COLUMNS))


def _activations(run: LinearRun, node: Node) -> list[float]:
    """A neuron's activation, or the length of what a node writes, at both ends; rests: NaN."""
    kind, layer, unit, pos = node
    ends: list[float] = []
    for of in () if kind == "rest" else (run.high, run.low) if run.prompt.paired else (run.high,):
        if kind == "neuron":
            ends.append(float(of("mlp_post", run.neurons[layer])[pos, unit]))
            continue
        site = {"embedding": "resid_pre", "mlp": "mlp_out", "head": "z"}[kind]
        written = of(site, max(layer, 0))[pos]
        if kind == "head":
            written = written.unflatten(-1, (-1, run.model.arch.layers[layer].d_head))[unit]
        ends.append(float(written.norm()))
    return [*ends, *[float("nan")] * (2 - len(ends))]
