"""The budget allocator: the released circuit's counts, bounds, ties and refusals."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.emotion.selection import Budget, allocate, quotas
from interp.errors import PlanError

GOLDEN = Path(__file__).parents[4] / "shared" / "data" / "sev" / "anger_alloc.csv"


def test_the_released_circuit_for_anger_is_reproduced():
    if not GOLDEN.is_file():
        pytest.skip(f"no {GOLDEN}: the released allocation is not here")
    table = pd.read_csv(GOLDEN)
    mlp, attention = (table[table.kind == kind] for kind in ("mlp", "attention"))
    budget = Budget.paper(28)
    assert (budget.neurons, budget.heads) == (392, 168)
    influence = {"neurons": mlp.w.to_numpy(), "heads": attention.w.to_numpy()}
    rng = np.random.default_rng(0)
    scores = {"neurons": rng.normal(size=(28, 8192)), "heads": rng.normal(size=(28, 24))}
    chosen = allocate(influence, scores, budget)
    for part, want in (("neurons", mlp.k_used), ("heads", attention.k_used)):
        got = [sum(at == layer for at, _ in chosen[part]) for layer in range(28)]
        assert got == want.tolist()
    assert sum(map(len, chosen.values())) == 560


def test_quotas_by_hand():
    # 10 - 4 × 1 = 6 to share: 3, 1.8, 1.2, 0 planned; the one left over goes to the .8
    assert quotas(np.array([5.0, 3.0, 2.0, -1.0]), 10, 1, 10).tolist() == [4, 3, 2, 1]


def test_what_a_cap_leaves_over_goes_to_the_next_largest():
    assert quotas(np.array([8.0, 1.0, 1.0]), 10, 0, 4).tolist() == [4, 4, 2]


def test_ties_are_served_from_the_first_layer():
    assert quotas(np.ones(4), 6, 1, 6).tolist() == [2, 2, 1, 1]
    assert quotas(np.zeros(4), 6, 1, 6).tolist() == [2, 2, 1, 1]
    assert quotas(np.full(3, -1.0), 5, 0, 3).tolist() == [2, 2, 1]


def test_the_least_falls_to_one_and_to_none_where_the_budget_is_small():
    assert quotas(np.array([1.0, 0, 0]), 5, 4, 5).tolist() == [3, 1, 1]
    assert quotas(np.array([1.0, 0, 0]), 2, 4, 2).tolist() == [2, 0, 0]


@settings(deadline=None)
@given(
    st.lists(st.floats(-2, 5), min_size=1, max_size=12),
    st.integers(0, 60),
    st.integers(0, 5),
    st.integers(1, 12),
)
def test_quotas_meet_budget_and_bounds(influence: list[float], size: int, least: int, cap: int):
    n = len(influence)
    if cap * n < size:
        with pytest.raises(PlanError, match=f"{n} layers of at most {cap} cannot hold"):
            quotas(np.array(influence), size, least, cap)
        return
    quota = quotas(np.array(influence), size, least, cap)
    assert quota.sum() == size
    assert quota.max() <= cap
    if least <= cap and least * n <= size:
        assert quota.min() >= least
    again = quotas(np.array(influence), size, least, cap)
    assert quota.tolist() == again.tolist()


def test_the_best_of_each_layer_are_chosen_best_first():
    scores = {
        "neurons": np.array([[0.0, 3, 1, 2], [5, 5, 0, 0]]),
        "heads": np.array([[1.0, 2]] * 2),
    }
    influence = {"neurons": np.array([3.0, 1.0]), "heads": np.array([1.0, 1.0])}
    chosen = allocate(influence, scores, Budget(4, 2, 1, 1, cap=1.0))
    # 1 each, then 1.5 and .5 of the other two neurons: the tie of remainders goes to layer 0
    assert chosen == {"neurons": [(0, 1), (0, 3), (0, 2), (1, 0)], "heads": [(0, 1), (1, 1)]}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((3, 4)), "the scores of neurons have 3 layers and the influences 2"),
        (np.array([[np.nan] * 4] * 2), "every score finite"),
        (np.zeros((2, 1)), "2 layers of at most 1 cannot hold 4"),
    ],
)
def test_allocate_refuses_what_does_not_fit(scores: np.ndarray, message: str):
    influence = {"neurons": np.ones(2), "heads": np.ones(2)}
    with pytest.raises(PlanError, match=message):
        allocate(influence, {"neurons": scores, "heads": np.zeros((2, 2))}, Budget(4, 2, cap=1.0))


def test_bad_budgets_and_influences_are_refused():
    with pytest.raises(PlanError, match="cap above 0"):
        Budget(4, 2, cap=0.0)
    with pytest.raises(PlanError, match="at least 0"):
        Budget(-1, 2)
    with pytest.raises(PlanError, match="must all be finite"):
        quotas(np.array([1.0, np.nan]), 2, 0, 2)
