"""Bootstrap intervals: exact cases, coverage, and what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from interp.statistics import bootstrap_mean, bootstrap_ratio, resample_weights

NAN = np.nan
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


def test_constant_values_leave_no_doubt():
    mean, low, high = bootstrap_mean(np.full((5, 2, 3), 1.25))
    for bound in (mean, low, high):
        np.testing.assert_allclose(bound, np.full((2, 3), 1.25), rtol=1e-15)


def test_a_constant_ratio_leaves_no_doubt():
    bottom = np.array([1.0, 2.0, 4.0, 0.5])
    top = np.stack([3 * bottom, -bottom], 1)
    for bound in bootstrap_ratio(top, bottom):
        np.testing.assert_allclose(bound, [3, -1], rtol=1e-12)


def test_missing_values_are_left_out():
    values = np.array([[1.0, NAN, NAN], [2.0, 5.0, NAN], [6.0, 7.0, NAN], [NAN, 9.0, NAN]])
    mean, low, high = bootstrap_mean(values)
    np.testing.assert_allclose(mean[:2], np.nanmean(values[:, :2], 0))
    assert (low[:2] < mean[:2]).all()
    assert (mean[:2] < high[:2]).all()
    assert low[0] == pytest.approx(1)
    assert high[0] == pytest.approx(6)
    assert np.isnan([mean[2], low[2], high[2]]).all()


def test_a_ratio_leaves_a_missing_pair_out_of_both_means():
    top = np.array([[1.0, 1.0], [3.0, NAN], [5.0, 2.0]])
    bottom = np.array([2.0, 100.0, 4.0])
    mean, low, high = bootstrap_ratio(top, bottom)
    np.testing.assert_allclose(mean, [9 / 106, 3 / 6])
    # without the second pair both ratios are one half, so every resample is
    assert (low[1], high[1]) == (0.5, 0.5)


def test_a_ratio_is_of_means_not_a_mean_of_ratios():
    mean, _, _ = bootstrap_ratio(np.array([1.0, 1.0]), np.array([0.01, 1.99]))
    assert mean == pytest.approx(1)


def test_one_pair_bounds_nothing():
    one = np.array([[2.0, NAN]])
    for mean, low, high in (bootstrap_mean(one), bootstrap_ratio(one, np.array([4.0]))):
        assert mean[0] in (2.0, 0.5)
        assert (low[0], high[0]) == (-np.inf, np.inf)
        assert np.isnan([mean[1], low[1], high[1]]).all()
    two = np.array([[1.0, 1.0], [3.0, NAN]])
    _, low, high = bootstrap_mean(two)
    assert np.isfinite([low[0], high[0]]).all()
    assert (low[1], high[1]) == (-np.inf, np.inf)


def test_two_pairs_by_hand():
    # a resample of two holds the first pair twice, once, or never: quarter, half, quarter
    mean, low, high = bootstrap_mean(np.array([1.0, 5.0]))
    assert (mean, low, high) == (3, 1, 5)
    _, low, high = bootstrap_mean(np.array([1.0, 5.0]), level=0.2)
    assert (low, high) == (3, 3)


def test_each_resample_draws_as_many_pairs_as_there_are():
    weights = resample_weights(7, 0, 500)
    assert weights.shape == (500, 7)
    assert (weights.sum(1) == 7).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.2)


def test_the_seed_decides_the_bounds():
    values = np.random.default_rng(1).normal(size=(20, 3))
    ones = np.ones(20)
    for call in (bootstrap_mean, lambda v, seed: bootstrap_ratio(v, ones, seed)):
        first, again, other = call(values, 0), call(values, 0), call(values, 1)
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(first[0], other[0])
        assert (first[1] != other[1]).all()
    for a, b in zip(bootstrap_ratio(values, ones, 3), bootstrap_mean(values, 3), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_intervals_cover_what_they_claim():
    rng = np.random.default_rng(0)
    values = rng.normal(2.0, 3.0, size=(40, 400))
    _, low, high = bootstrap_mean(values, seed=1)
    assert 0.90 <= np.mean((low <= 2) & (high >= 2)) <= 0.98
    bottom = rng.normal(4.0, 1.0, size=40)
    _, low, high = bootstrap_ratio(0.5 * bottom[:, None] + rng.normal(size=(40, 400)), bottom)
    assert 0.90 <= np.mean((low <= 0.5) & (high >= 0.5)) <= 0.98


def test_a_wider_level_gives_a_wider_interval():
    values = np.random.default_rng(2).normal(size=30)
    _, low, high = bootstrap_mean(values, level=0.95)
    _, lower, higher = bootstrap_mean(values, level=0.99)
    assert lower < low < high < higher


@settings(deadline=None, max_examples=60)
@given(values=st.integers(2, 12).flatmap(lambda n: arrays(float, (n, 3), elements=NUMBERS)))
def test_the_mean_lies_inside_its_interval(values: np.ndarray):
    mean, low, high = bootstrap_mean(values, n_resamples=1000)
    slack = 1e-9 * (1 + np.abs(values).max())
    np.testing.assert_allclose(mean, values.mean(0), atol=slack)
    assert (low <= high).all()
    assert (values.min(0) - slack <= low).all()
    assert (high <= values.max(0) + slack).all()


@settings(deadline=None, max_examples=60)
@given(values=st.integers(6, 12).flatmap(lambda n: arrays(float, n, elements=st.floats(0, 1))))
def test_an_interval_moves_and_scales_with_its_values(values: np.ndarray):
    plain = np.array(bootstrap_mean(values))
    moved = np.array(bootstrap_mean(10 - 3 * values))
    np.testing.assert_allclose(moved[0], 10 - 3 * plain[0], atol=1e-9)
    np.testing.assert_allclose(moved[1], 10 - 3 * plain[2], atol=1e-9)
    np.testing.assert_allclose(moved[2], 10 - 3 * plain[1], atol=1e-9)
