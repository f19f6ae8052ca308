"""The arms of the comparison: what steering, a circuit, and its controls each add to a model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.circuit import Differences, EmotionCircuit
from circuits.emotion.data import EMOTIONS
from circuits.emotion.modulation import Modulation, Push, Size
from interp.errors import InterpError

Circuits = Mapping[str, EmotionCircuit]
"""Emotion -> circuit."""
Table = dict[int, Float[Tensor, "emotion width"]]
"""Layer -> one vector an emotion."""


class ArmError(InterpError):
    """An arm that cannot be put together."""


def steering(
    directions: Float[Tensor, "emotion layer d_model"], layers: Sequence[int], fraction: float
) -> Modulation:
    """Add f ||h|| v to the stream after each of several blocks.

    Args:
        directions: unit vectors of the residual stream after each block.
        layers: where.
        fraction: f; the paper's 8 rms(h) v is f = 8 / sqrt(d_model).

    Source: Wang et al. 2025 (arXiv 2510.11328), steering baseline, doses as fractions of ||h||.
    """
    values = {layer: directions[:, layer] for layer in layers}
    return Modulation((Push("resid_post", values, fraction, "norm"),))


def modulating(
    differences: Differences,
    circuits: Circuits,
    strength: float,
    *,
    size: Size = "absolute",
    references: Mapping[str, Mapping[int, float]] | None = None,
    layers: Sequence[int] | None = None,
) -> Modulation:
    """Add the differences of a circuit's neurons and heads, and of no others.

    Args:
        differences: of all components.
        circuits: one an emotion; an emotion without one is left alone.
        strength: lambda.
        size: ``absolute``, or ``relative`` for a dose that follows the state's root mean square.
        references: site -> layer -> root mean square on the discovery prompts (`references_of`).
        layers: only in these; everywhere by default.

    Source: Wang et al. 2025 (arXiv 2510.11328), circuit modulation; heads and neurons alike act on
    the newest token alone (the released code pushes heads at every prompt token, too).
    """
    tables = masked(differences, circuits)
    return _pushes(tables, strength, size, references or {}, layers)


def _pushes(
    tables: Mapping[str, Table],
    strength: float,
    size: Size,
    references: Mapping[str, Mapping[int, float]],
    layers: Sequence[int] | None,
) -> Modulation:
    kept = {
        site: {at: v for at, v in table.items() if layers is None or at in layers}
        for site, table in tables.items()
    }
    pushes = (
        Push(site, table, strength, size, references.get(site, {}))
        for site, table in kept.items()
        if table
    )
    return Modulation(tuple(pushes))


def masked(differences: Differences, circuits: Circuits) -> dict[str, Table]:
    """The differences of each emotion with all components outside its circuit at zero.

    Returns:
        Site -> layer -> values, in layers where some emotion has a component.
    """
    n = len(EMOTIONS)
    tables: dict[str, Table] = {"z": {}, "mlp_post": {}}
    for row, emotion in enumerate(EMOTIONS):
        if emotion not in circuits:
            continue
        for layer, heads in circuits[emotion].heads.items():
            shape = differences.z.shape[2:]
            here = tables["z"].setdefault(layer, torch.zeros(n, int(np.prod(shape))))
            chosen = list(heads)
            here[row].view(shape)[chosen] = differences.z[row, layer, chosen]
        for layer, neurons in circuits[emotion].neurons.items():
            width = differences.mlp_post.shape[-1]
            here = tables["mlp_post"].setdefault(layer, torch.zeros(n, width))
            chosen = list(neurons)
            here[row, chosen] = differences.mlp_post[row, layer, chosen]
    return tables


def others(circuits: Circuits, shift: int = 1) -> dict[str, EmotionCircuit]:
    """Each emotion with the circuit of another one: the wrong places for the right vectors."""
    n = len(EMOTIONS)
    given = [EMOTIONS[(i + shift) % n] for i in range(n)]
    return {
        emotion: replace(circuits[other], emotion=emotion)
        for emotion, other in zip(EMOTIONS, given, strict=True)
    }


def others_vectors(differences: Differences, shift: int = 1) -> Differences:
    """Each emotion with the differences of another one: the wrong vectors."""
    return Differences(differences.z.roll(-shift, 0), differences.mlp_post.roll(-shift, 0))


def random_circuits(
    circuits: Circuits, differences: Differences, seed: int
) -> dict[str, EmotionCircuit]:
    """A random circuit of equal size for each emotion, in the same layers, none of its own units.

    Units are drawn among those near in the norm of their difference; `matching` takes out what
    remains of a difference in norm.
    """
    rng = np.random.default_rng(seed)
    return {
        emotion: circuit.random(
            rng,
            norms={part: differences.norms(part, emotion) for part in ("neurons", "heads")},
        )
        for emotion, circuit in circuits.items()
    }


def matching(
    differences: Differences, circuits: Circuits, to: Circuits, strength: float
) -> Modulation:
    """Modulate `circuits` with as large a push as `to` would give, site by site in total norm.

    The vectors keep their directions; each emotion's are scaled at each site so that the norm over
    all layers is that of `to`. So a random control is not weaker for its units being smaller.

    Raises:
        ArmError: the circuits to be scaled have no differences to scale.
    """
    own, wanted = masked(differences, circuits), masked(differences, to)
    tables: dict[str, Table] = {}
    for site, table in own.items():
        if not table and not wanted[site]:
            continue
        here, there = _norms(table), _norms(wanted[site])
        if bool(((here == 0) & (there > 0)).any()):
            raise ArmError(f"the control has nothing at {site} to scale; draw another.")
        scale = torch.where(here > 0, there / here.clamp(min=1e-12), 0.0)
        tables[site] = {layer: value * scale[:, None] for layer, value in table.items()}
    return _pushes(tables, strength, "absolute", {}, None)


def _norms(table: Table) -> Float[Tensor, " emotion"]:
    """Norm over all layers of what each emotion is pushed by."""
    if not table:
        return torch.zeros(len(EMOTIONS))
    return torch.stack([value.square().sum(-1) for value in table.values()]).sum(0).sqrt()


def references_of(
    z: Float[Tensor, "group emotion layer head d_head"],
    mlp_post: Float[Tensor, "group emotion layer neuron"],
) -> dict[str, dict[int, float]]:
    """Root mean square of each site and layer on the discovery prompts, for relative doses."""
    flat = {"z": z.flatten(-2), "mlp_post": mlp_post}
    return {
        site: {layer: float(x[:, :, layer].square().mean().sqrt()) for layer in range(x.shape[2])}
        for site, x in flat.items()
    }
