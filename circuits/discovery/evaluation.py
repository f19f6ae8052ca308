"""One circuit on test prompts: faithfulness with its interval, beside random circuits like it."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.discovery.circuit import Circuit
from circuits.discovery.running import Bench
from interp.results import folder
from interp.statistics import Estimate, bootstrap_ratio, empirical_p

PAIRED = ("values", "full", "empty")


@dataclass(frozen=True)
class Evaluation:
    """How well one circuit does the model's work.

    Attributes:
        circuit: the circuit.
        values: the metric with all else ablated, per pair.
        full, empty: the metric of the whole model and with all edges cut, per pair.
        random: faithfulness of random circuits, by kind of control; see `random_circuit`.
        model, metric, ablation, source: what was measured, on what.
        ids: of the test pairs; `clusters` their entities, where given.
        n_excluded: test rows refused.
    """

    circuit: Circuit
    values: Float[np.ndarray, " pair"] = field(repr=False)
    full: Float[np.ndarray, " pair"] = field(repr=False)
    empty: Float[np.ndarray, " pair"] = field(repr=False)
    random: Mapping[str, Float[np.ndarray, " draw"]] = field(repr=False)
    model: str
    metric: str
    ablation: str
    source: str
    ids: tuple[str, ...] = field(repr=False)
    clusters: tuple[Hashable, ...] | None = field(default=None, repr=False)
    n_excluded: int = 0

    def faithfulness(self, seed: int = 0) -> Estimate:
        """(m(C) - m(nothing)) / (m(M) - m(nothing)), a ratio of means, with its 95 % interval."""
        top, bottom = self.values - self.empty, self.full - self.empty
        return bootstrap_ratio(top, bottom, seed, clusters=self.clusters)

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures the command line prints."""
        value, low, high = (float(x) for x in self.faithfulness(seed))
        return {
            "circuit": self.circuit.method,
            "n_edges": self.circuit.n_edges,
            "of_edges": self.circuit.graph.n_edges,
            "model": self.model,
            "metric": self.metric,
            "ablation": self.ablation,
            "source": self.source,
            "n_pairs": len(self.ids),
            "n_excluded": self.n_excluded,
            "full": float(self.full.mean()),
            "empty": float(self.empty.mean()),
            "circuit_metric": float(self.values.mean()),
            "faithfulness": {"value": value, "low": low, "high": high},
            "random": {
                kind: {
                    "n": len(drawn),
                    "mean": float(drawn.mean()),
                    "max": float(drawn.max()),
                    "p": float(empirical_p(value, drawn)),
                }
                for kind, drawn in self.random.items()
            },
        }

    def save(self, path: str | Path, seed: int = 0) -> Path:
        """Write a run folder (kind ``evaluation``) with per-pair values.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        manifest = {
            "kind": "evaluation",
            **self.summary(seed),
            "provenance": folder.provenance() | {"seed": seed},
        }
        pairs = pd.DataFrame({"pair": self.ids, **{name: getattr(self, name) for name in PAIRED}})
        if self.clusters is not None:
            pairs["cluster"] = [str(one) for one in self.clusters]
        tables = {"pairs": pairs, "random": pd.DataFrame(dict(self.random))}
        return folder.write(Path(path), manifest, tables, {})

    @classmethod
    @folder.decoding
    def load(cls, path: Path, circuit: Circuit) -> "Evaluation":
        """Read a run folder back.

        Args:
            path: the folder.
            circuit: what was evaluated, which it does not hold.

        Raises:
            RunFolderError: missing, incomplete or damaged folder, or one of another kind.
        """
        manifest, tables, _ = folder.read(path, "evaluation", ("pairs", "random"))
        pairs, random = tables["pairs"], tables["random"]
        said = {name: manifest[name] for name in ("model", "metric", "ablation", "source")}
        return cls(
            circuit=circuit,
            **{name: pairs[name].to_numpy() for name in PAIRED},
            random={str(kind): random[kind].to_numpy() for kind in random},
            ids=tuple(pairs["pair"].tolist()),
            clusters=tuple(pairs["cluster"].tolist()) if "cluster" in pairs else None,
            n_excluded=manifest["n_excluded"],
            **said,
        )


def evaluate(
    test: Bench,
    circuit: Circuit,
    n_random: int = 20,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run a circuit and its random controls on test prompts.

    Args:
        test: from `bench`, on prompts that the circuit has not seen.
        circuit: the circuit.
        n_random: random circuits of each kind; p is never below 1 / (1 + n_random).
        seed: of the random circuits.
        clusters: entity of each test pair, for the interval.
        progress: called with (circuits done, circuits in all).

    Raises:
        PlanError: a circuit of another model, or that saw the test prompts.
    """
    done, total = 1, 1 + n_random * len(CONTROLS)
    say = progress or (lambda done, total: None)
    say(0, total)
    values = test.metric_of(circuit)
    say(done, total)
    random: dict[str, list[float]] = {kind: [] for kind in CONTROLS if n_random}
    for kind, drawn in random.items():
        for draw in range(n_random):
            width = test.model.arch.d_mlp or 0
            control = random_circuit(circuit, kind, seed * n_random + draw, width)
            drawn.append(test.faithfulness(test.metric_of(control)))
            done += 1
            say(done, total)
    return Evaluation(
        circuit=circuit,
        values=values,
        full=test.full,
        empty=test.empty,
        random={kind: np.array(drawn) for kind, drawn in random.items()},
        model=test.model.name,
        metric=test.metric,
        ablation=test.ablation,
        source=test.source,
        ids=test.ids,
        clusters=None if clusters is None else tuple(clusters),
        n_excluded=len(test.excluded),
    )


def random_circuit(circuit: Circuit, kind: str = "heads", seed: int = 0, d_mlp: int = 0) -> Circuit:
    """A random circuit of the same number of edges, and of as many neurons in each MLP.

    ``"edges"`` draws edges from all there are: what any method must beat, and easily does, as few
    of them join up. ``"heads"`` shuffles the heads within each layer, so the circuit keeps its
    shape, its layers and its MLPs and only the heads' identities are chance: what shows that it
    matters *which* heads.

    Args:
        circuit: what to match.
        kind: one of `CONTROLS`.
        seed: of the draw.
        d_mlp: neurons in an MLP, for circuits of neurons.
    """
    generator = torch.Generator().manual_seed(seed)
    neurons = {
        name: tuple(torch.randperm(d_mlp, generator=generator)[: len(kept)].tolist())
        for name, kept in circuit.neurons.items()
    }
    edges = CONTROLS[kind](circuit, generator)
    return replace(circuit, edges=edges, neurons=neurons, scores=None, method=f"random {kind}")


def _random_edges(circuit: Circuit, generator: torch.Generator) -> Bool[Tensor, "s d"]:
    graph = circuit.graph
    chosen = torch.zeros(graph.n_edges, dtype=torch.bool)
    chosen[torch.randperm(graph.n_edges, generator=generator)[: circuit.n_edges]] = True
    return torch.zeros_like(graph.exists).masked_scatter(graph.exists, chosen)


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


CONTROLS = {"edges": _random_edges, "heads": _shuffled_heads}
"""Kinds of random circuit; see `random_circuit`."""
