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
from interp.errors import PlanError

Circuits = Mapping[str, EmotionCircuit]
"""Emotion -> circuit."""
Tables = dict[str, dict[int, Float[Tensor, "emotion width"]]]
"""Site -> layer -> one vector an emotion."""


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


def pushing(
    tables: Tables,
    strength: float,
    *,
    size: Size = "absolute",
    references: Mapping[str, Mapping[int, float]] | None = None,
    layers: Sequence[int] | None = None,
) -> Modulation:
    """Add what tables hold, at the newest token of each forward.

    Args:
        tables: from `masked`.
        strength: lambda.
        size: ``absolute``, or ``relative`` for a dose that follows the state's root mean square.
        references: site -> layer -> root mean square on the discovery prompts (`references_of`).
        layers: only in these; everywhere by default.

    Source: Wang et al. 2025 (arXiv 2510.11328), circuit modulation; heads and neurons alike act on
    the newest token alone (the released code pushes heads at every prompt token, too).
    """
    known = references or {}
    kept = {
        site: {at: v for at, v in table.items() if layers is None or at in layers}
        for site, table in tables.items()
    }
    pushes = (
        Push(site, table, strength, size, known.get(site, {})) for site, table in kept.items()
    )
    return Modulation(tuple(push for push in pushes if push.values))


def masked(differences: Differences, circuits: Circuits) -> Tables:
    """The differences of each emotion with all components outside its circuit at zero.

    Returns:
        Site -> layer -> values, in layers where some emotion has a component.
    """
    n = len(EMOTIONS)
    tables: Tables = {"z": {}, "mlp_post": {}}
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

    Units are drawn among those near in the norm of their difference; `scaled_to` takes out what
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


def scaled_to(tables: Tables, wanted: Tables) -> Tables:
    """Vectors with their own directions and the size of others.

    Each emotion's are scaled at each site, by one factor for all layers, so that their norm over
    all layers is that of `wanted`. So a control is not weaker for its units being smaller.

    Raises:
        PlanError: there is nothing to scale where something is wanted.
    """
    out: Tables = {}
    for site, table in tables.items():
        here, there = _norms(table), _norms(wanted[site])
        if bool(((here == 0) & (there > 0)).any()):
            raise PlanError(f"the control has nothing at {site} to scale; draw another.")
        scale = torch.where(here > 0, there / here.clamp(min=1e-12), 0.0)
        out[site] = {layer: value * scale[:, None] for layer, value in table.items()}
    return out


def weighted(tables: Tables, weights: Mapping[str, Float[Tensor, "emotion layer"]]) -> Tables:
    """Tables with a strength of its own for each layer, of the same total norm.

    Args:
        tables: from `masked`.
        weights: site -> strength, such as each sublayer's influence; below zero counts as zero.
    """
    changed = {
        site: {at: v * weights[site][:, at, None].clamp(min=0) for at, v in table.items()}
        for site, table in tables.items()
    }
    return scaled_to(changed, tables)


def _norms(table: Mapping[int, Tensor]) -> Float[Tensor, " emotion"]:
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
