"""Doses as data, and the arms of the comparison that a discovery and a pair of doses make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import AfterValidator, ConfigDict

from circuits.emotion.arms import (
    Circuits,
    Tables,
    masked,
    others,
    others_vectors,
    pushing,
    random_circuits,
    scaled_to,
    steering,
    weighted,
)
from circuits.emotion.data import EMOTIONS, Emotion
from circuits.emotion.modulation import Feedback, Modulation
from circuits.emotion.replying import Arm
from interp.brief import brief
from interp.data.records import NO_OTHERS, Amount, Dose, Index
from interp.errors import PlanError

if TYPE_CHECKING:
    from circuits.emotion.discovery import Discovery


def _in_order(layers: tuple[int, int]) -> tuple[int, int]:
    if layers[0] > layers[1]:
        raise ValueError("the first layer must not lie behind the last")
    return layers


Layers = Annotated[tuple[Index, Index], AfterValidator(_in_order)]
"""First and last layer, both included."""


@brief
@dataclass(frozen=True)
class SteeringDose:
    """How strongly, and where, directions are added.

    Attributes:
        fraction: of the norm of the state, in each layer.
        layers: first and last.
        feedback: whether the dose follows how far the state already shows the emotion.
        own: emotion -> fraction of its own in place of `fraction`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NO_OTHERS

    fraction: Dose
    layers: Layers
    feedback: bool = False
    own: Mapping[Emotion, Amount] = field(default_factory=dict)


@brief
@dataclass(frozen=True)
class CircuitDose:
    """Which circuit is pushed, and how strongly.

    Attributes:
        strength: lambda.
        preset: of the circuits of a discovery.
        size: ``absolute``, or ``relative`` to the root mean square of the activation.
        layers: first and last; all by default.
        by_influence: each layer's strength follows the influence of its sublayers.
        feedback: whether the dose follows how far the state already shows the emotion.
        own: emotion -> lambda of its own in place of `strength`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NO_OTHERS

    strength: Dose
    preset: str = "centred"
    size: Literal["absolute", "relative"] = "absolute"
    layers: Layers | None = None
    by_influence: bool = False
    feedback: bool = False
    own: Mapping[Emotion, Amount] = field(default_factory=dict)


@brief
@dataclass(frozen=True)
class Doses:
    """The doses of a model's arms, chosen on the tuning file.

    Attributes:
        steering: of the baseline.
        circuit: of the circuit and of all its controls.
        others: name -> dose of further circuit arms, such as other presets.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NO_OTHERS

    steering: SteeringDose
    circuit: CircuitDose
    others: Mapping[str, CircuitDose] = field(default_factory=dict)


def steer(found: "Discovery", dose: SteeringDose) -> Modulation:
    """Steering along a discovery's directions.

    Raises:
        PlanError: the model does not have these layers, or a dose is of no known emotion.
    """
    directions = found.directions.resid_post * _parts(dose.own, dose.fraction)[:, None, None]
    made = steering(directions, _layers(found, dose.layers), dose.fraction)
    return replace(made, feedback=_feedback(found) if dose.feedback else None)


def modulate(found: "Discovery", dose: CircuitDose, tables: Tables | None = None) -> Modulation:
    """Modulation of a discovery's circuit, or of other tables at the same dose.

    Raises:
        PlanError: there is no such preset, the model does not have these layers, or a dose is of
            no known emotion.
    """
    tables = circuit_tables(found, dose.preset) if tables is None else tables
    if dose.by_influence:
        tables = weighted(tables, influence_by_site(found))
    parts = _parts(dose.own, dose.strength)[:, None]
    made = pushing(
        {site: {at: parts * v for at, v in table.items()} for site, table in tables.items()},
        dose.strength,
        size=dose.size,
        references=found.references,
        layers=None if dose.layers is None else _layers(found, dose.layers),
    )
    return replace(made, feedback=_feedback(found) if dose.feedback else None)


def _parts(own: Mapping[Any, float], common: float) -> Float[torch.Tensor, " emotion"]:
    """Each emotion's dose as a part of the common one."""
    unknown = sorted(set(own) - set(EMOTIONS))
    if unknown:
        raise PlanError(f"a dose for {unknown[0]!r}, which is none of {', '.join(EMOTIONS)}.")
    return torch.tensor([own.get(emotion, common) / common for emotion in EMOTIONS])


def circuit_tables(found: "Discovery", preset: str) -> Tables:
    """Differences of the circuits of one preset.

    Raises:
        PlanError: there is no such preset.
    """
    return masked(found.differences, _circuits(found, preset))


def _circuits(found: "Discovery", preset: str) -> Circuits:
    if preset not in found.circuits:
        raise PlanError(
            f"no circuits {preset!r} in this discovery; it has {', '.join(found.circuits)}."
        )
    return found.circuits[preset]


def influence_by_site(found: "Discovery") -> dict[str, torch.Tensor]:
    """Site -> mean influence of each emotion and layer."""
    attention, mlp = found.influence.values.float().mean(0).unbind(1)
    return {"z": attention, "mlp_post": mlp}


def _layers(found: "Discovery", layers: Layers) -> Sequence[int]:
    n = found.directions.resid_post.shape[1]
    first, last = layers
    if not 0 <= first <= last < n:
        raise PlanError(f"layers {first} to {last} are not of a model with layers 0 to {n - 1}.")
    return range(first, last + 1)


def _feedback(found: "Discovery") -> Feedback:
    at = found.layer
    return Feedback(at, found.directions.resid_post[:, at], found.low[:, at], found.high[:, at])


# --- the comparison ------------------------------------------------------------------------------


def prompted_arms(chat: bool) -> list[Arm]:
    """Arms that only ask: nothing, the emotion's word, a system turn, demonstrations."""
    arms = [
        Arm("unmodulated"),
        Arm("prompting", "word"),
        Arm("demonstrations", "demonstrations"),
    ]
    return arms + ([Arm("chat", "chat")] if chat else [])


def modulated_arms(found: "Discovery", doses: Doses, seed: int = 0) -> list[Arm]:
    """Steering, the circuit, its parts, and its controls, each at the tuned dose.

    The controls have the circuit's norm: another emotion's circuit with the right vectors, the
    right circuit with another emotion's vectors, and a random circuit of the same layers.

    Args:
        found: directions, circuits and differences.
        doses: from the tuning file.
        seed: of the random circuit.

    Raises:
        PlanError: a dose does not fit the discovery.
    """
    dose, differences = doses.circuit, found.differences
    circuits = _circuits(found, dose.preset)
    own = masked(differences, circuits)
    drawn = random_circuits(circuits, differences, seed)
    controls = {
        "wrong_circuit": masked(differences, others(circuits)),
        "wrong_vector": masked(others_vectors(differences), circuits),
        "random": masked(differences, drawn),
    }
    parts = {
        part: masked(differences, {e: circuits[e].only(part) for e in EMOTIONS})
        for part in ("neurons", "heads")
    }
    circuit = modulate(found, dose)
    return [
        Arm("steering", modulation=steer(found, doses.steering)),
        Arm("circuit", modulation=circuit),
        *(Arm(name, modulation=modulate(found, one)) for name, one in doses.others.items()),
        *(Arm(part, modulation=modulate(found, dose, table)) for part, table in parts.items()),
        Arm("circuit_prompting", "word", circuit),
        *(
            Arm(name, modulation=modulate(found, dose, scaled_to(table, own)))
            for name, table in controls.items()
        ),
    ]
