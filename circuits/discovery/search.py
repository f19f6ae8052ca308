"""Circuits by search: ACDC removes edges one by one, edge pruning learns a mask; and `discover`."""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.discovery.circuit import Circuit, all_edges, prune
from circuits.discovery.discovery_settings import SCORED, DiscoverySettings
from circuits.discovery.evaluator import Evaluator
from circuits.discovery.faithfulness import GRID
from circuits.discovery.ranking import (
    greedy_edges,
    threshold_edges,
    top_edges,
    top_neurons,
    top_nodes,
)
from interp.attribution.attribute import attribute_to
from interp.attribution.scores import Scores
from interp.data.pairs import PromptPairs, warn_of
from interp.data.splits import split_by_entity
from interp.errors import PlanError
from interp.metrics import as_metric
from interp.model.graph import Graph
from interp.model.model import Model
from interp.progress import Progress, bar, reported
from interp.results.run_folder import RunFolder
from interp.statistics import bootstrap_ratio


def acdc(
    data: Evaluator,
    threshold: float,
    start: Circuit | None = None,
    progress: Progress | bool = True,
) -> Circuit:
    """Remove every edge whose removal costs less than a threshold, from the logits down.

    Destinations are visited last first; a destination that nothing reads any more is dropped
    with all its edges. The cost of an edge is how much |m(model) - m(circuit)|, averaged over
    pairs, grows when it is cut.

    The threshold is in the metric's unit: larger = smaller circuit. The search is inside `start`,
    by default all edges. One run per edge: on a real model start from the best few thousand edges
    of an attribution.

    Source: Conmy et al., arXiv 2304.14997.
    """
    if not threshold >= 0:
        raise PlanError(f"ACDC's threshold is {threshold}; it must be 0 or more.")
    graph = data.graph
    edges = (start or all_edges(graph)).edges.clone()

    def distance() -> float:
        with torch.no_grad():
            values = torch.cat(list(data.masked(edges.float()))).double().cpu().numpy()
        return float(np.abs(data.full - values).mean())

    current, total, tried = distance(), int(edges.sum()), 0
    with reported(progress, "ACDC", total, "edges") as report:
        for destination in reversed(range(graph.n_destinations)):
            owner = int(graph.owner[destination])
            sources = edges[:, destination].nonzero()[:, 0].tolist()
            tried += len(sources)
            if owner < graph.n_sources and not edges[owner].any():
                edges[:, destination] = False
                continue
            for source in reversed(sources):
                edges[source, destination] = False
                without = distance()
                if without - current < threshold:
                    current = without
                else:
                    edges[source, destination] = True
            report(tried, total)
    return _found(data, prune(graph, edges), f"ACDC, threshold {threshold:g}")


def _found(data: Evaluator, edges: Bool[Tensor, "s d"], method: str) -> Circuit:
    name, weights, prompts = data.model.name, data.model.weights_hash, tuple(sorted(data.prompts))
    return Circuit(data.graph, edges, None, {}, method, name, weights, prompts)


# --- edge pruning ------------------------------------------------------------------------------

RATE = 0.3
"""Adam's learning rate, of masks and multipliers alike."""
LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
"""Stretch and temperature of the hard-concrete distribution (Louizos et al., arXiv 1712.01312)."""


def edge_pruning(
    data: Evaluator,
    target: float = 0.95,
    steps: int = 200,
    seed: int = 0,
    progress: Progress | bool = True,
) -> Circuit:
    """Learn which edges to keep: masks near 0 or 1 that leave the metric as it is.

    Minimises mean |m(model) - m(circuit)| / gap + l1 (s - t) + l2 (s - t)^2 over hard-concrete
    masks, with s the expected part cut, t the target, and the multipliers l raised by ascent.

    The target ramps up over the first 80 % of the steps; `seed` is of the masks' noise.
    Source: Bhaskar et al., arXiv 2406.16778.
    """
    if not 0 < target < 1 or steps < 1:
        raise PlanError(
            f"edge pruning cuts a part of the edges between 0 and 1 in 1 or more steps, not "
            f"{target:g} in {steps}."
        )
    graph = data.graph
    generator = torch.Generator().manual_seed(seed)
    log_alpha = torch.full((graph.n_edges,), 2.0).requires_grad_(True)
    multipliers = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([log_alpha, multipliers], lr=RATE)
    with reported(progress, "edge pruning", steps, "steps") as report:
        for step in range(steps):
            aim = target * min(1.0, step / (0.8 * steps))
            mask = _as_matrix(graph, _hard_concrete(log_alpha, generator))
            # the probability that each mask is not 0
            kept = torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))
            gone = aim - (1 - kept).mean()
            penalty = multipliers[0] * gone + multipliers[1] * gone**2
            optimiser.zero_grad()
            _backward_distance(data, mask)
            penalty.backward()
            if multipliers.grad is not None:
                multipliers.grad.neg_()
            optimiser.step()
            report(step + 1, steps)
    n_kept = round((1 - target) * graph.n_edges)
    edges = torch.zeros(graph.n_edges, dtype=torch.bool)
    edges[log_alpha.argsort(descending=True, stable=True)[:n_kept]] = True
    scores = torch.full(graph.exists.shape, torch.nan, dtype=torch.float64)
    scores[graph.exists] = log_alpha.detach().double()
    method = f"edge pruning, {target:.1%} cut, {steps} steps"
    return replace(_found(data, prune(graph, _as_matrix(graph, edges)), method), scores=scores)


def _backward_distance(data: Evaluator, mask: Float[Tensor, "source destination"]) -> None:
    """Gradient of mean |m(model) - m(circuit)| / gap, one batch's graph held at a time."""
    gap = float(abs(data.full - data.empty).mean())
    own = mask.detach().requires_grad_(True)
    start = 0
    for values in data.masked(own):
        target = torch.from_numpy(data.full[start : start + len(values)]).to(values)
        ((values - target).abs().sum() / (gap * len(data.full))).backward()
        start += len(values)
    mask.backward(own.grad, retain_graph=True)


def _as_matrix(graph: Graph, per_edge: Tensor) -> Tensor:
    matrix = torch.zeros(graph.exists.shape, dtype=per_edge.dtype)
    return matrix.masked_scatter(graph.exists, per_edge)


def _hard_concrete(log_alpha: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.rand(log_alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((u.logit() + log_alpha) / TEMPERATURE)
    return (soft * (HIGH - LOW) + LOW).clamp(0, 1)


# --- by settings -------------------------------------------------------------------------------


def select(scores: Scores, settings: DiscoverySettings, where: str = "the scores") -> Circuit:
    """Choose a circuit from scores, as the settings say; `PlanError` where nothing is left."""
    of = SCORED[settings.select][0]
    kind = {"edges": "edge_scores", "nodes": "node_scores"}.get(of, "unit_scores")
    if kind != scores.KIND:
        raise PlanError(
            f"{where} holds {scores.KIND.replace('_', ' ')}, and --select {settings.select} needs "
            f"scores of {of}: `interp attribute --of {of}`."
        )
    if settings.chooses_size:
        cannot = "scores cannot choose a size, which needs pairs that they have not seen"
        raise PlanError(f"{where}: {cannot}; give --size, or --model and --pairs.")
    given: Any = scores
    if settings.select == "threshold":
        return _not_empty(threshold_edges(given, settings.threshold or 0.0, not settings.signed))
    return _not_empty(_of_size(scores, settings, settings.n(_n_components(scores, settings))))


def _n_components(scores: Scores, settings: DiscoverySettings) -> int:
    return int(scores.values[0].size) - (settings.select == "nodes")  # the embedding is no choice


def _of_size(scores: Any, settings: DiscoverySettings, n: int) -> Circuit:
    ways: dict[str, Any] = {"greedy": greedy_edges, "nodes": top_nodes, "neurons": top_neurons}
    return ways.get(settings.select, top_edges)(scores, n, not settings.signed)


FAITHFUL = 0.1
"""A circuit whose f on held-out pairs is no further from 1 is taken where no size is given."""


def smallest_faithful(scores: Scores, settings: DiscoverySettings, held_out: Evaluator) -> Circuit:
    """The smallest circuit, of MIB's sizes below the whole, that is faithful on held-out pairs.

    |1 - f| <= `FAITHFUL`, or 1 - f of signed scores, whose circuits exceed the model. Its `choice`
    says what was tried; evaluation refuses these pairs, too. `PlanError` where none is faithful.
    """
    tried, total = list[dict[str, Any]](), _n_components(scores, settings)
    least, most = f"{1 - FAITHFUL:g}", f"{1 + FAITHFUL:g}"
    criterion = f"f >= {least}" if settings.signed else f"{least} <= f <= {most}"
    for n in sorted({int(k * total) for k in GRID if k < 1} - {0}):
        found = _of_size(scores, settings, n)
        values = held_out.metric_of(found)
        off = 1 - held_out.faithfulness(values)
        tried.append({"components": n, "n_edges": found.n_edges, "f": 1 - off})
        if found.n_edges and (off if settings.signed else abs(off)) <= FAITHFUL:
            gaps = values - held_out.empty, held_out.full - held_out.empty
            f = {name: float(x) for name, x in bootstrap_ratio(*gaps)._asdict().items()}
            said = {"criterion": criterion, "components": n, "of_components": total, "f": f}
            said |= {"n_pairs": len(held_out.ids), "source": held_out.source, "tried": tried}
            prompts = tuple(sorted({*found.prompts, *held_out.prompts}))
            return replace(found, choice=said, prompts=prompts)
    sizes = ", ".join(f"{one['f']:.3f} of {one['components']}" for one in tried)
    raise PlanError(
        f"no circuit of 50 % of the components or fewer is faithful ({criterion}) on the "
        f"{len(held_out.ids)} pairs of {held_out.source}; f is {sizes or 'of none'}. Give --size, "
        "or more pairs."
    )


def discover(
    model: Model,
    rows: PromptPairs,
    settings: DiscoverySettings,
    keep: Path | None = None,
    held_out: PromptPairs | None = None,
) -> Circuit:
    """Score the discovery prompts and select, or search, as the settings say.

    `keep` is a run folder for the scores, so that a stopped run resumes. Without a size it is
    chosen on `held_out`, by default half of the rows (`smallest_faithful`). `PlanError` where
    nothing is left, or no size is faithful.
    """
    data = None
    if settings.chooses_size:
        if held_out is None:
            rows, held_out = split_by_entity(rows, None).values()
        data = Evaluator.of(model, held_out, settings.metric, answers=settings.answers)
        warn_of(data.excluded, len(data.ids))
        if len(data.ids) < 2:
            raise PlanError(
                f"{held_out.source}: a size needs 2 held-out pairs; give more, or --size."
            )

    def scored(way: str) -> Any:
        of, over = SCORED[way]
        options: dict[str, Any] = {"of": of, "over": over, "method": settings.method}
        options |= {"metric": settings.metric, "answers": settings.answers}
        with bar(f"{settings.method} of {of}", "pairs") as report:
            return attribute_to(model, rows, **options, out=keep, progress=report)

    if data is not None:
        return smallest_faithful(scored(settings.select), settings, data)
    if settings.select in SCORED:
        return select(scored(settings.select), settings)
    start = None
    if settings.select == "acdc" and settings.size is not None:
        scores = scored("top")
        start = top_edges(scores, settings.n(scores.graph.n_edges), not settings.signed)
    data = Evaluator.of(model, rows, settings.metric, answers=settings.answers)
    if settings.select == "acdc":
        return _not_empty(acdc(data, settings.threshold or 0.0, start))
    kept = settings.n(data.graph.n_edges) / data.graph.n_edges
    return _not_empty(edge_pruning(data, target=1 - kept, seed=settings.seed))


def into_folder(
    out: Path,
    settings: DiscoverySettings,
    named: Mapping[str, Any],
    find: Callable[[Path], Circuit],
    force: bool = False,
) -> Circuit:
    """A circuit in a run folder, with the scores that chose it.

    `named` has the options that `settings` lacks (model and prompts, or scores), and `find` makes
    the circuit given a folder for scores.
    """
    options = {**dict(settings), "metric": as_metric(settings.metric).identity, **named}
    with RunFolder.open(out, "circuit discover", options, force=force) as run:
        if not run.finished:
            scores = run.work / "scores"
            found = find(scores)

            def keep(at: Path) -> None:
                if scores.exists():
                    shutil.copytree(scores, at / "scores")

            run.finish(found.save, keep)
    return Circuit.load(out)


def _not_empty(found: Circuit) -> Circuit:
    if not found.n_edges:
        raise PlanError(
            f"{found.method or 'the circuit'} keeps no path from the input to the logits; take "
            "more components, or a lower threshold."
        )
    return found
