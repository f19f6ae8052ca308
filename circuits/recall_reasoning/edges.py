"""Circuits of edges: a finer cut than heads, since a head may serve one reader and harm another.

As in the study, edges are ranked on the selection split, circuits chosen on the validation split
and tested on the test split. What differs: edges are attributed (`eap-dg`), being too many to be
patched one by one; a cut edge carries the corrupt prompt's activation; accuracy is whether the
answer beats the corrupt prompt's; and random circuits are the circuit with every head exchanged for
another of its layer, so that they have its shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.discovery import Circuit, Evaluator, edge_matrix
from circuits.recall_reasoning.cells import Ability, Data, Design
from circuits.recall_reasoning.dissociation import control_table, rating, singles_table
from circuits.recall_reasoning.measuring import Losses
from circuits.recall_reasoning.scoring import RULES
from circuits.recall_reasoning.settings import Settings
from interp.attribution import attribute_edges
from interp.errors import PlanError
from interp.model.graph import Graph
from interp.model.model import Model

SIZES = (16, 64, 256)


@dataclass(frozen=True)
class EdgeCircuit:
    """Edges that are claimed to serve one ability."""

    ability: str
    rule: str
    edges: Bool[Tensor, "source destination"] = field(repr=False)
    kind: str = "edge"

    @property
    def size(self) -> int:
        """How many edges."""
        return int(self.edges.sum())

    @property
    def name(self) -> str:
        """A name for tables: ability, kind, rule and size."""
        return f"{self.ability}/{self.kind}/{self.rule}/{self.size}"


def edges_table(
    model: Model,
    data: Data,
    design: Design,
    settings: Settings,
    sizes: Sequence[int] = SIZES,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Whether cutting the edges of one ability leaves the other.

    Args:
        model: the model.
        data: what it gets right, from `filtered`.
        design: its abilities.
        settings: rules, margins, and how many pairs and random circuits; its sizes, seeds and
            ablations are not used.
        sizes: edges in a circuit.
        seed: of random circuits and bootstrap.

    Returns:
        A row a circuit on the test split, as in the study's ``singles``, with ``chosen`` (on the
        validation split), ``specific`` and ``holds``; and the random controls of those chosen.

    Raises:
        PlanError: a layer has one head only, so there are no random circuits.
    """
    if model.arch.n_heads < 2:
        raise PlanError(f"{model.name} has one head a layer, which leaves no other to draw.")
    circuits = _circuits(model, data, design, settings, sizes)
    by_name = {one.name: one.edges for one in circuits}
    tried = _losses(model, data, "validation", by_name, settings.n_validate)
    chosen = _chosen(design, circuits, tried)
    measured = _losses(model, data, "test", by_name, settings.n_test)
    found = singles_table(design, circuits, {"resample": measured}, settings, seed)
    control = pd.concat(
        [_control(model, data, ability, one, settings, seed) for ability, one in chosen]
    )
    beyond = {
        row["circuit"]: row["beyond"]
        for row in control.to_dict("records")
        if row["reading"] == "effect"
    }
    singles: Any = found.assign(
        chosen=[name in beyond for name in found["circuit"]],
        specific=[beyond.get(name, False) for name in found["circuit"]],
    )
    holds = singles["needed"] & singles["intact"] & singles["specific"]
    return singles.assign(holds=holds), control.reset_index(drop=True)


def _circuits(
    model: Model, data: Data, design: Design, settings: Settings, sizes: Sequence[int]
) -> list[EdgeCircuit]:
    """The edges that matter most to each ability and not to the others, by every rule and size."""
    scores: dict[str, np.ndarray] = {}
    for cell in data.cells:
        found = attribute_edges(
            model, data.of("selection", cell)[: settings.n_select], progress=False
        )
        effect = float((found.clean - found.corrupt).mean())
        scores[cell] = (edge_matrix(found) / effect).nan_to_num().numpy()
    circuits: dict[str, EdgeCircuit] = {}
    for ability in design.abilities:
        own, other = (np.mean([scores[c] for c in s], 0) for s in (ability.own, ability.others))
        for rule in settings.rules:
            ranked = RULES[rule](own, other)
            order = np.argsort(-ranked, axis=None, kind="stable")
            order = order[ranked.ravel()[order] > 0]
            for size in sizes:
                edges = torch.zeros(ranked.size, dtype=torch.bool)
                edges[torch.from_numpy(order[:size])] = True
                one = EdgeCircuit(ability.name, rule, edges.view(ranked.shape))
                if one.size:
                    circuits[one.name] = one
    return list(circuits.values())


def _losses(
    model: Model,
    data: Data,
    split: str,
    cut: Mapping[str, Bool[Tensor, "source destination"]],
    most: int,
) -> Losses:
    """What the pairs of each cell lose when edges are cut."""
    graph = Graph.of(model.arch)
    accuracy: dict[str, np.ndarray] = {}
    effect: dict[str, np.ndarray] = {}
    total: dict[str, float] = {}
    for cell in data.cells:
        test = Evaluator.of(model, data.of(split, cell)[:most])
        rest = (Circuit(graph, graph.exists & ~edges) for edges in cut.values())
        left = np.stack([test.metric_of(one) for one in rest], 1)  # (pair, set)
        full = test.full[:, None]
        total[cell] = float(test.full.mean() - test.empty.mean())
        effect[cell] = (full - left) / total[cell]
        accuracy[cell] = (full > 0).astype(float) - (left > 0)
    clusters = {cell: data.clusters(data.of(split, cell)[:most]) for cell in data.cells}
    runs = sum(lost.size for lost in effect.values())
    return Losses(accuracy, effect, clusters, tuple(cut), total, None, runs, 0.0)


def _chosen(
    design: Design, circuits: Sequence[EdgeCircuit], tried: Losses
) -> list[tuple[Ability, EdgeCircuit]]:
    found: list[tuple[Ability, EdgeCircuit]] = []
    for ability in design.abilities:
        own = [one for one in circuits if one.ability == ability.name]
        rated = {one.name: rating(ability, tried, tried.column(one.name)) for one in own}
        if own:
            found.append((ability, max(own, key=lambda one: rated[one.name])))
    return found


def _control(
    model: Model, data: Data, ability: Ability, one: EdgeCircuit, settings: Settings, seed: int
) -> pd.DataFrame:
    """A circuit beside itself with other heads of the same layers, on the same pairs."""
    rng = np.random.default_rng(seed)
    graph = Graph.of(model.arch)
    found: dict[bytes, Bool[Tensor, "source destination"]] = {}
    for _ in range(20 * settings.n_random):
        edges = exchanged(graph, one.edges, rng)
        found[edges.numpy().tobytes()] = edges
        if len(found) == settings.n_random:
            break
    drawn = {f"heads-{i}": edges for i, edges in enumerate(found.values())}
    measured = _losses(model, data, "test", {one.name: one.edges} | drawn, settings.n_control)
    return control_table(ability, one, measured, {"heads": list(drawn)})[0]


def exchanged(
    graph: Graph, edges: Bool[Tensor, "source destination"], rng: np.random.Generator
) -> Bool[Tensor, "source destination"]:
    """The same edges with every head exchanged for another of its layer."""
    sources, destinations = torch.arange(graph.n_sources), torch.arange(graph.n_destinations)
    for layer in range(graph.n_layers):
        cycle = torch.from_numpy(rng.permutation(graph.n_heads))
        order = torch.empty_like(cycle)
        order[cycle] = cycle.roll(1)  # one cycle through all heads, so none stays
        heads, reads = graph.heads(layer), graph.qkv(layer)
        sources[heads] = heads.start + order
        parts = [reads.start + part * graph.n_heads + order for part in range(3)]
        destinations[reads] = torch.cat(parts)
    return edges[sources][:, destinations]
