"""Arms: what is pushed where, controls that are disjoint and as large, doses that fit."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from circuits.emotion.arms import (
    masked,
    others,
    others_vectors,
    pushing,
    random_circuits,
    scaled_to,
    weighted,
)
from circuits.emotion.circuit import Differences, EmotionCircuit
from circuits.emotion.data import EMOTIONS
from circuits.emotion.doses import (
    CircuitDose,
    Doses,
    SteeringDose,
    modulate,
    modulated_arms,
    prompted_arms,
    steer,
)
from circuits.emotion.modulation import Modulation
from circuits.emotion.tuning import circuit_grid, steering_grid, window
from interp.errors import PlanError

LAYERS, HEADS, D_HEAD, NEURONS = 4, 5, 3, 40


def differences(seed: int = 0) -> Differences:
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(6, LAYERS, HEADS, D_HEAD, generator=draw)
    return Differences(z, torch.randn(6, LAYERS, NEURONS, generator=draw))


def circuits() -> dict[str, EmotionCircuit]:
    """Emotion i has neurons i and i + 10 of layer 1, i of layer 3, and head i mod 5 of layer 2."""
    return {
        emotion: EmotionCircuit(
            emotion, {1: (i, i + 10), 3: (i,)}, {2: (i % HEADS,)}, NEURONS, HEADS, LAYERS, "planted"
        )
        for i, emotion in enumerate(EMOTIONS)
    }


def norms(tables: Any, site: str) -> torch.Tensor:
    return torch.stack([v.square().sum(-1) for v in tables[site].values()]).sum(0).sqrt()


def test_only_the_circuits_units_are_pushed():
    found, tables = differences(), masked(differences(), circuits())
    assert set(tables["mlp_post"]) == {1, 3} and set(tables["z"]) == {2}
    for i in range(6):
        wanted = torch.zeros(NEURONS)
        wanted[[i, i + 10]] = found.mlp_post[i, 1, [i, i + 10]]
        assert torch.equal(tables["mlp_post"][1][i], wanted)
        heads = torch.zeros(HEADS, D_HEAD)
        heads[i % HEADS] = found.z[i, 2, i % HEADS]
        assert torch.equal(tables["z"][2][i], heads.flatten())
    alone = masked(found, {"fear": circuits()["fear"]})
    assert alone["mlp_post"][1][0].abs().sum() == 0 and alone["mlp_post"][1][3].abs().sum() > 0


def test_wrong_circuits_and_wrong_vectors_are_the_next_emotions():
    shifted = others(circuits())
    assert shifted["anger"].neurons == circuits()["sadness"].neurons
    assert shifted["anger"].emotion == "anger" and shifted["disgust"].heads == {2: (0,)}
    moved = others_vectors(differences())
    assert torch.equal(moved.z[0], differences().z[1])
    assert torch.equal(moved.mlp_post[5], differences().mlp_post[0])


def test_random_circuits_are_as_large_disjoint_and_in_the_same_layers():
    drawn, again = (random_circuits(circuits(), differences(), seed=1) for _ in range(2))
    assert drawn == again != random_circuits(circuits(), differences(), seed=2)
    for emotion, circuit in circuits().items():
        assert drawn[emotion].size == circuit.size and drawn[emotion].layers == circuit.layers
        for part in ("neurons", "heads"):
            assert not set(drawn[emotion].units(part)) & set(circuit.units(part))


def test_controls_are_as_large_as_the_circuit():
    own = masked(differences(), circuits())
    drawn = masked(differences(), random_circuits(circuits(), differences(), seed=1))
    scaled = scaled_to(drawn, own)
    for site in ("z", "mlp_post"):
        torch.testing.assert_close(norms(scaled, site), norms(own, site))
        for layer, values in drawn[site].items():
            cosine = torch.cosine_similarity(scaled[site][layer], values, dim=-1)
            assert bool(((cosine > 1 - 1e-5) | (values.abs().sum(-1) == 0)).all())
    with pytest.raises(PlanError, match="nothing at z to scale"):
        scaled_to(masked(Differences(differences().z * 0, differences().mlp_post), circuits()), own)


def test_weights_move_strength_between_layers_and_keep_the_norm():
    own = masked(differences(), circuits())
    weights = {site: torch.ones(6, LAYERS) for site in own}
    weights["mlp_post"][:, 1], weights["mlp_post"][:, 3] = -1.0, 2.0
    found = weighted(own, weights)
    torch.testing.assert_close(norms(found, "mlp_post"), norms(own, "mlp_post"))
    assert found["mlp_post"][1].abs().sum() == 0 and found["mlp_post"][3].abs().sum() > 0
    torch.testing.assert_close(found["z"][2], own["z"][2])


def test_pushes_keep_to_their_layers():
    own = masked(differences(), circuits())
    made = pushing(own, 2.0, layers=range(0, 2))
    assert [(push.site, list(push.values)) for push in made.pushes] == [("mlp_post", [1])]
    assert made.pushes[0].strength == 2.0 and made.at(3.0).pushes[0].strength == 3.0
    assert pushing({"z": {}, "mlp_post": {}}, 1.0) == Modulation()


# --- doses ---------------------------------------------------------------------------------------


def discovery() -> Any:
    """What arms read of a discovery."""
    return SimpleNamespace(
        directions=SimpleNamespace(resid_post=torch.randn(6, LAYERS, 8)),
        differences=differences(),
        circuits={"centred": circuits(), "paper": others(circuits())},
        influence=SimpleNamespace(values=torch.rand(7, 6, 2, LAYERS) + 0.1),
        references={s: dict.fromkeys(range(LAYERS), 2.0) for s in ("z", "mlp_post")},
        low=torch.zeros(6, LAYERS),
        high=torch.ones(6, LAYERS),
        layer=2,
    )


def test_every_arm_is_made_once_and_controls_share_the_dose():
    doses = Doses(
        SteeringDose(0.05, (1, 2)),
        CircuitDose(2.5, size="relative", feedback=True),
        {"circuit_paper": CircuitDose(1.5, "paper")},
    )
    arms = {arm.name: arm for arm in modulated_arms(discovery(), doses)}
    assert set(arms) == {
        "steering",
        "circuit",
        "circuit_paper",
        "neurons",
        "heads",
        "circuit_prompting",
        "wrong_circuit",
        "wrong_vector",
        "random",
    }
    for name in ("circuit", "neurons", "heads", "wrong_circuit", "wrong_vector", "random"):
        modulation = arms[name].modulation
        assert modulation.feedback is not None and modulation.feedback.layer == 2
        assert all(p.strength == 2.5 and p.size == "relative" for p in modulation.pushes)
        assert all(p.reference[0] == 2.0 for p in modulation.pushes)
    assert [p.site for p in arms["heads"].modulation.pushes] == ["z"]
    assert [p.site for p in arms["neurons"].modulation.pushes] == ["mlp_post"]
    assert arms["circuit_prompting"].prompt == "word"
    assert arms["steering"].modulation.feedback is None
    assert list(arms["steering"].modulation.pushes[0].values) == [1, 2]
    assert arms["circuit_paper"].modulation.pushes[0].strength == 1.5
    asked = [arm.name for arm in prompted_arms(chat=True)]
    assert asked == ["unmodulated", "prompting", "demonstrations", "chat"]


def test_doses_that_do_not_fit_are_refused():
    with pytest.raises(PlanError, match="layers 2 to 4 are not of a model with layers 0 to 3"):
        steer(discovery(), SteeringDose(0.1, (2, 4)))
    with pytest.raises(PlanError, match="no circuits 'best'.*centred, paper"):
        modulate(discovery(), CircuitDose(1.0, "best"))


def test_grids_are_of_equal_size_and_fit_the_model():
    for n_layers in (12, 18, 28, 30):
        steering, circuit = steering_grid(n_layers), circuit_grid(n_layers)
        assert len(steering) == len(circuit)
        for dose in steering.values():
            assert 0 <= dose.layers[0] <= dose.layers[1] < n_layers
    assert window(30, (0.45, 0.7)) == (14, 20) and window(18, (0.45, 0.7)) == (8, 12)
    assert len({str(dose) for dose in steering_grid(30).values()}) == 26
    assert len({str(dose) for dose in circuit_grid(30).values()}) == 26


def test_an_emotion_may_have_a_dose_of_its_own():
    found = discovery()
    for common, own, site in (
        (steer(found, SteeringDose(0.1, (1, 2))),
         steer(found, SteeringDose(0.1, (1, 2), own={"fear": 0.25})), "resid_post"),
        (modulate(found, CircuitDose(2.0)),
         modulate(found, CircuitDose(2.0, own={"fear": 5.0})), "mlp_post"),
    ):  # fmt: skip
        before, after = (
            next(push for push in one.pushes if push.site == site) for one in (common, own)
        )
        ratio = after.values[1].norm(dim=-1) / before.values[1].norm(dim=-1)
        expected = [2.5 if emotion == "fear" else 1.0 for emotion in EMOTIONS]
        assert np.allclose(ratio, expected) and after.strength == before.strength
    with pytest.raises(PlanError, match="a dose for 'envy'"):
        modulate(found, CircuitDose(2.0, own={"envy": 1.0}))


def test_influence_reaches_the_dose():
    found = discovery()
    found.influence.values[:, :, 1, 3] = 0.0  # the MLP of layer 3 moves nothing
    made = modulate(found, CircuitDose(1.0, by_influence=True))
    neurons = next(push for push in made.pushes if push.site == "mlp_post")
    assert np.allclose(neurons.values[3].abs().sum(), 0.0)
    assert neurons.values[1].abs().sum() > 0
