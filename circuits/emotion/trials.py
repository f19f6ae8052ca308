"""What is taken out or put in: top components, random ones, and circuits, one an emotion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from circuits.emotion.circuit import EmotionCircuit, Part
from circuits.emotion.data import EMOTIONS
from circuits.emotion.discovery import Discovery
from circuits.emotion.scores import Kind
from circuits.emotion.selection import Circuits, top_units
from interp.brief import brief
from interp.model.model import Model


@brief
@dataclass(frozen=True)
class Trial:
    """One circuit an emotion, all chosen in one way.

    Attributes:
        name: how: ``centred``, ``paper``, ``random``, ``norm-matched``, or a preset.
        part: what it is made of: ``neurons``, ``heads`` or ``both``.
        k: how many components each has.
        draw: number of the random draw; 0 for chosen ones.
        circuits: by emotion.
    """

    name: str
    part: str
    k: int
    draw: int
    circuits: Circuits


def trials(
    model: Model,
    found: Discovery,
    part: Part,
    ks: Sequence[int],
    random_ks: Sequence[int],
    n_draws: int = 3,
    seed: int = 0,
) -> list[Trial]:
    """Top components by either score, and random ones in the layers of the ``centred`` top.

    Random ones are disjoint from what they stand for; ``norm-matched`` ones are near it in the
    size of their difference.
    """
    kinds: tuple[Kind, ...] = ("centred", "paper")
    out = [
        Trial(kind, part, k, 0, top_circuits(model, found, kind, part, k))
        for kind in kinds
        for k in ks
    ]
    rng = np.random.default_rng(seed)
    for k in random_ks:
        top = top_circuits(model, found, "centred", part, k)
        for draw in range(n_draws):
            for name in ("random", "norm-matched"):
                drawn = {
                    emotion: circuit.random(rng, norms=_norms(found, emotion, name))
                    for emotion, circuit in top.items()
                }
                out.append(Trial(name, part, k, draw, drawn))
    return out


def preset_trials(found: Discovery, n_draws: int = 3, seed: int = 0) -> list[Trial]:
    """The circuits of every preset, and norm-matched random ones for ``centred``."""
    rng = np.random.default_rng(seed)
    out = [
        Trial(preset, "both", max(c.size for c in circuits.values()), 0, circuits)
        for preset, circuits in found.circuits.items()
    ]
    for draw in range(n_draws):
        drawn = {
            emotion: circuit.random(rng, norms=_norms(found, emotion, "norm-matched"))
            for emotion, circuit in found.circuits["centred"].items()
        }
        out.append(Trial("norm-matched", "both", out[0].k, draw, drawn))
    return out


def top_circuits(model: Model, found: Discovery, kind: Kind, part: Part, k: int) -> Circuits:
    """The `k` best neurons, or heads, of all layers by one score."""
    table = found.scores[kind].of(part)
    return {
        emotion: EmotionCircuit.of(
            model, emotion, **{part: top_units(table[row], k)}, method=f"{kind} top {k}"
        )
        for row, emotion in enumerate(EMOTIONS)
    }


def _norms(
    found: Discovery, emotion: str, name: str
) -> Mapping[Part, Float[np.ndarray, "layer unit"]] | None:
    if name != "norm-matched":
        return None
    parts: tuple[Part, Part] = ("neurons", "heads")
    return {part: found.differences.norms(part, emotion) for part in parts}
