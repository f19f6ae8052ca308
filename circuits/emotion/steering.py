"""The conditions of the comparison, as plans: steering, driven circuits, and their controls.

Every plan acts on the last prompt token and on each new one (``positions="generating"``); its
values have one entry per emotion, of which a row takes its own (``entries`` of `decode`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.components import PARTS
from circuits.emotion.emotion_circuit import Circuits, SiteVectors, random_circuits, shifted
from circuits.emotion.emotion_settings import CircuitDose, Doses, SteeringDose
from circuits.emotion.result import EmotionDiscovery
from circuits.emotion.texts import EMOTIONS
from interp.brief import brief
from interp.data.chat import has_template
from interp.errors import PlanError, did_you_mean, shown
from interp.interventions.plan import Add, Clamp, Plan
from interp.model.model import Model


@brief
@dataclass(frozen=True)
class Condition:
    """One way of evoking an emotion: a kind of prompt, and a plan with values per emotion."""

    name: str
    prompt: str = "neutral"
    plan: Plan = Plan()

    def at(self, strength: float) -> "Condition":
        """The same at another strength; `PlanError` where it has no dose."""
        if not self.strength:
            raise PlanError(f"{self.name} has no dose; leave --strength out.")
        steps = (replace(s, **{_DOSE[type(s)]: strength}) for s in self.plan)
        return replace(self, plan=Plan.of(*steps))

    @property
    def strength(self) -> float:
        """Its dose; 0 without one."""
        return next((getattr(step, _DOSE[type(step)]) for step in self.plan), 0.0)

    @property
    def digest(self) -> str:
        """A hash of all that it does, tensors included."""
        digest = hashlib.sha256(self.prompt.encode())
        for step in self.plan:
            for name, value in step.fields().items():
                held = isinstance(value, torch.Tensor)
                of = (
                    value.detach().cpu().float().numpy().tobytes() if held else repr(value).encode()
                )
                digest.update(f"{type(step).__name__}.{name}".encode() + of)
        return digest.hexdigest()[:12]


def steer(found: EmotionDiscovery, dose: SteeringDose) -> Plan:
    """Add f ||h|| v to the stream after each of several blocks, along the directions v.

    Source: Wang et al. 2025 (arXiv 2510.11328), steering baseline; its 8 rms(h) v is
    f = 8 / sqrt(d_model). With ``arrive``, only what is missing is added until the projection of
    h on v is f ||h||; ``hold`` and ``half_life`` end the dose, as in `interp.SteeringVector.plan`.
    """
    first, last = dose.layers
    if last >= (n := found.directions.resid_post.shape[1]):
        raise PlanError(f"layers {first} to {last} are not of a model with layers 0 to {n - 1}.")
    v = found.directions.resid_post[:, first : last + 1] * _parts(dose)[:, None, None]
    made = Clamp if dose.arrive else Add
    where: dict[str, Any] = {"layers": range(first, last + 1), "relative": "norm"}
    where |= {"positions": "generating", "hold": dose.hold, "half_life": dose.half_life}
    return Plan.of(made("resid_post", _values(v), dose.fraction, **where))


def drive(found: EmotionDiscovery, dose: CircuitDose, vectors: SiteVectors | None = None) -> Plan:
    """Add λΔμ at a discovery's circuits, or other vectors at the same dose.

    Source: Wang et al. 2025 (arXiv 2510.11328), circuit modulation; heads and neurons alike act on
    the newest token alone (the released code drives heads at every prompt token, too).
    """
    own = vectors or masked(found.differences, circuits_of(found, dose.preset))
    steps: list[Add] = []
    for site, x in (("z", own.z.flatten(-2)), ("mlp_post", own.mlp_post)):
        layers = [at for at in range(x.shape[1]) if bool(x[:, at].any())]
        if layers:
            driven = x[:, layers] * _parts(dose)[:, None, None]
            where: dict[str, Any] = {"layers": layers, "positions": "generating"}
            steps.append(Add(site, _values(driven), dose.strength, **where))
    return Plan.of(*steps)


_DOSE: dict[type, str] = {Add: "scale", Clamp: "low"}
"""The field of a step that is its dose."""


def _values(x: Float[Tensor, "emotion layer width"]) -> Float[Tensor, "layer emotion 1 width"]:
    """Vectors as plans hold them."""
    return x.transpose(0, 1)[:, :, None].contiguous()


def _parts(dose: SteeringDose | CircuitDose) -> Float[Tensor, " emotion"]:
    """Each emotion's dose as a part of the common one."""
    common = dose.fraction if isinstance(dose, SteeringDose) else dose.strength
    own: dict[Any, float] = {**dose.own}
    return torch.tensor([own.get(emotion, common) / common for emotion in EMOTIONS])


def circuits_of(found: EmotionDiscovery, preset: str) -> Circuits:
    """The circuits of one preset; `PlanError` where there is none."""
    if preset not in found.circuits:
        raise PlanError(
            f"no circuits {preset!r} in this discovery; it has {', '.join(found.circuits)}."
        )
    return found.circuits[preset]


def masked(vectors: SiteVectors, circuits: Circuits) -> SiteVectors:
    """The vectors of each emotion with all components outside its circuit at zero."""
    z, mlp_post = torch.zeros_like(vectors.z), torch.zeros_like(vectors.mlp_post)
    for row, emotion in enumerate(EMOTIONS):
        if emotion in circuits:
            for layer, heads in circuits[emotion].heads.items():
                z[row, layer, list(heads)] = vectors.z[row, layer, list(heads)]
            for layer, units in circuits[emotion].neurons.items():
                mlp_post[row, layer, list(units)] = vectors.mlp_post[row, layer, list(units)]
    return SiteVectors(z, mlp_post)


def scaled_to(vectors: SiteVectors, wanted: SiteVectors) -> SiteVectors:
    """Vectors with their own directions and the size of others.

    Each emotion's are scaled at each site, by one factor for all layers, so that their norm over
    all layers is that of `wanted`. So a control is not weaker for its units being smaller.
    """

    def scaled(site: str) -> Tensor:
        x = getattr(vectors, site)
        here, there = (getattr(v, site).flatten(1).norm(dim=1) for v in (vectors, wanted))
        if bool(((here == 0) & (there > 0)).any()):
            raise PlanError(f"the control has nothing at {site} to scale; draw another.")
        scale = torch.where(here > 0, there / here.clamp(min=1e-12), 0.0)
        return x * scale.view(-1, *[1] * (x.ndim - 1))

    return SiteVectors(scaled("z"), scaled("mlp_post"))


def prompted_conditions(chat: bool) -> list[Condition]:
    """Conditions that only ask: nothing, the emotion's word, demonstrations, a system turn."""
    asked = {"unmodulated": "neutral", "prompting": "word", "demonstrations": "demonstrations"}
    asked |= {"chat": "chat"} if chat else {}
    return [Condition(name, prompt) for name, prompt in asked.items()]


def driven_conditions(found: EmotionDiscovery, doses: Doses, seed: int = 0) -> list[Condition]:
    """Steering, the circuit, its parts, and its controls, each at its dose.

    The controls have the circuit's norm: another emotion's circuit with the right vectors, the
    right circuit with another emotion's vectors, and a random circuit (`random_circuits`). A dose
    that does not fit the discovery is a `PlanError`.
    """
    dose, differences = doses.circuit, found.differences
    circuits = circuits_of(found, dose.preset)
    own, circuit = masked(differences, circuits), drive(found, dose)
    parts = {
        part: masked(differences, {e: circuits[e].only(part) for e in EMOTIONS}) for part in PARTS
    }
    drawn = random_circuits(circuits, np.random.default_rng(seed), differences)
    controls = {
        "wrong_circuit": masked(differences, shifted(circuits)),
        "wrong_vector": masked(differences.rolled(), circuits),
        "random": masked(differences, drawn),
    }
    plans = {"steering": steer(found, doses.steering), "circuit": circuit}
    plans |= {name: drive(found, one) for name, one in doses.others.items()}
    plans |= {part: drive(found, dose, vectors) for part, vectors in parts.items()}
    controlled = {
        name: drive(found, dose, scaled_to(vectors, own)) for name, vectors in controls.items()
    }
    return [
        *(Condition(name, plan=plan) for name, plan in plans.items()),
        Condition("circuit_prompting", "word", circuit),
        *(Condition(name, plan=plan) for name, plan in controlled.items()),
    ]


def conditions_of(
    model: Model, found: EmotionDiscovery | None, doses: Doses, names: Sequence[str] | None = None
) -> list[Condition]:
    """The conditions of a comparison; without a discovery those that only ask.

    With `names`, some of them, and the unmodulated one, against which all are measured.
    """
    every = prompted_conditions(has_template(model)) + (
        driven_conditions(found, doses) if found else []
    )
    known = [condition.name for condition in every]
    for name in names or ():
        if name not in known:
            raise PlanError(f"no condition {shown(name)}. {did_you_mean(name, known)}")
    wanted = known if names is None else ("unmodulated", *names)
    return [condition for condition in every if condition.name in wanted]
