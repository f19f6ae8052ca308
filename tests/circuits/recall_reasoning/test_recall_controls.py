"""Which circuit is chosen, and which random sets it is laid beside."""

from math import comb

import numpy as np
import pandas as pd
import pytest
from planted_recall import planted, planted_data

from circuits.recall_reasoning.designs import DESIGNS
from circuits.recall_reasoning.dissociation import judged
from circuits.recall_reasoning.losses import Losses
from circuits.recall_reasoning.scores import AbilityCircuit, controls_of, n_others
from circuits.recall_reasoning.study import chosen_of
from interp.model.components import Component


def circuit_of(*places: tuple[int, int], ability: str = "recall") -> AbilityCircuit:
    components = tuple(Component(layer, "head", unit) for layer, unit in places)
    claim = next(one for one in DESIGNS["A-C"].abilities if one.name == ability)
    return AbilityCircuit(claim, "head", "absolute", components, (1.0,) * len(places))


def controls(circuit: AbilityCircuit, n: int):
    return controls_of(planted(), circuit, n, 0, planted_data().of("selection", "A"))


def test_layers_that_hold_enough_sets_need_no_others():
    found = controls(circuit_of((0, 0), (1, 1)), 30)
    assert {kind: len(sets) for kind, sets in found.items()} == {
        "layer": 30,
        "norm": 16,  # four neighbours by norm in each of two layers
        "anywhere": 30,
    }
    assert {tuple(sorted(c.layer for c in one.components)) for one in found["layer"]} == {(0, 1)}


def test_where_layers_hold_few_sets_all_are_taken_and_others_from_nearby():
    own = circuit_of((0, 0), (0, 1))
    found = controls(own, 40)
    assert len({one.key for one in found["layer"]}) == comb(6, 2) == 15  # all that exist
    assert len({one.key for one in found["near"]}) == 40
    layers = {c.layer for one in found["near"] for c in one.components}
    assert layers == {0, 1}  # layers 0 and 1 hold 14 other heads, 91 pairs, so layer 2 is not asked
    for sets in found.values():
        assert not {c for one in sets for c in one.components} & set(own.components)
        assert {len(one.components) for one in sets} == {2}


def test_nearby_reaches_as_far_as_so_many_sets_need():
    found = controls(circuit_of((0, 0), (0, 1)), 200)
    assert {c.layer for one in found["near"] for c in one.components} == {0, 1, 2}
    assert len({one.key for one in found["near"]}) == 200  # of 231
    whole_layer = circuit_of(*((0, unit) for unit in range(5)))
    assert set(controls(whole_layer, 20)) == {"near", "anywhere"}  # three heads are left in it


def test_sets_of_other_heads_are_counted():
    assert n_others(planted(), circuit_of((0, 0))) == 23
    assert n_others(planted(), circuit_of((0, 0), (2, 1))) == comb(22, 2)


def tried(effects: dict[str, tuple[float, float]]) -> Losses:
    """(own, other) lost by the circuits of recall."""
    own, other = np.array(list(effects.values())).T
    cells = {"A": np.tile(own, (4, 1)), "C": np.tile(other, (4, 1))}
    clusters = {cell: list("wxyz") for cell in cells}
    return Losses(cells, cells, clusters, tuple(effects))


@pytest.mark.parametrize(("n_random", "size"), [(20, 1), (100, 2)])
def test_the_best_on_validation_is_chosen_unless_the_model_holds_too_few_sets(n_random, size):
    small, large = circuit_of((0, 0)), circuit_of((0, 0), (0, 1))
    found = tried({small.name: (0.9, 0.0), large.name: (0.9, 0.2)})
    (chosen,) = chosen_of(planted(), [small, large], found, n_random)
    assert len(chosen.components) == size


def test_moving_the_other_ability_either_way_counts_against_a_circuit():
    raising, sparing = circuit_of((0, 0)), circuit_of((0, 0), (0, 1))
    found = tried({raising.name: (0.9, -0.4), sparing.name: (0.8, 0.1)})
    (chosen,) = chosen_of(planted(), [raising, sparing], found, 100)
    assert chosen is sparing


@pytest.mark.parametrize(
    ("beyond", "specific"),
    [
        ({"layer": True, "anywhere": True}, True),
        ({"layer": True, "near": False, "anywhere": True}, False),
        ({"near": True, "anywhere": True}, True),
        ({"anywhere": True}, False),
        ({"layer": True, "norm": False, "anywhere": True}, True),
    ],
)
def test_a_circuit_must_be_beyond_every_deciding_control(beyond, specific):
    singles = pd.DataFrame([{"circuit": "c", "needed": True, "intact": True}])
    rows = [
        {"circuit": "c", "control": kind, "reading": "effect", "beyond": found}
        for kind, found in beyond.items()
    ]
    rows += [row | {"reading": "accuracy", "beyond": False} for row in rows]
    (row,) = judged(singles, ["c"], pd.DataFrame(rows)).to_dict("records")
    assert (row["specific"], row["holds"]) == (specific, specific)
