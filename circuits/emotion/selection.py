"""Which neurons and heads make up an emotion's circuit, and how stable and how shared that is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.allocation import Allotted, Budget, allocate
from circuits.emotion.circuit import EmotionCircuit, Part
from circuits.emotion.data import EMOTIONS
from circuits.emotion.directions import Directions
from circuits.emotion.influence import Influence
from circuits.emotion.scores import Kind, Scores, scores
from circuits.emotion.states import States
from interp.model.model import Model

PRESETS = ("centred", "centred-influence", "paper", "paper-influence")
PARTS: tuple[Part, ...] = get_args(Part)
KIND_OF: dict[Allotted, Part] = {"neuron": "neurons", "head": "heads"}
Circuits = dict[str, EmotionCircuit]
"""Emotion -> circuit."""


@dataclass(frozen=True)
class Size:
    """How many components a circuit has.

    Attributes:
        neurons: in all layers together.
        heads: as a part of all heads.
        paper: instead, ten components for each sublayer, seven of them neurons.
    """

    neurons: int = 560
    heads: float = 0.25
    paper: bool = False

    def budget(self, model: Model) -> Budget:
        """The numbers for a model, which never exceed what it has."""
        a = model.arch
        n_neurons, n_heads = a.n_layers * (a.d_mlp or 0), a.n_layers * a.n_heads
        if self.paper:
            whole = Budget.paper(a.n_layers)
            return replace(
                whole, neurons=min(whole.neurons, n_neurons), heads=min(whole.heads, n_heads)
            )
        return Budget(min(self.neurons, n_neurons), int(self.heads * n_heads))


def circuits_of(
    model: Model, scored: Mapping[Kind, Scores], found: Influence, size: Size | None = None
) -> dict[str, Circuits]:
    """Every emotion's circuit in each preset.

    ``centred`` and ``paper`` name the score. They take the best components of all layers; with
    ``-influence`` each sublayer has a share of them by its influence (the paper's way).
    """
    budget = (size or Size()).budget(model)
    out: dict[str, Circuits] = {}
    for kind, table in scored.items():
        plain, shared = (p for p in PRESETS if p.partition("-")[0] == kind)
        out[plain] = {
            emotion: EmotionCircuit.of(
                model,
                emotion,
                top_units(table.neurons[row], budget.neurons),
                top_units(table.heads[row], budget.heads),
                plain,
            )
            for row, emotion in enumerate(EMOTIONS)
        }
        out[shared] = {
            emotion: _allocated(model, table, found, emotion, budget, shared)
            for emotion in EMOTIONS
        }
    return {preset: out[preset] for preset in PRESETS if preset in out}


def _allocated(
    model: Model, table: Scores, found: Influence, emotion: str, budget: Budget, method: str
) -> EmotionCircuit:
    row = EMOTIONS.index(emotion)
    own: dict[Allotted, np.ndarray] = {
        kind: table.of(part)[row].double().numpy() for kind, part in KIND_OF.items()
    }
    chosen = allocate(found.weights(emotion), own, budget)
    neurons, heads = ([(c.layer, c.unit) for c in chosen if c.kind == kind] for kind in KIND_OF)
    return EmotionCircuit.of(model, emotion, neurons, heads, method)


def top_units(score: Float[Tensor, "layer unit"], k: int) -> list[tuple[int, int]]:
    """(layer, unit) of the `k` highest scores of all layers, best first; ties by place."""
    width = score.shape[1]
    order = score.flatten().argsort(descending=True, stable=True)[:k]
    return [(int(i) // width, int(i) % width) for i in order]


def top_table(table: Scores, emotion: str, n: int) -> pd.DataFrame:
    """Best neurons and heads of an emotion: ``part``, ``rank``, ``layer``, ``unit``, ``score``."""
    row = EMOTIONS.index(emotion)
    rows = [
        (part, rank, layer, unit, float(table.of(part)[row, layer, unit]))
        for part in PARTS
        for rank, (layer, unit) in enumerate(top_units(table.of(part)[row], n))
    ]
    return pd.DataFrame(rows, columns=["part", "rank", "layer", "unit", "score"])


# --- overlap and stability -----------------------------------------------------------------------


def overlap_table(circuits: Circuits) -> pd.DataFrame:
    """Jaccard index of every two emotions' neurons and of their heads.

    Returns:
        Columns ``one``, ``other``, ``neurons``, ``heads``.
    """
    rows = [
        {"one": one, "other": other}
        | {part: circuits[one].jaccard(circuits[other], part) for part in PARTS}
        for one, other in combinations(circuits, 2)
    ]
    return pd.DataFrame(rows)


def stability_table(
    model: Model,
    found: States,
    budget: Budget,
    n_resamples: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of each circuit would be chosen again from other texts.

    Scenarios are drawn with replacement; from each draw directions, scores and top components are
    found anew. The Jaccard index is the mean over all pairs of draws.

    Returns:
        Columns ``kind``, ``emotion``, ``part``, ``k``, ``jaccard``, ``low``, ``high``: mean and
        the range of the middle 95 % of pairs.
    """
    draws: dict[tuple[Kind, str, Part], list[set[tuple[int, int]]]] = {}
    size: dict[Part, int] = {"neurons": budget.neurons, "heads": budget.heads}
    for sample in resamples(found, n_resamples, seed):
        for kind, table in scores(
            model, sample, Directions.of(sample), normed_heads=not model.arch.parts.parallel
        ).items():
            for row, emotion in enumerate(EMOTIONS):
                for part in PARTS:
                    top = set(top_units(table.of(part)[row], size[part]))
                    draws.setdefault((kind, emotion, part), []).append(top)
    rows = []
    for (kind, emotion, part), sets in draws.items():
        pairs = [len(a & b) / max(len(a | b), 1) for a, b in combinations(sets, 2)]
        low, high = np.quantile(pairs, [0.025, 0.975])
        rows.append((kind, emotion, part, size[part], float(np.mean(pairs)), low, high))
    columns = ["kind", "emotion", "part", "k", "jaccard", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def resamples(found: States, n: int, seed: int) -> Iterator[States]:
    """Bootstrap samples of the groups, scenario by scenario."""
    rng = np.random.default_rng(seed)
    of: dict[str, list[int]] = {}
    for group, scenario in enumerate(found.scenarios):
        of.setdefault(scenario, []).append(group)
    members: Sequence[list[int]] = list(of.values())
    for _ in range(n):
        drawn = rng.integers(len(members), size=len(members))
        yield found.only([group for i in drawn for group in members[i]])


def as_arrays(scored: Mapping[Kind, Scores]) -> dict[str, np.ndarray]:
    """Scores as named arrays, for a file."""
    return {
        f"{kind}_{part}": table.of(part).contiguous().numpy()
        for kind, table in scored.items()
        for part in PARTS
    }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[Kind, Scores]:
    """What `as_arrays` gave."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    return {
        kind: Scores(*(torch.from_numpy(arrays[f"{kind}_{part}"]) for part in PARTS))
        for kind in kinds
    }
