"""What a study reports beside its verdict: components, perplexity, backup, relations, firing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from circuits.recall_reasoning.cells import Data
from circuits.recall_reasoning.losses import Losses, losses
from circuits.recall_reasoning.published import last_gates
from circuits.recall_reasoning.scores import AbilityCircuit, circuits_of, scores_of
from interp.data.pairs import PromptPairs
from interp.model.model import Model
from interp.statistics import bootstrap_mean, jaccard

_LOST = [f"{key}{bound}" for key in ("accuracy", "effect") for bound in ("", "_low", "_high")]
RELATIONS = ["circuit", "ability", "found_on", "jaccard", "cell", "relation", "n", *_LOST]
FIRING = ["circuit", "ability", "neuron", "score", "own", "other", "specificity", "n"]
BACKUP = ["circuit", "ability", "together", "sum_of_single", "ratio"]
NEUTRAL = ["circuit", "ability", "ablation", "factor"]


def circuits_table(circuits: Sequence[AbilityCircuit], chosen: set[str]) -> pd.DataFrame:
    """A row per component of every circuit, best first, and whether its circuit was chosen."""
    rows = [
        c.labels | {"rank": rank, "component": str(one), "score": score, "chosen": c.name in chosen}
        for c in circuits
        for rank, (one, score) in enumerate(zip(c.components, c.scores, strict=True))
    ]
    return pd.DataFrame(rows)


def neutral_table(circuits: Sequence[AbilityCircuit], found: Losses, ablation: str) -> pd.DataFrame:
    """The factor by which each circuit's ablation raises the perplexity of neutral text."""
    rows = [
        {
            "circuit": c.name,
            "ability": c.ability.name,
            "ablation": ablation,
            "factor": float(np.exp(found.nll[:, found.column(c.name)].mean())),
        }
        for c in circuits
        if found.nll is not None
    ]
    return pd.DataFrame(rows, columns=NEUTRAL)


def backup_row(circuit: AbilityCircuit, found: Losses) -> dict[str, Any]:
    """What the heads lose one by one and together: others step in where together is much more.

    `found` has the circuit under its name, and each of its components under ``name:component``.
    """

    def own(name: str) -> float:
        at = found.column(name)
        return float(np.mean([found.effect[c][:, at].mean() for c in circuit.ability.own]))

    together = own(circuit.name)
    alone = sum(own(f"{circuit.name}:{c}") for c in circuit.components)
    ratio = together / alone if alone else float("nan")
    return dict(
        zip(BACKUP, (circuit.name, circuit.ability.name, together, alone, ratio), strict=True)
    )


def firing_table(
    model: Model, circuits: Sequence[AbilityCircuit], cells: Mapping[str, PromptPairs]
) -> pd.DataFrame:
    """How often each neuron of each circuit fires at the last token; no row without neurons.

    A neuron may fire in one cell only and have no effect there, which the ablation shows.

    A row per circuit and neuron: the ``score`` it was ranked by, the fraction of the prompts of
    the ``own`` and of the ``other`` cells on which its gate is above 0, each cell counting as
    much, and ``specificity``, own - other. The circuits should not have been found on these
    prompts. `PlanError` where the model has no gated MLPs.
    """
    of_neurons = [circuit for circuit in circuits if circuit.kind == "neuron"]
    fires = {
        cell: (last_gates(model, [pair.clean for pair in pairs.rendered(model)]) > 0).mean(0)
        for cell, pairs in cells.items()
        if of_neurons
    }
    rows: list[dict[str, Any]] = []
    for circuit in of_neurons:
        ability = circuit.ability
        for neuron, score in zip(circuit.components, circuit.scores, strict=True):
            own, other = (
                float(np.mean([fires[cell][neuron.layer, neuron.unit] for cell in side]))
                for side in ability.sides
            )
            row = {"circuit": circuit.name, "ability": ability.name, "neuron": str(neuron)}
            row |= {"score": score, "own": own, "other": other, "specificity": own - other}
            rows.append(row | {"n": min(map(len, cells.values()))})
    return pd.DataFrame(rows, columns=FIRING)


def relations_table(
    model: Model,
    data: Data,
    selection: Mapping[str, PromptPairs],
    chosen: Sequence[AbilityCircuit],
    ablation: str,
    out: Path,
    most: int,
) -> pd.DataFrame:
    """What each relation's circuit costs on each relation; no row where there are not two.

    A circuit found on all relations may serve one of them only. So heads are ranked again on the
    pairs of one relation, by the rule and the size that were chosen, and every relation's circuit
    is ablated on the test pairs of each. Pairs without a relation belong to every one.

    A row per circuit (``found_on`` a relation; ``jaccard`` with that of all relations), cell and
    relation tested: accuracy and effect lost with 95 % intervals over bridges; where no circuit is
    found, one with ``n`` 0. The scores on `selection` lie in `out`; at most `most` test pairs per
    cell are run.
    """
    rows: list[dict[str, Any]] = []
    names = sorted({data.relation[p.id] for pairs in selection.values() for p in pairs} - {""})
    found: dict[str, tuple[AbilityCircuit, dict[str, Any]]] = {}
    for overall in (c for c in chosen if c.kind == "head" and len(names) > 1):
        for name in names:
            ids = {one for one, own in data.relation.items() if own in (name, "")}
            scores = scores_of(model, selection, "head", out, among=ids)
            key, size = f"{overall.name}@{name}", len(overall.components)
            row = {"circuit": key, "ability": overall.ability.name, "found_on": name}
            for part in circuits_of(scores, overall.ability, overall.rule, (size,)):
                shared = jaccard(set(overall.components), set(part.components))
                found[key] = part, row | {"jaccard": shared}
            rows += [] if key in found else [row | {"n": 0}]
    if not found:
        return pd.DataFrame(rows, columns=RELATIONS)
    sets = {key: part.set for key, (part, _) in found.items()}
    measured = losses(model, data, "test", sets, ablation, out / "relations", most)
    for key, (_, row) in found.items():
        for cell, clusters in measured.clusters.items():
            relation = np.array([data.relation[pair.id] for pair in data.of("test", cell, most)])
            for name in sorted(set(relation.tolist())):
                which = np.flatnonzero(relation == name)
                bounds = [
                    float(bound)
                    for lost in (measured.accuracy, measured.effect)
                    for bound in bootstrap_mean(
                        lost[cell][which, measured.column(key)],
                        clusters=[clusters[i] for i in which],
                    )
                ]
                own = {"cell": cell, "relation": name, "n": len(which)}
                rows.append(row | own | dict(zip(_LOST, bounds, strict=True)))
    return pd.DataFrame(rows, columns=RELATIONS)
