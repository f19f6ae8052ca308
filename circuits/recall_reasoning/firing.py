"""Firing statistics of a circuit's neurons, as the published account describes neurons.

Beside an ablation they show what they are worth: a neuron may fire in one cell only and do nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from circuits.recall_reasoning.cells import Design
from circuits.recall_reasoning.published import last_token
from circuits.recall_reasoning.scoring import Circuit
from interp.data.pairs import PromptPairs
from interp.model.model import Model

COLUMNS = ["circuit", "ability", "neuron", "score", "own", "other", "specificity", "n"]


def firing_table(
    model: Model, design: Design, circuits: Sequence[Circuit], cells: Mapping[str, PromptPairs]
) -> pd.DataFrame:
    """How often each neuron of each circuit fires at the last token; no row without neurons.

    Args:
        model: with gated MLPs; a neuron fires where its gate is above 0.
        design: its abilities.
        circuits: those of neurons are looked at.
        cells: prompts that the circuits were not found on.

    Returns:
        A row a circuit and neuron: the ``score`` it was ranked by, the part of the prompts of the
        ``own`` and of the ``other`` cells on which it fires, each cell counting as much, and
        ``specificity``, own - other.

    Raises:
        PlanError: the model has no gated MLPs.
    """
    of_neurons = [circuit for circuit in circuits if circuit.kind == "neuron"]
    if not of_neurons:
        return pd.DataFrame(columns=COLUMNS)
    fires = {
        cell: (last_token(model, [pair.clean for pair in pairs]).gates > 0).mean(0)
        for cell, pairs in cells.items()
    }
    rows: list[dict[str, Any]] = []
    for circuit in of_neurons:
        ability = next(a for a in design.abilities if a.name == circuit.ability)
        for neuron, score in zip(circuit.components, circuit.scores, strict=True):
            own, other = (
                float(sum(fires[cell][neuron.layer, neuron.unit] for cell in side) / len(side))
                for side in (ability.own, ability.others)
            )
            row = {"circuit": circuit.name, "ability": ability.name, "neuron": str(neuron)}
            row |= {"score": score, "own": own, "other": other, "specificity": own - other}
            rows.append(row | {"n": min(map(len, cells.values()))})
    return pd.DataFrame(rows, columns=COLUMNS)
