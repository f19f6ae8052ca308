"""Random component sets: what they match, how many there are, and that each is as likely."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import StatisticsError
from interp.model.components import Component
from interp.statistics.random_sets import random_set, random_sets

HEADS = {"head": (6, 9), "neuron": (6, 60), "mlp": (6, 1)}


def heads(*places: tuple[int, int]) -> list[Component]:
    return [Component(layer, "head", unit) for layer, unit in places]


def sets_of(places, n_units: int, n: int, seed: int = 0, norms=None, match="layer"):
    """Drawn places of heads in a model of 21 layers."""
    sizes = None if norms is None else {"head": norms}
    layers = 21 if norms is None else len(norms)
    drawn = random_sets(heads(*places), {"head": (layers, n_units)}, n, seed, match, sizes)
    return [[(one.layer, one.unit) for one in some] for some in drawn]


@st.composite
def circuits(draw) -> tuple[list[tuple[int, int]], int]:
    n_units = draw(st.integers(2, 9))
    units = st.sets(st.integers(0, n_units - 1), min_size=1, max_size=n_units // 2)
    layers = draw(st.dictionaries(st.integers(0, 20), units, min_size=1, max_size=4))
    return [(layer, unit) for layer, chosen in layers.items() for unit in chosen], n_units


@settings(deadline=None, max_examples=60)
@given(circuit=circuits(), seed=st.integers(0, 9), normed=st.booleans())
def test_random_sets_match_layers_and_share_nothing(circuit, seed, normed):
    chosen, n_units = circuit
    needed = Counter(layer for layer, _ in chosen)
    possible = math.prod(math.comb(n_units - k, k) for k in needed.values())
    norms = np.random.default_rng(seed).exponential(size=(21, n_units)) if normed else None
    n_sets = 1 if normed else min(5, possible)
    sets = sets_of(chosen, n_units, n_sets, seed, norms)
    assert sets == sets_of(chosen, n_units, n_sets, seed, norms)
    assert len({frozenset(drawn) for drawn in sets}) == n_sets
    for drawn in sets:
        assert [layer for layer, _ in drawn] == [layer for layer, _ in chosen]
        assert len(set(drawn)) == len(chosen)
        assert not set(drawn) & set(chosen)
        assert all(0 <= unit < n_units for _, unit in drawn)


def test_random_sets_draw_each_free_unit_alike():
    sets = sets_of([(0, 0), (0, 1), (3, 2)], 12, 400)
    counts = Counter(component for drawn in sets for component in drawn)
    assert {unit for layer, unit in counts if layer == 0} == set(range(2, 12))
    assert {unit for layer, unit in counts if layer == 3} == set(range(12)) - {2}
    for (layer, _), n in counts.items():
        assert n == pytest.approx(400 * 2 / 10 if layer == 0 else 400 / 11, abs=25)


def test_random_sets_can_match_norms():
    norms = np.arange(200.0).reshape(1, 200) ** 2
    chosen = [(0, 10), (0, 50), (0, 190)]

    def distance(sets) -> float:
        return float(
            np.mean([[abs(d[1] - c[1]) for d, c in zip(s, chosen, strict=True)] for s in sets])
        )

    matched = sets_of(chosen, 200, 50, norms=norms)
    # a tenth of the 197 free units: the 19 nearest in rank
    assert max(abs(d[1] - c[1]) for s in matched for d, c in zip(s, chosen, strict=True)) == 10
    assert distance(matched) < distance(sets_of(chosen, 200, 50)) / 5


def test_there_are_no_more_random_sets_than_exist():
    assert len(sets_of([(0, 1), (2, 0)], 4, 9)) == len(sets_of([(0, 1), (2, 0)], 4, 10)) == 9
    assert len(sets_of([(0, 1)], 4, 100, match="anywhere")) == 21 * 4 - 1
    assert sets_of([(0, 1)], 4, 0) == []


def test_random_sets_say_what_is_missing():
    with pytest.raises(
        StatisticsError, match="layer 2 has 4 units and 3 are chosen, which leaves 1"
    ):
        sets_of([(0, 1), (2, 0), (2, 1), (2, 3)], 4, 1)
    for unit in (4, -1):
        with pytest.raises(StatisticsError, match=f"component a0.h{unit} in 21 layers of 4 heads"):
            sets_of([(0, unit)], 4, 1)
    with pytest.raises(StatisticsError, match="chosen twice"):
        sets_of([(0, 1), (0, 1)], 4, 1)
    with pytest.raises(StatisticsError, match=r"sizes of heads are \[2, 3\], not \[2, 4\]"):
        sets_of([(0, 1)], 4, 1, norms=np.ones((2, 3)))


@pytest.mark.parametrize("match", ["layer", "near", "anywhere"])
def test_each_kind_is_replaced_by_its_own(match):
    chosen = [Component.parse(name) for name in ("a0.h1", "m2", "m3.n7", "m3.n8", "a5.h0")]
    drawn = random_sets(chosen, HEADS, 20, 3, match)
    assert len({frozenset(one) for one in drawn}) == 20
    for one in drawn:
        assert Counter(c.kind for c in one) == Counter(c.kind for c in chosen)
        assert not set(one) & set(chosen)


def test_near_is_as_near_as_so_many_sets_need():
    chosen = [(3, 0), (3, 1)]
    for n, layers in ((40, {2, 3, 4}), (400, {1, 2, 3, 4, 5})):  # 19 choose 2 are 171
        drawn = random_sets(heads(*chosen), {"head": (21, 7)}, n, match="near")
        assert len(drawn) == n
        assert {c.layer for one in drawn for c in one} == layers


def test_one_set_of_a_full_layer_takes_the_nearest_layers():
    chosen = heads((1, 0), (1, 1), (1, 2))
    rng = np.random.default_rng(1)
    for _ in range(10):
        drawn = random_set(chosen, {"head": (3, 4)}, rng)
        assert len(set(drawn)) == 3 and Component(1, "head", 3) in drawn
        assert not set(drawn) & set(chosen)
    full = heads(*((layer, unit) for layer in range(3) for unit in range(3)))
    with pytest.raises(StatisticsError, match="3 heads are left for a random set of 9"):
        random_set(full, {"head": (3, 4)}, rng)


def test_one_set_is_near_in_size():
    sizes = {"neuron": np.tile(np.arange(60.0), (6, 1))}
    drawn = random_set([Component(2, "neuron", 30)], HEADS, np.random.default_rng(0), sizes)
    assert drawn[0].layer == 2 and 0 < abs(drawn[0].unit - 30) <= 3
