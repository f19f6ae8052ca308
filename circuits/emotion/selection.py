"""Which neurons and heads make up an emotion's circuit."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from circuits.emotion.components import PARTS, ComponentScores, Influence, Part, ScoreKind
from circuits.emotion.emotion_circuit import Circuits, EmotionCircuit, Unit
from circuits.emotion.emotion_settings import CircuitSize
from circuits.emotion.texts import EMOTIONS
from interp.errors import PlanError
from interp.model.model import Model

PRESETS = ("centred", "centred-influence", "paper", "paper-influence")
PER_SUBLAYER = 10
NEURON_SHARE = 0.7
"""The paper's circuit: components per attention and MLP sublayer, and how many are neurons."""


@dataclass(frozen=True)
class Budget:
    """The size of a circuit over all layers, and the paper's bounds in each layer.

    Attributes:
        least_neurons, least_heads: fewest in a layer; 1, or 0, where the budget does not allow it.
        cap: largest part of `neurons`, and of `heads`, that one layer gets.
    """

    neurons: int
    heads: int
    least_neurons: int = 4
    least_heads: int = 2
    cap: float = 0.4

    def __post_init__(self) -> None:
        counts = (self.neurons, self.heads, self.least_neurons, self.least_heads)
        if min(counts) < 0 or not 0 < self.cap <= 1:
            raise PlanError(
                f"{self} cannot be met; give counts of at least 0 and a cap above 0 and up to 1."
            )

    @classmethod
    def paper(cls, n_layers: int) -> "Budget":
        """The paper's: ten components per sublayer, 392 neurons and 168 heads for 28 layers."""
        total = PER_SUBLAYER * 2 * n_layers
        neurons = round(NEURON_SHARE * total)
        return cls(neurons, total - neurons)

    @classmethod
    def of(cls, model: Model, size: CircuitSize) -> "Budget":
        """The numbers for a model, which never exceed what it has."""
        a = model.arch
        n_neurons, n_heads = a.n_layers * a.d_mlp, a.n_layers * a.n_heads
        wanted = cls(size.neurons, int(size.heads * n_heads))
        if size.published:
            wanted = cls.paper(a.n_layers)
        return cls(min(wanted.neurons, n_neurons), min(wanted.heads, n_heads))

    def bounds(self, part: Part) -> tuple[int, int]:
        """Number of components of a kind, and the fewest in a layer."""
        neurons = self.neurons, self.least_neurons
        return neurons if part == "neurons" else (self.heads, self.least_heads)


def quotas(
    influence: Float[np.ndarray, " layer"], budget: int, least: int, cap: int
) -> Int[np.ndarray, " layer"]:
    """Divide components among layers in proportion to influence, within bounds.

    Every layer gets `least`; the rest is divided by influence (below zero counts as zero), rounded
    down and capped; what is left goes to the largest remainders, and what caps leave over to the
    layers that were due most. Equal claims are served from the first layer on. A budget above all
    caps together, or an influence that is not finite, is a `PlanError`.

    Source: Wang et al. 2025 (arXiv 2510.11328), global circuit assembly; the order of the steps and
    the caps are those of the released code, whose circuit for anger they reproduce exactly.
    """
    n = len(influence)
    if not np.isfinite(influence).all():
        raise PlanError(f"the influences {influence.tolist()} must all be finite.")
    if cap * n < budget:
        raise PlanError(
            f"{n} layers of at most {cap} cannot hold {budget} components; "
            "lower the budget or raise the cap."
        )
    least = next(m for m in (least, 1, 0) if m * n <= budget and m <= cap)
    weight = np.maximum(influence, 0)
    weight = weight / weight.sum() if weight.any() else np.full(n, 1 / n)
    planned = (budget - least * n) * weight
    quota = np.minimum(least + np.floor(planned).astype(int), cap)
    remainder = planned - np.floor(planned)
    left = budget - int(quota.sum())
    for layer in np.argsort(-remainder, kind="stable")[:left]:
        quota[layer] += quota[layer] < cap
    for layer in np.argsort(-planned, kind="stable"):
        quota[layer] += min(cap - quota[layer], budget - int(quota.sum()))
    return quota


def allocate(
    influence: Mapping[Part, Float[np.ndarray, " layer"]],
    scores: Mapping[Part, Float[np.ndarray, "layer unit"]],
    budget: Budget,
) -> dict[Part, list[Unit]]:
    """Choose a circuit: each layer's best neurons and heads, as many as its influence allows.

    Units come by layer, best first; of equal scores the first unit wins. `PlanError` where
    influences and scores differ in layers, or a score is not finite.
    """
    chosen: dict[Part, list[Unit]] = {}
    for part in PARTS:
        n, table = len(influence[part]), scores[part]
        if len(table) != n or not np.isfinite(table).all():
            raise PlanError(
                f"the scores of {part} have {len(table)} layers and the influences {n}; they must "
                "be as many, and every score finite."
            )
        size, least = budget.bounds(part)
        counts = quotas(influence[part], size, least, min(int(budget.cap * size), table.shape[1]))
        chosen[part] = [
            (layer, int(unit))
            for layer, count in enumerate(counts)
            for unit in np.argsort(-table[layer], kind="stable")[:count]
        ]
    return chosen


def select_circuits(
    model: Model, scored: Mapping[ScoreKind, ComponentScores], found: Influence, size: CircuitSize
) -> dict[str, dict[str, EmotionCircuit]]:
    """Every emotion's circuit in each preset: preset -> emotion -> circuit.

    ``centred`` and ``paper`` name the score. They take the best components of all layers; with
    ``-influence`` the components are divided among sublayers by influence (the paper's way).
    """
    budget = Budget.of(model, size)
    out: dict[str, dict[str, EmotionCircuit]] = {preset: {} for preset in PRESETS}
    for preset in PRESETS:
        kind, _, by_influence = preset.partition("-")
        table = scored["centred" if kind == "centred" else "paper"]
        for row, emotion in enumerate(EMOTIONS):
            if by_influence:
                own: dict[Part, np.ndarray] = {
                    part: table.of(part)[row].double().numpy() for part in PARTS
                }
                units = allocate(found.of(emotion), own, budget)
            else:
                units = {
                    part: top_units(table.of(part)[row], budget.bounds(part)[0]) for part in PARTS
                }
            out[preset][emotion] = EmotionCircuit.of(model, emotion, **units, method=preset)
    return out


def top_units(score: Float[Tensor, "layer unit"], k: int) -> list[Unit]:
    """(layer, unit) of the `k` highest scores of all layers, best first; ties by place."""
    width = score.shape[1]
    order = score.flatten().argsort(descending=True, stable=True)[:k]
    return [(int(i) // width, int(i) % width) for i in order]


def top_table(table: ComponentScores, emotion: str, n: int) -> pd.DataFrame:
    """Best neurons and heads of an emotion: ``part``, ``rank``, ``layer``, ``unit``, ``score``."""
    row = EMOTIONS.index(emotion)
    rows = [
        (part, rank, layer, unit, float(table.of(part)[row, layer, unit]))
        for part in PARTS
        for rank, (layer, unit) in enumerate(top_units(table.of(part)[row], n))
    ]
    return pd.DataFrame(rows, columns=["part", "rank", "layer", "unit", "score"])


def overlap_table(circuits: Circuits) -> pd.DataFrame:
    """Jaccard index of every two emotions: columns ``one``, ``other``, ``neurons``, ``heads``."""
    rows = [
        {"one": one, "other": other}
        | {part: circuits[one].jaccard(circuits[other], part) for part in PARTS}
        for one, other in combinations(circuits, 2)
    ]
    return pd.DataFrame(rows)
