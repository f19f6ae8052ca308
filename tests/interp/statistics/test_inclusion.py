"""Inclusion, mean ranks and agreement of samples, against loops and by hand."""

import importlib
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from interp.errors import StatisticsError
from interp.statistics import (
    expected_jaccard,
    inclusion,
    jaccard,
    mean_ranks,
    random_samples,
    resample_weights,
    sample_agreement,
)
from interp.statistics.inclusion import top_members

SCORES = arrays(float, st.tuples(st.integers(2, 5), st.integers(3, 8)), elements=st.integers(-3, 3))


def tops(scores: np.ndarray, weights: np.ndarray, n: int, absolute: bool) -> list[set[int]]:
    """The top sets, one sample at a time, by a stable sort."""
    sums = [sum(w * row for w, row in zip(sample, scores, strict=True)) for sample in weights]
    sizes = [np.abs(one) if absolute else one for one in sums]
    return [set(np.argsort(-one, kind="stable")[:n].tolist()) for one in sizes]


def test_inclusion_by_hand():
    # two prompts: (2, 0) and (1, 1) make the first component the largest, (0, 2) the second
    scores = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    every = np.array([[2, 0], [1, 1], [1, 1], [0, 2]], dtype=float)
    assert inclusion(scores, every, 1).tolist() == [0.75, 0.25, 0]
    # of the equal second and third of (1, 1) the second, and the third of (2, 0) and (0, 2)
    assert inclusion(scores, every, 2).tolist() == [0.75, 0.75, 0.5]
    assert mean_ranks(scores, every).tolist() == [1.5, 2.0, 2.5]
    # by sign a large negative sum is last
    assert inclusion(-scores, every, 1, absolute=False).tolist() == [0.25, 0.75, 0]


@given(scores=SCORES, n=st.integers(1, 3), absolute=st.booleans(), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_inclusion_is_that_of_a_loop_and_adds_up_to_n(scores, n, absolute, seed):
    weights = resample_weights(len(scores), seed, 7)
    found = inclusion(scores, weights, n, absolute)
    sets = tops(scores, weights, n, absolute)
    expected = [np.mean([c in one for one in sets]) for c in range(scores.shape[1])]
    assert found == pytest.approx(np.array(expected))
    assert found.sum() == pytest.approx(n)
    assert inclusion(4 * scores, weights, n, absolute) == pytest.approx(found)


@given(scores=SCORES)
@settings(max_examples=40, deadline=None)
def test_mean_rank_is_inclusion_over_all_sizes(scores):
    weights, of = resample_weights(len(scores), 1, 6), scores.shape[1]
    total = sum(inclusion(scores, weights, n) for n in range(1, of + 1))
    assert of + 1 - mean_ranks(scores, weights) == pytest.approx(total)


def test_chunks_of_samples_change_nothing(monkeypatch: pytest.MonkeyPatch):
    scores = np.random.default_rng(0).normal(size=(9, 30)).astype(np.float32)
    weights = resample_weights(9, 0, 40)
    whole = inclusion(scores, weights, 5), mean_ranks(scores, weights)
    module = importlib.import_module("interp.statistics.inclusion")  # a function has its name, too
    monkeypatch.setattr(module, "AT_ONCE", 70)
    assert np.array_equal(inclusion(scores, weights, 5), whole[0])
    assert np.array_equal(mean_ranks(scores, weights), whole[1])


def test_inclusion_tends_to_its_exact_value():
    """All 4^4 resamples of four prompts, beside drawn ones."""
    scores = np.random.default_rng(3).normal(size=(4, 6))
    every = np.array([np.bincount(draw, minlength=4) for draw in product(range(4), repeat=4)])
    exact = inclusion(scores, every.astype(float), 2)
    drawn = inclusion(scores, resample_weights(4, 0, 20_000), 2)
    assert drawn == pytest.approx(exact, abs=0.015)


@given(sizes=arrays(float, (3, 7), elements=st.integers(0, 3)), n=st.integers(1, 7))
def test_top_members_are_those_of_a_stable_sort(sizes, n):
    for row, found in zip(sizes, top_members(sizes, n), strict=True):
        first = np.argsort(-row, kind="stable")[:n]
        assert set(np.flatnonzero(found)) == set(first)


def test_samples_are_disjoint_and_of_one_size():
    first, second = random_samples(7, 3, 50, seed=1)
    assert first.shape == (50, 7)
    assert (first.sum(1) == 3).all() and (second.sum(1) == 3).all()
    assert (first * second == 0).all()
    assert len({tuple(row) for row in first}) > 20  # of 35
    with pytest.raises(StatisticsError, match="two samples of 4 do not fit into 7"):
        random_samples(7, 4, 1)


@pytest.mark.parametrize("absolute", [True, False])
def test_agreement_is_that_of_loops(absolute: bool):
    scores = np.random.default_rng(5).normal(size=(8, 12))
    first, second = random_samples(8, 4, 6)
    overlaps, correlations = sample_agreement(scores, first, second, 4, absolute)
    sets = (tops(scores, first, 4, absolute), tops(scores, second, 4, absolute))
    assert overlaps == pytest.approx(np.array(list(map(jaccard, *sets))))
    for a, b, found in zip(first, second, correlations, strict=True):
        assert found == pytest.approx(stats.spearmanr(a @ scores, b @ scores).statistic)


@pytest.mark.parametrize(("n", "of"), [(1, 4), (2, 5), (3, 4), (4, 4)])
def test_chance_agreement_is_the_mean_over_all_sets(n: int, of: int):
    sets = list(combinations(range(of), n))
    every = [jaccard(a, b) for a in sets for b in sets]
    assert expected_jaccard(n, of) == pytest.approx(np.mean(every))


def test_noise_agrees_as_by_chance():
    scores = np.random.default_rng(8).normal(size=(20, 400))
    overlaps, correlations = sample_agreement(scores, *random_samples(20, 10, 300), 40)
    # the two halves of one draw of scores add up to the same total, so few draws of them are free
    many = np.random.default_rng(9).normal(size=(2000, 400)).astype(np.float32)
    free = sample_agreement(many, *random_samples(2000, 10, 300), 40)
    assert free[0].mean() == pytest.approx(expected_jaccard(40, 400), abs=0.004)
    assert free[1].mean() == pytest.approx(0, abs=0.01)
    assert abs(overlaps.mean() - expected_jaccard(40, 400)) < 0.02


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(StatisticsError, match="the top 4 of 3 components"):
        inclusion(np.ones((2, 3)), np.ones((1, 2)), 4)
    with pytest.raises(StatisticsError, match="1 scores missing"):
        inclusion(np.array([[1.0, np.nan]]), np.ones((1, 1)), 1)
    with pytest.raises(StatisticsError, match=r"weights \[1, 3\] of 2 prompts"):
        inclusion(np.ones((2, 3)), np.ones((1, 3)), 1)
    with pytest.raises(StatisticsError, match="random sets of 5 of 4"):
        expected_jaccard(5, 4)
