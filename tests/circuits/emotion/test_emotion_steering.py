"""Conditions: what is added where, controls that are disjoint and as large, doses that fit."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny

from circuits.emotion.emotion_circuit import EmotionCircuit, SiteVectors, random_circuits, shifted
from circuits.emotion.emotion_settings import BUILT_IN, CircuitDose, Doses, SteeringDose
from circuits.emotion.steering import (
    Condition,
    conditions_of,
    drive,
    driven_conditions,
    masked,
    prompted_conditions,
    scaled_to,
    steer,
)
from circuits.emotion.texts import EMOTIONS
from interp.data.records import checked
from interp.errors import DataError, PlanError
from interp.interventions.plan import Add, Clamp, Plan

ONE = CircuitDose(strength=1.0)
LAYERS, HEADS, D_HEAD, NEURONS = 4, 5, 3, 40


def differences(seed: int = 0) -> SiteVectors:
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(6, LAYERS, HEADS, D_HEAD, generator=draw)
    return SiteVectors(z, torch.randn(6, LAYERS, NEURONS, generator=draw))


def circuits() -> dict[str, EmotionCircuit]:
    """Emotion i has neurons i and i + 10 of layer 1, i of layer 3, and head i mod 5 of layer 2."""
    return {
        emotion: EmotionCircuit(
            emotion,
            {1: (i, i + 10), 3: (i,)},
            {2: (i % HEADS,)},
            (LAYERS, NEURONS, HEADS),
            "planted",
        )
        for i, emotion in enumerate(EMOTIONS)
    }


def norms(vectors: SiteVectors, site: str) -> torch.Tensor:
    return getattr(vectors, site).flatten(1).norm(dim=1)


def drawn(seed: int) -> dict[str, EmotionCircuit]:
    return random_circuits(circuits(), np.random.default_rng(seed), differences())


def test_only_the_circuits_units_are_driven():
    found, own = differences(), masked(differences(), circuits())
    assert own.mlp_post.flatten(2).any(-1).any(0).nonzero().flatten().tolist() == [1, 3]
    assert own.z.flatten(2).any(-1).any(0).nonzero().flatten().tolist() == [2]
    for i in range(6):
        wanted = torch.zeros(NEURONS)
        wanted[[i, i + 10]] = found.mlp_post[i, 1, [i, i + 10]]
        assert torch.equal(own.mlp_post[i, 1], wanted)
        heads = torch.zeros(HEADS, D_HEAD)
        heads[i % HEADS] = found.z[i, 2, i % HEADS]
        assert torch.equal(own.z[i, 2], heads)
    alone = masked(found, {"fear": circuits()["fear"]})
    assert alone.mlp_post[0].abs().sum() == 0 and alone.mlp_post[3].abs().sum() > 0


def test_wrong_circuits_and_wrong_vectors_are_the_next_emotions():
    others = shifted(circuits())
    assert others["anger"].neurons == circuits()["sadness"].neurons
    assert others["anger"].emotion == "anger" and others["disgust"].heads == {2: (0,)}
    moved = differences().rolled()
    assert torch.equal(moved.z[0], differences().z[1])
    assert torch.equal(moved.mlp_post[5], differences().mlp_post[0])


def test_random_circuits_are_as_large_disjoint_and_in_the_same_layers():
    assert drawn(1) == drawn(1) != drawn(2)
    for emotion, circuit in circuits().items():
        other = drawn(1)[emotion]
        assert other.size == circuit.size
        for part in ("neurons", "heads"):
            layers = [[layer for layer, _ in one.units(part)] for one in (other, circuit)]
            assert layers[0] == layers[1]
            assert not set(other.units(part)) & set(circuit.units(part))


def test_controls_are_as_large_as_the_circuit():
    own = masked(differences(), circuits())
    other = masked(differences(), drawn(1))
    scaled = scaled_to(other, own)
    for site in ("z", "mlp_post"):
        torch.testing.assert_close(norms(scaled, site), norms(own, site))
        one, two = (getattr(v, site).flatten(1) for v in (scaled, other))
        torch.testing.assert_close(torch.cosine_similarity(one, two, dim=-1), torch.ones(6))
    with pytest.raises(PlanError, match="nothing at z to scale"):
        none = SiteVectors(differences().z * 0, differences().mlp_post)
        scaled_to(masked(none, circuits()), own)


def test_plans_keep_to_their_layers_and_hold_a_vector_per_emotion():
    found = discovery()
    heads, step = drive(found, CircuitDose(strength=2.0))
    assert isinstance(step, Add) and step.site == "mlp_post" and step.layers == (1, 3)
    assert step.scale == 2.0 and step.positions == "generating"
    assert isinstance(heads, Add) and heads.site == "z" and heads.layers == (2,)
    own = masked(differences(), circuits())
    assert torch.equal(step.vector[0, :, 0], own.mlp_post[:, 1])
    assert drive(found, CircuitDose(strength=1.0), masked(differences(), {})) == Plan()
    condition = Condition("circuit", plan=Plan.of(step)).at(3.0)
    assert condition.strength == 3.0
    with pytest.raises(PlanError, match="unmodulated has no dose"):
        Condition("unmodulated").at(3.0)


# --- doses ---------------------------------------------------------------------------------------


def discovery() -> Any:
    """What conditions read of a discovery."""
    return SimpleNamespace(
        directions=SimpleNamespace(resid_post=torch.randn(6, LAYERS, 8)),
        differences=differences(),
        circuits={"centred": circuits(), "paper": shifted(circuits())},
    )


def test_every_condition_is_made_once_and_controls_share_the_dose():
    doses = Doses(
        steering=SteeringDose(fraction=0.05, layers=(1, 2)),
        circuit=CircuitDose(strength=2.5),
        others={"circuit_paper": CircuitDose(strength=1.5, preset="paper")},
    )
    plans = {one.name: one.plan for one in driven_conditions(discovery(), doses)}
    controls = ("wrong_circuit", "wrong_vector", "random")
    names = ["steering", "circuit", "circuit_paper", "neurons", "heads", "circuit_prompting"]
    assert list(plans) == [*names, *controls]
    for name in ("circuit", "neurons", "heads", *controls):
        assert all(step.scale == 2.5 and step.relative is None for step in plans[name])
    assert [step.site for step in plans["heads"]] == ["z"]
    assert [step.site for step in plans["neurons"]] == ["mlp_post"]
    assert plans["circuit_prompting"] == plans["circuit"]
    (step,) = plans["steering"]
    assert step.site == "resid_post" and step.layers == (1, 2) and step.relative == "norm"
    assert plans["circuit_paper"][0].scale == 1.5
    assert [one.name for one in prompted_conditions(chat=True)] == [
        "unmodulated",
        "prompting",
        "demonstrations",
        "chat",
    ]
    chosen = conditions_of(tiny("llama"), discovery(), doses, ["steering"])
    assert [one.name for one in chosen] == ["unmodulated", "steering"]
    with pytest.raises(PlanError, match="no condition 'singing'"):
        conditions_of(tiny("llama"), None, doses, ["singing"])


def test_doses_that_do_not_fit_are_refused():
    with pytest.raises(PlanError, match="layers 2 to 4 are not of a model with layers 0 to 3"):
        steer(discovery(), SteeringDose(fraction=0.1, layers=(2, 4)))
    with pytest.raises(PlanError, match="no circuits 'best'.*centred, paper"):
        drive(discovery(), CircuitDose(strength=1.0, preset="best"))


def test_further_circuits_have_names_of_their_own():
    doses = Doses(steering=SteeringDose(fraction=0.05, layers=(1, 2)), circuit=ONE)
    every = [*prompted_conditions(chat=True), *driven_conditions(discovery(), doses)]
    assert {one.name for one in every} == {*BUILT_IN}
    given = doses.model_dump(mode="json")
    for name in BUILT_IN:
        given["others"] = {name: ONE.model_dump()}
        with pytest.raises(DataError, match=f"others.{name}.*the name of a built-in condition"):
            checked(Doses, given, "recipe.json")


def test_steering_may_stop_on_arrival_and_end_with_the_sentence():
    found = discovery()
    more = {"arrive": True, "hold": "sentence", "half_life": 4.0}
    dose = SteeringDose(fraction=0.1, layers=(1, 2), own={"fear": 0.2}, **more)
    (step,) = steer(found, dose)
    assert isinstance(step, Clamp) and (step.low, step.high, step.relative) == (0.1, None, "norm")
    assert (step.hold, step.half_life, step.layers) == ("sentence", 4.0, (1, 2))
    parts = torch.tensor([2.0 if emotion == "fear" else 1.0 for emotion in EMOTIONS])
    wanted = found.directions.resid_post[:, 1] * parts[:, None]
    torch.testing.assert_close(step.vector[0, :, 0], wanted)
    condition = Condition("steering", plan=Plan.of(step))
    assert condition.strength == 0.1 and condition.at(0.4).strength == 0.4
    assert condition.digest != condition.at(0.4).digest


def test_an_emotion_may_have_a_dose_of_its_own():
    found = discovery()
    steering = {"fraction": 0.1, "layers": (1, 2)}
    pairs = (
        (SteeringDose(**steering), SteeringDose(**steering, own={"fear": 0.25}), steer),
        (CircuitDose(strength=2.0), CircuitDose(strength=2.0, own={"fear": 5.0}), drive),
    )
    for common, own, make in pairs:
        before, after = (make(found, dose)[0] for dose in (common, own))
        ratio = after.vector[0, :, 0].norm(dim=-1) / before.vector[0, :, 0].norm(dim=-1)
        expected = [2.5 if emotion == "fear" else 1.0 for emotion in EMOTIONS]
        assert np.allclose(ratio, expected) and after.scale == before.scale
    with pytest.raises(ValueError, match="envy"):
        CircuitDose(strength=2.0, own={"envy": 1.0})
