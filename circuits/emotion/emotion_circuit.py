"""`EmotionCircuit`: the components of an emotion, and the vectors they write."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.components import PARTS, Part
from circuits.emotion.states import States, centred
from circuits.emotion.texts import EMOTIONS
from interp.brief import brief
from interp.model.components import Component, ComponentKind
from interp.model.model import Model
from interp.statistics import jaccard
from interp.statistics.random_sets import random_set

Unit = tuple[int, int]
"""(layer, neuron or head)."""
KIND_OF: dict[Part, ComponentKind] = {"neurons": "neuron", "heads": "head"}


@brief
@dataclass(frozen=True)
class SiteVectors:
    """Vectors at what the output projections read, of each emotion or of all together."""

    z: Float[Tensor, "*emotion layer head d_head"]
    mlp_post: Float[Tensor, "*emotion layer neuron"]

    @classmethod
    def differences(cls, found: States) -> "SiteVectors":
        """Δμ: how activations in each emotion differ from the mean over emotions.

        Source: Wang et al. 2025 (arXiv 2510.11328), emotion difference vectors.
        """
        return cls(centred(found.z).mean(0), centred(found.mlp_post).mean(0))

    @classmethod
    def means(cls, found: States) -> "SiteVectors":
        """Mean over all prompts, in all emotions: what mean-ablation puts in place."""
        return cls(found.z.mean((0, 1)), found.mlp_post.mean((0, 1)))

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """Those at heads, and those at neurons."""
        return self.z, self.mlp_post

    def of(self, emotion: str) -> "SiteVectors":
        """Those of one emotion."""
        row = EMOTIONS.index(emotion)
        return SiteVectors(self.z[row], self.mlp_post[row])

    def norms(self, emotion: str) -> dict[ComponentKind, Float[np.ndarray, "layer unit"]]:
        """Size of each head's and neuron's vector in an emotion."""
        own = self.of(emotion)
        return {"neuron": own.mlp_post.abs().numpy(), "head": own.z.norm(dim=-1).numpy()}

    def rolled(self) -> "SiteVectors":
        """Each emotion with the vectors of the next one."""
        return SiteVectors(self.z.roll(-1, 0), self.mlp_post.roll(-1, 0))


@dataclass(frozen=True)
class EmotionCircuit:
    """The neurons and heads of one emotion, by layer, best first.

    `shape` is the model's: layers, neurons per layer, heads per layer.
    """

    emotion: str
    neurons: Mapping[int, tuple[int, ...]]
    heads: Mapping[int, tuple[int, ...]]
    shape: tuple[int, int, int]
    method: str = ""

    @classmethod
    def of(
        cls,
        model: Model,
        emotion: str,
        neurons: Iterable[Unit] = (),
        heads: Iterable[Unit] = (),
        method: str = "",
    ) -> "EmotionCircuit":
        """A circuit of a model from (layer, unit) pairs, best first."""
        shape = model.arch.n_layers, model.arch.d_mlp, model.arch.n_heads
        return cls(emotion, by_layer(neurons), by_layer(heads), shape, method)

    def units(self, part: Part) -> list[Unit]:
        """(layer, unit) of all its neurons or heads, by layer."""
        table = self.neurons if part == "neurons" else self.heads
        return [(layer, unit) for layer in sorted(table) for unit in table[layer]]

    @property
    def size(self) -> int:
        """How many neurons and heads it has."""
        return sum(len(self.units(part)) for part in PARTS)

    def only(self, part: Part) -> "EmotionCircuit":
        """Its neurons alone, or its heads alone."""
        return replace(self, **{"heads" if part == "neurons" else "neurons": {}})

    def jaccard(self, other: "EmotionCircuit", part: Part) -> float:
        """Shared part of two circuits' neurons or heads."""
        return jaccard(self.units(part), other.units(part))

    def random(
        self, rng: np.random.Generator, vectors: SiteVectors | None = None
    ) -> "EmotionCircuit":
        """A disjoint one of as many neurons and heads in the same layers, drawn at random.

        Where a layer has too few others, they come from the nearest layer that has some.

        With `vectors`, units are drawn whose vectors are near in size to the circuit's own.
        """
        n_layers, n_neurons, n_heads = self.shape
        chosen = [
            Component(*unit[:1], KIND_OF[part], unit[1])
            for part in PARTS
            for unit in self.units(part)
        ]
        shapes: dict[ComponentKind, Unit] = {
            "neuron": (n_layers, n_neurons),
            "head": (n_layers, n_heads),
        }
        sizes = vectors and vectors.norms(self.emotion)
        drawn = random_set(chosen, shapes, rng, sizes)
        of = {
            part: by_layer((c.layer, c.unit) for c in drawn if c.kind == kind)
            for part, kind in KIND_OF.items()
        }
        return replace(self, **of, method=f"random as {self.method or 'given'}")

    def __repr__(self) -> str:
        n = len(self.units("neurons"))
        return f"EmotionCircuit({self.emotion}: {n} neurons, {self.size - n} heads; {self.method})"


Circuits = Mapping[str, EmotionCircuit]
"""Emotion -> circuit."""


def by_layer(units: Iterable[Unit]) -> dict[int, tuple[int, ...]]:
    """Units of each layer, in the order given."""
    found: dict[int, list[int]] = {}
    for layer, unit in units:
        found.setdefault(int(layer), []).append(int(unit))
    return {layer: tuple(found[layer]) for layer in sorted(found)}


def random_circuits(
    circuits: Circuits, rng: np.random.Generator, vectors: SiteVectors | None = None
) -> dict[str, EmotionCircuit]:
    """A random circuit for each emotion; see `EmotionCircuit.random`."""
    return {emotion: circuit.random(rng, vectors) for emotion, circuit in circuits.items()}


def shifted(circuits: Circuits) -> dict[str, EmotionCircuit]:
    """Each emotion with the circuit of the next one: the wrong places for the right vectors."""
    others = zip(EMOTIONS, (*EMOTIONS[1:], EMOTIONS[0]), strict=True)
    return {emotion: replace(circuits[other], emotion=emotion) for emotion, other in others}
