"""`EmotionCircuit` and `Differences`: what carries an emotion, and what brings it about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.data import EMOTIONS
from circuits.emotion.states import States, centred
from interp.brief import brief
from interp.errors import PlanError
from interp.model.model import Model
from interp.results import folder
from interp.statistics import jaccard

Part = Literal["neurons", "heads"]
Unit = tuple[int, int]
"""(layer, neuron or head)."""


@brief
@dataclass(frozen=True)
class Differences:
    """Δμ: how activations in an emotion differ from the mean over emotions, on their own scale.

    Source: Wang et al. 2025 (arXiv 2510.11328), emotion difference vectors.

    Attributes:
        z: of what the heads' output projection reads.
        mlp_post: of what the MLP's output projection reads.
    """

    z: Float[Tensor, "emotion layer head d_head"]
    mlp_post: Float[Tensor, "emotion layer neuron"]

    @classmethod
    def of(cls, found: States) -> "Differences":
        """Mean over complete groups of the group-centred activations."""
        return cls(centred(found.z).mean(0), centred(found.mlp_post).mean(0))

    def norms(self, part: Part, emotion: str) -> Float[np.ndarray, "layer unit"]:
        """Size of each head's or neuron's difference in an emotion."""
        row = EMOTIONS.index(emotion)
        return (self.z[row].norm(dim=-1) if part == "heads" else self.mlp_post[row].abs()).numpy()

    def save(self, path: str | Path, model: Model, note: Mapping[str, Any] | None = None) -> Path:
        """Write a folder that names the model's weights."""
        arrays = {"z": self.z.numpy(), "mlp_post": self.mlp_post.numpy()}
        return folder.write(
            Path(path),
            manifest("emotion differences", model.name, model.weights_hash) | dict(note or {}),
            {},
            arrays,
        )

    @classmethod
    def load(cls, path: str | Path, model: Model) -> "Differences":
        """Read what `save` wrote.

        Raises:
            PlanError: they are of other weights.
            RunFolderError: the folder is missing or damaged.
        """
        _, arrays = read_of(Path(path), "emotion differences", model)
        with folder.reading(path):
            return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})


@dataclass(frozen=True)
class EmotionCircuit:
    """The neurons and heads of one emotion.

    Attributes:
        emotion: one of `EMOTIONS`.
        neurons: layer -> neurons, best first.
        heads: layer -> heads, best first.
        n_neurons: neurons that a layer of the model has; `n_heads` its heads.
        n_layers: layers that the model has.
        method: how it was chosen.
    """

    emotion: str
    neurons: Mapping[int, tuple[int, ...]]
    heads: Mapping[int, tuple[int, ...]]
    n_neurons: int
    n_heads: int
    n_layers: int
    method: str = ""

    @classmethod
    def of(
        cls,
        model: Model,
        emotion: str,
        neurons: Sequence[Unit] = (),
        heads: Sequence[Unit] = (),
        method: str = "",
    ) -> "EmotionCircuit":
        """A circuit of a model from (layer, unit) pairs, best first."""
        a = model.arch
        return cls(
            emotion,
            by_layer(neurons),
            by_layer(heads),
            a.d_mlp or 0,
            a.n_heads,
            a.n_layers,
            method,
        )

    def units(self, part: Part) -> list[Unit]:
        """(layer, unit) of all its neurons or heads, by layer."""
        table = self.neurons if part == "neurons" else self.heads
        return [(layer, unit) for layer in sorted(table) for unit in table[layer]]

    @property
    def size(self) -> int:
        """How many neurons and heads it has."""
        return sum(map(len, self.neurons.values())) + sum(map(len, self.heads.values()))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers where it has a neuron or a head."""
        return tuple(sorted({layer for table in (self.neurons, self.heads) for layer in table}))

    def only(self, part: Part) -> "EmotionCircuit":
        """Its neurons alone, or its heads alone."""
        return replace(self, **{"heads" if part == "neurons" else "neurons": {}})

    def jaccard(self, other: "EmotionCircuit", part: Part) -> float:
        """Shared part of two circuits' neurons or heads."""
        return jaccard(self.units(part), other.units(part))

    def random(
        self,
        rng: np.random.Generator,
        disjoint: bool = True,
        norms: Mapping[Part, Float[np.ndarray, "layer unit"]] | None = None,
    ) -> "EmotionCircuit":
        """As many neurons and heads in the same layers, drawn at random.

        Args:
            rng: draws.
            disjoint: draw none of the circuit's own. Where a layer has too few others, the
                nearest layers stand in.
            norms: draw units near in size (`Differences.norms`): from the tenth, at least four,
                of the free units of a layer that are nearest.

        Raises:
            PlanError: the model has too few units outside the circuit.
        """
        drawn = {
            part: by_layer(
                _drawn(self.units(part), self._shape(part), rng, disjoint, (norms or {}).get(part))
            )
            for part in ("neurons", "heads")
        }
        return replace(self, **drawn, method=f"random as {self.method or 'given'}")

    def _shape(self, part: Part) -> tuple[int, int]:
        return self.n_layers, self.n_neurons if part == "neurons" else self.n_heads

    def __repr__(self) -> str:
        n = len(self.units("neurons"))
        return f"EmotionCircuit({self.emotion}: {n} neurons, {self.size - n} heads; {self.method})"


def by_layer(units: Sequence[Unit]) -> dict[int, tuple[int, ...]]:
    """Units of each layer, in the order given."""
    found: dict[int, list[int]] = {}
    for layer, unit in units:
        found.setdefault(int(layer), []).append(int(unit))
    return {layer: tuple(found[layer]) for layer in sorted(found)}


NEIGHBOURS = 4


def _drawn(
    chosen: Sequence[Unit],
    shape: tuple[int, int],
    rng: np.random.Generator,
    disjoint: bool,
    norms: Float[np.ndarray, "layer unit"] | None,
) -> list[Unit]:
    """Another unit for each chosen one, near in layer and, with `norms`, in size."""
    free = np.ones(shape, dtype=bool)
    if disjoint:
        free[tuple(np.array(chosen, dtype=int).reshape(-1, 2).T)] = False
    if free.sum() < len(chosen):
        raise PlanError(
            f"{int(free.sum())} units are left for a random set of {len(chosen)}; choose fewer, or "
            "draw with disjoint=False."
        )
    out: list[Unit] = []
    for index in rng.permutation(len(chosen)):
        layer, unit = chosen[index]
        near = min(np.flatnonzero(free.any(1)), key=lambda other: abs(other - layer))
        left = np.flatnonzero(free[near])
        if norms is not None:
            n = max(NEIGHBOURS, shape[1] // 10)
            left = left[
                np.argsort(np.abs(norms[near, left] - norms[layer, unit]), kind="stable")[:n]
            ]
        pick = int(rng.choice(left))
        free[near, pick] = False
        out.append((int(near), pick))
    return out


# --- files ---------------------------------------------------------------------------------------


def save_circuits(
    path: str | Path,
    circuits: Mapping[str, EmotionCircuit],
    model: Model,
    note: Mapping[str, Any] | None = None,
) -> Path:
    """Write one circuit an emotion into a folder that names the model's weights."""
    rows = {
        name: {
            "method": circuit.method,
            "neurons": {str(layer): list(units) for layer, units in circuit.neurons.items()},
            "heads": {str(layer): list(units) for layer, units in circuit.heads.items()},
        }
        for name, circuit in circuits.items()
    }
    said = (
        manifest("emotion circuits", model.name, model.weights_hash)
        | {"circuits": rows}
        | dict(note or {})
    )
    return folder.write(Path(path), said, {}, {})


def load_circuits(path: str | Path, model: Model) -> dict[str, EmotionCircuit]:
    """Read what `save_circuits` wrote: emotion -> circuit.

    Raises:
        PlanError: they are of other weights.
        RunFolderError: the folder is missing or damaged.
    """
    read, _ = read_of(Path(path), "emotion circuits", model)
    with folder.reading(path):
        return {
            emotion: EmotionCircuit.of(
                model, emotion, _units(row["neurons"]), _units(row["heads"]), row["method"]
            )
            for emotion, row in read["circuits"].items()
        }


def _units(table: Mapping[str, Sequence[int]]) -> list[Unit]:
    return [(int(layer), unit) for layer, units in table.items() for unit in units]


def manifest(kind: str, model: str, weights_hash: str) -> dict[str, Any]:
    """What a folder of findings says about whose they are."""
    return {
        "kind": kind,
        "model": model,
        "weights": weights_hash,
        "emotions": list(EMOTIONS),
        "provenance": folder.provenance(),
    }


def read_of(path: Path, kind: str, model: Model) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Manifest and arrays of findings in a model.

    Raises:
        PlanError: they are of other weights.
        RunFolderError: the folder is missing or damaged.
    """
    read, _, arrays = folder.read(path, kind, ())
    check_model(str(path), str(read.get("model")), str(read.get("weights")), model)
    return read, arrays


def check_model(what: str, name: str, weights_hash: str, model: Model) -> None:
    """Refuse findings of other weights.

    Raises:
        PlanError: as said.
    """
    if weights_hash != model.weights_hash:
        raise PlanError(
            f"{what} was found in {name!r} with other weights than {model.name}'s; load that "
            "model, or run the discovery again."
        )
