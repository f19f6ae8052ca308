"""Overlaps, stability, rank correlation, ROC: exact cases and properties."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from interp.errors import StatisticsError
from interp.statistics import (
    auroc,
    jaccard,
    resample_weights,
    spearman,
    stability,
)

NAN = np.nan

# --- agreement ---------------------------------------------------------------------------------


def test_jaccard_by_hand():
    assert jaccard({1, 2, 3}, [2, 3, 4]) == 0.5
    assert jaccard([(0, 1)], [(1, 0)]) == 0
    assert jaccard([], set()) == 1
    assert jaccard([], [1]) == 0


@given(a=st.sets(st.integers(0, 9)), b=st.sets(st.integers(0, 9)))
def test_jaccard_is_symmetric_and_one_for_equal_sets_only(a, b):
    assert jaccard(a, b) == jaccard(b, a)
    assert 0 <= jaccard(a, b) <= 1
    assert (jaccard(a, b) == 1) == (a == b)


def test_clear_scores_are_perfectly_stable():
    scores = np.tile([3.0, 0, 2, 1], (20, 1))
    assert stability(scores, 2) == (1, 1, 1)


def test_stability_is_the_mean_jaccard_of_the_resampled_sets():
    scores = np.random.default_rng(10).normal(size=(12, 8))
    clusters = [n // 2 for n in range(12)]
    for given_clusters, unit in ((None, scores), (clusters, scores[::2] + scores[1::2])):
        weights = resample_weights(len(unit), 3, 30)
        tops = [set(np.argsort(-(w @ unit))[:3].tolist()) for w in weights]
        overlap = [jaccard(a, b) for a, b in combinations(tops, 2)]
        value, low, high = stability(scores, 3, 30, given_clusters, seed=3)
        assert value == pytest.approx(np.mean(overlap))
        assert (low, high) == pytest.approx(tuple(np.quantile(overlap, [0.025, 0.975])))


def test_stability_of_noise_is_that_of_chance():
    # one component leads in each example: which of them wins is a matter of the resample
    scores = np.eye(40)
    assert stability(scores, 4).value < 0.4
    assert stability(np.where(scores, 1.0, NAN), 4).value < 0.4


def test_stability_refuses_what_has_one_answer():
    for top_n, n in ((4, 100), (0, 100), (2, 1)):
        with pytest.raises(StatisticsError, match=f"top {top_n} of 4 components in {n} resamples"):
            stability(np.ones((5, 4)), top_n, n)


def test_rank_correlation_by_hand():
    a = np.array([[1.0, 2, 3], [4, 5, NAN]])
    assert spearman(a, a**3) == pytest.approx((1, 1, 1))
    assert spearman(a, -a).value == pytest.approx(-1)
    # 1 - 6 (1 + 1) / (4 (16 - 1))
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 3, 4])).value == pytest.approx(0.8)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)).value)
    with pytest.raises(StatisticsError, match="2 components have both scores"):
        spearman(np.array([1.0, 2, NAN]), np.array([1.0, 2, 3]))
    with pytest.raises(StatisticsError, match="rank the same components"):
        spearman(np.ones(3), np.ones(4))


@settings(deadline=None, max_examples=30)
@given(both=arrays(float, (2, 12), elements=st.integers(0, 9).map(float)))
def test_rank_correlation_agrees_with_scipy(both: np.ndarray):
    assume(not (both == both[:, :1]).all(1).any())
    assert spearman(*both, n_resamples=5).value == pytest.approx(stats.spearmanr(*both).statistic)


def test_auroc_by_hand():
    labels = np.array([True, True, False, False])
    assert auroc(np.array([4.0, 3, 2, 1]), labels) == 1
    assert auroc(np.array([1.0, 2, 3, 4]), labels) == 0
    assert auroc(np.array([1.0, 1, 1, 1]), labels) == 0.5
    assert auroc(np.array([[3.0, 1], [2, 1]]), labels.reshape(2, 2)) == 0.625
    for scores, truth in (
        (np.ones(4), np.ones(4, bool)),
        (np.array([1.0, NAN, 2, 3]), labels),
        (np.ones(3), labels),
    ):
        with pytest.raises(StatisticsError, match="give each component a score"):
            auroc(scores, truth)


@settings(deadline=None, max_examples=60)
@given(
    scores=arrays(float, 15, elements=st.integers(0, 6).map(float)),
    labels=arrays(bool, 15),
)
def test_auroc_is_the_mann_whitney_statistic(scores: np.ndarray, labels: np.ndarray):
    assume(labels.any() and not labels.all())
    u = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic
    assert auroc(scores, labels) == pytest.approx(u / (labels.sum() * (~labels).sum()))
    assert auroc(scores, labels) + auroc(-scores, labels) == pytest.approx(1)
    assert auroc(scores, labels) + auroc(scores, ~labels) == pytest.approx(1)
