"""Overlaps, rank correlation, ROC: exact cases and properties."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from interp.errors import StatisticsError
from interp.statistics import auroc, jaccard, spearman

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
@given(scores=arrays(float, 15, elements=st.integers(0, 6).map(float)), labels=arrays(bool, 15))
def test_auroc_is_the_mann_whitney_statistic(scores: np.ndarray, labels: np.ndarray):
    assume(labels.any() and not labels.all())
    u = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic
    assert auroc(scores, labels) == pytest.approx(u / (labels.sum() * (~labels).sum()))
    assert auroc(scores, labels) + auroc(-scores, labels) == pytest.approx(1)
    assert auroc(scores, labels) + auroc(scores, ~labels) == pytest.approx(1)
