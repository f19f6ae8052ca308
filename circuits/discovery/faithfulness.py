"""How well circuits do the model's work: one circuit beside random ones, and every size of them."""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from circuits.discovery.circuit import Circuit
from circuits.discovery.evaluator import Evaluator
from circuits.discovery.ranking import top_edges
from circuits.discovery.result import RANKINGS, Evaluation, Faithfulness
from interp.attribution.scores import EdgeScores
from interp.progress import Progress, reported

GRID = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's parts of all edges."""
CONTROLS = ("edges", "heads")
"""Kinds of random circuit; see `random_circuit`."""

Clusters = Sequence[Hashable] | None


def evaluate(
    test: Evaluator,
    circuit: Circuit,
    n_random: int = 20,
    seed: int = 0,
    clusters: Clusters = None,
    progress: Progress | bool = True,
) -> Evaluation:
    """Run a circuit, and `n_random` random ones of each kind, on prompts that it has not seen.

    `clusters` has the entity of each test pair, for the intervals of the summary; `seed` is theirs
    and the random circuits'. p is never below 1 / (1 + n_random).
    """
    random: dict[str, list[float]] = {kind: [] for kind in CONTROLS if n_random}
    width, total = test.model.arch.d_mlp, 1 + n_random * len(CONTROLS)
    with reported(progress, "circuits", total, "run") as report:
        values = test.metric_of(circuit)
        report(1, total)
        for kind, drawn in random.items():
            for draw in range(n_random):
                control = random_circuit(circuit, kind, seed * n_random + draw, width)
                drawn.append(test.faithfulness(test.metric_of(control)))
                report(1 + sum(map(len, random.values())), total)
    return Evaluation(
        pairs=_pairs(test, clusters).assign(circuit=values),
        random=pd.DataFrame(random),
        circuit=circuit.method,
        n_edges=circuit.n_edges,
        of_edges=circuit.graph.n_edges,
        provenance={"seed": seed},
        **test.measured,
    )


def faithfulness(
    test: Evaluator,
    scores: EdgeScores,
    grid: Sequence[float] = GRID,
    clusters: Clusters = None,
    seed: int = 0,
    progress: Progress | bool = True,
) -> Faithfulness:
    """Run circuits of every size on test prompts that the scores have not seen.

    `grid` has parts k of all edges; n = int(k x edges), as MIB has it. `clusters` has the entity of
    each test pair, for the intervals of the summary; `seed` is theirs.

    Raises:
        PlanError: scores of another model, or that saw the test prompts.
    """
    sizes, values = [], []
    with reported(progress, "circuits", 2 * len(grid), "run") as report:
        for absolute in (False, True):  # as in `RANKINGS`
            for k in grid:
                circuit = top_edges(scores, int(k * scores.graph.n_edges), absolute)
                test.check(circuit)
                # All edges: the model itself, whatever the ablation.
                values.append(test.full if k == 1 else test.metric_of(circuit))
                sizes.append(circuit.n_edges)
                report(len(sizes), 2 * len(grid))
    shape = (len(RANKINGS), len(grid))
    curves = {
        "metric": (("ranking", "k", "pair"), np.reshape(values, (*shape, -1))),
        "n_edges": (("ranking", "k"), np.reshape(sizes, shape)),
    }
    coords = {"ranking": list(RANKINGS), "k": list(grid), "pair": list(test.ids)}
    return Faithfulness(
        pairs=_pairs(test, clusters),
        curves=xr.Dataset(curves, coords),
        method=scores.method,
        provenance={"seed": seed},
        **test.measured,
    )


def _pairs(test: Evaluator, clusters: Clusters) -> pd.DataFrame:
    pairs = pd.DataFrame({"pair": test.ids, "full": test.full, "empty": test.empty})
    return pairs if clusters is None else pairs.assign(cluster=[str(one) for one in clusters])


# --- random controls ---------------------------------------------------------------------------


def random_circuit(circuit: Circuit, kind: str = "heads", seed: int = 0, d_mlp: int = 0) -> Circuit:
    """A random circuit of the same number of edges, and of as many neurons in each MLP.

    ``"edges"`` draws edges from all there are: what any method must beat, and easily does, as few
    of them join up. ``"heads"`` shuffles the heads within each layer, so the circuit keeps its
    shape, its layers and its MLPs and only the heads' identities are chance: what shows that it
    matters *which* heads. `d_mlp` is needed for circuits of neurons.
    """
    generator = torch.Generator().manual_seed(seed)
    neurons = {
        name: tuple(torch.randperm(d_mlp, generator=generator)[: len(kept)].tolist())
        for name, kept in circuit.neurons.items()
    }
    if kind == "heads":
        edges = _shuffled_heads(circuit, generator)
    else:
        exists = circuit.graph.exists
        chosen = torch.zeros(circuit.graph.n_edges, dtype=torch.bool)
        chosen[torch.randperm(len(chosen), generator=generator)[: circuit.n_edges]] = True
        edges = torch.zeros_like(exists).masked_scatter(exists, chosen)
    return replace(circuit, edges=edges, neurons=neurons, scores=None, method=f"random {kind}")


def _shuffled_heads(circuit: Circuit, generator: torch.Generator) -> Bool[Tensor, "s d"]:
    graph = circuit.graph
    sources, destinations = torch.arange(graph.n_sources), torch.arange(graph.n_destinations)
    for layer in range(graph.n_layers):
        order = torch.randperm(graph.n_heads, generator=generator)
        heads, reads = graph.heads(layer), graph.qkv(layer)
        sources[heads] = heads.start + order
        parts = [reads.start + part * graph.n_heads + order for part in range(3)]
        destinations[reads] = torch.cat(parts)
    return circuit.edges[sources][:, destinations]
