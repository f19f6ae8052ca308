"""Circuits by search: ACDC removes edges one by one; edge pruning learns a mask by gradient."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.discovery.circuit import Circuit, prune, whole
from circuits.discovery.running import Bench
from interp.errors import PlanError
from interp.model.graph import Graph

Progress = Callable[[int, int], None]


def acdc(
    data: Bench,
    threshold: float,
    start: Circuit | None = None,
    progress: Progress | None = None,
) -> Circuit:
    """Remove every edge whose removal costs less than a threshold, from the logits down.

    Destinations are visited last first; a destination that nothing reads any more is dropped
    with all its edges. The cost of an edge is how much |m(model) - m(circuit)|, averaged over
    pairs, grows when it is cut.

    Args:
        data: discovery prompts, from `bench`.
        threshold: in the metric's unit; larger = smaller circuit.
        start: search inside this circuit; by default all edges. One run an edge: on a real model
            start from the best few thousand edges of an attribution.
        progress: called with (edges tried, edges in all).

    Source: Conmy et al., arXiv 2304.14997.
    """
    if not threshold >= 0:
        raise PlanError(f"ACDC's threshold is {threshold}; it must be 0 or more.")
    graph = data.graph
    edges = (start or whole(graph)).edges.clone()
    current = _distance(data, edges)
    total, tried = int(edges.sum()), 0
    say = progress or (lambda done, total: None)
    say(0, total)
    for destination in reversed(range(graph.n_destinations)):
        owner = int(graph.owner[destination])
        sources = edges[:, destination].nonzero()[:, 0].tolist()
        tried += len(sources)
        if owner < graph.n_sources and not edges[owner].any():
            edges[:, destination] = False
            continue
        for source in reversed(sources):
            edges[source, destination] = False
            distance = _distance(data, edges)
            if distance - current < threshold:
                current = distance
            else:
                edges[source, destination] = True
        say(tried, total)
    return _found(data, prune(graph, edges), f"ACDC, threshold {threshold:g}")


def _distance(data: Bench, edges: Bool[Tensor, "source destination"]) -> float:
    with torch.no_grad():
        values = torch.cat(list(data.masked(edges.float()))).double().cpu().numpy()
    return float(np.abs(data.full - values).mean())


def _found(data: Bench, edges: Bool[Tensor, "s d"], method: str) -> Circuit:
    return Circuit(
        graph=data.graph,
        edges=edges,
        method=method,
        model=data.model.name,
        weights_hash=data.model.weights_hash,
        prompts=tuple(sorted(data.prompts)),
    )


# --- edge pruning ------------------------------------------------------------------------------

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
"""Stretch and temperature of the hard-concrete distribution (Louizos et al., arXiv 1712.01312)."""


@dataclass(frozen=True)
class Pruning:
    """Settings of `edge_pruning`.

    Attributes:
        target: part of the edges to cut.
        steps: gradient steps; the target ramps up over the first 80 %.
        rate: Adam's learning rate, of masks and multipliers alike.
        seed: of the masks' noise.
    """

    target: float = 0.95
    steps: int = 200
    rate: float = 0.3
    seed: int = 0


def edge_pruning(
    data: Bench, settings: Pruning | None = None, progress: Progress | None = None
) -> Circuit:
    """Learn which edges to keep: masks near 0 or 1 that leave the metric as it is.

    Minimises mean |m(model) - m(circuit)| / gap + l1 (s - t) + l2 (s - t)^2 over hard-concrete
    masks, with s the expected part cut, t the target, and the multipliers l raised by ascent.

    Args:
        data: discovery prompts, from `bench`.
        settings: target sparsity and optimiser.
        progress: called with (steps done, steps in all).

    Source: Bhaskar et al., arXiv 2406.16778.
    """
    chosen = settings or Pruning()
    if not 0 < chosen.target < 1 or chosen.steps < 1:
        raise PlanError(
            f"edge pruning cuts a part of the edges between 0 and 1 in 1 or more steps, not "
            f"{chosen.target:g} in {chosen.steps}."
        )
    graph = data.graph
    generator = torch.Generator().manual_seed(chosen.seed)
    log_alpha = torch.full((graph.n_edges,), 2.0).requires_grad_(True)
    multipliers = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([log_alpha, multipliers], lr=chosen.rate)
    say = progress or (lambda done, total: None)
    say(0, chosen.steps)
    for step in range(chosen.steps):
        aim = chosen.target * min(1.0, step / (0.8 * chosen.steps))
        mask = _as_matrix(graph, _hard_concrete(log_alpha, generator))
        gone = aim - (1 - _expected(log_alpha)).mean()
        penalty = multipliers[0] * gone + multipliers[1] * gone**2
        optimiser.zero_grad()
        _backward_distance(data, mask)
        penalty.backward()
        if multipliers.grad is not None:
            multipliers.grad.neg_()
        optimiser.step()
        say(step + 1, chosen.steps)
    n_kept = round((1 - chosen.target) * graph.n_edges)
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    kept[log_alpha.argsort(descending=True, stable=True)[:n_kept]] = True
    scores = torch.full(graph.exists.shape, torch.nan, dtype=torch.float64)
    scores[graph.exists] = log_alpha.detach().double()
    edges = prune(graph, _as_matrix(graph, kept))
    found = _found(data, edges, f"edge pruning, {chosen.target:.1%} cut, {chosen.steps} steps")
    return replace(found, scores=scores)


def _backward_distance(data: Bench, mask: Float[Tensor, "source destination"]) -> None:
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


def _expected(log_alpha: Tensor) -> Tensor:
    """Probability that each mask is not 0."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))
