"""Intervals and tests: closed forms, other libraries, coverage, and what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from interp.errors import InterpError, StatisticsError
from interp.statistics import (
    benjamini_hochberg,
    bootstrap_mean,
    bootstrap_ratio,
    discordant,
    empirical_p,
    equivalence,
    mcnemar,
    resample_weights,
    sign_flip_test,
    wilson,
)

NAN = np.nan
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
P_VALUES = arrays(float, st.integers(1, 30), elements=st.floats(0, 1))


def test_intervals_do_not_depend_on_how_many_cells_there_are(monkeypatch: pytest.MonkeyPatch):
    values, found = np.random.default_rng(0).normal(size=(9, 4, 13)), []
    values[:8, :, -1] = values[0, :2] = np.nan
    for at_once in (4096, 5):
        monkeypatch.setattr("interp.statistics.bootstrap.CELLS_AT_ONCE", at_once)
        one = bootstrap_mean(values, clusters=[*"aabbccdde"])
        found.append([*one, *bootstrap_ratio(values, np.arange(1.0, 10))])
    np.testing.assert_array_equal(*found)


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


# --- clusters ----------------------------------------------------------------------------------


def grouped(rng: np.random.Generator, n: int, size: int, cells: int) -> np.ndarray:
    """Values whose mean is 0, in `n` entities of `size` pairs each that share half the variance."""
    return np.repeat(rng.normal(size=(n, cells)), size, 0) + rng.normal(size=(n * size, cells))


def test_copies_of_a_pair_in_one_cluster_tell_nothing_new():
    values = np.random.default_rng(3).normal(size=(9, 4))
    bottom = np.abs(values[:, 0]) + 1
    entity = [f"e{n}" for n in range(9)]
    for copies in (1, 3):
        clusters = np.repeat(entity, copies).tolist()
        for bound, plain in zip(
            bootstrap_mean(np.repeat(values, copies, 0), clusters=clusters),
            bootstrap_mean(values),
            strict=True,
        ):
            np.testing.assert_allclose(bound, plain, rtol=1e-12)
        for bound, plain in zip(
            bootstrap_ratio(
                np.repeat(values, copies, 0), np.repeat(bottom, copies), clusters=clusters
            ),
            bootstrap_ratio(values, bottom),
            strict=True,
        ):
            np.testing.assert_allclose(bound, plain, rtol=1e-12)


def test_two_clusters_by_hand():
    # three pairs of one entity, one of the other: a resample holds the first, both, or the second
    values = np.array([1.0, 2.0, 3.0, 10.0])
    value, low, high = bootstrap_mean(values, clusters=["a", "a", "a", "b"])
    assert (value, low, high) == (4, 2, 10)
    _, low, high = bootstrap_mean(values, level=0.2, clusters=["a", "a", "a", "b"])
    assert (low, high) == (4, 4)


def test_one_cluster_bounds_nothing():
    estimate = bootstrap_mean(np.array([[1.0, NAN], [3.0, NAN]]), clusters=["a", "a"])
    assert estimate.value[0] == 2
    assert (estimate.low[0], estimate.high[0]) == (-np.inf, np.inf)
    assert np.isnan([estimate.value[1], estimate.low[1], estimate.high[1]]).all()
    # a second cluster that has no value in this cell adds nothing either
    values = np.array([[1.0], [3.0], [NAN]])
    assert bootstrap_mean(values, clusters=["a", "a", "b"]).high[0] == np.inf


def test_only_cluster_intervals_cover_when_pairs_share_entities():
    values = grouped(np.random.default_rng(4), 40, 6, 400)
    clusters = np.repeat(np.arange(40), 6).tolist()

    def coverage(**how) -> float:
        _, low, high = bootstrap_mean(values, **how)
        return float(np.mean((low <= 0) & (high >= 0)))

    assert 0.90 <= coverage(clusters=clusters) <= 0.98
    assert coverage() < 0.80


def test_a_cluster_is_any_name_and_each_pair_needs_one():
    values = np.arange(4.0)
    pairs = bootstrap_mean(values, clusters=[("a", 1), ("a", 1), None, 7])
    assert pairs == bootstrap_mean(values, clusters=[0, 0, 1, 2])
    with pytest.raises(StatisticsError, match="4 pairs came with 3 clusters; name one cluster"):
        bootstrap_mean(values, clusters=["a", "b", "c"])
    with pytest.raises(InterpError, match="no values to resample"):
        bootstrap_mean(np.zeros((0, 2)))


# --- equivalence -------------------------------------------------------------------------------


def test_equivalence_asks_that_the_whole_interval_is_inside_the_margin():
    values = np.random.default_rng(5).normal(0.02, 0.4, size=300)
    plain = bootstrap_mean(values, level=0.9)
    reach = float(max(-plain.low, plain.high))
    wide, narrow = equivalence(values, reach + 1e-9), equivalence(values, reach - 1e-9)
    assert wide.estimate == plain == narrow.estimate
    assert wide.holds
    assert not narrow.holds
    assert equivalence(values, 0.05, alpha=0.25).estimate == bootstrap_mean(values, level=0.5)


def test_equivalence_is_not_the_absence_of_a_finding():
    few = np.array([1.0, -1, 0, 0, 1, -1])
    _, low, high = bootstrap_mean(few)
    assert low < 0 < high
    assert not equivalence(few, 0.1).holds
    assert not equivalence(few[:1], 1e9).holds
    both = equivalence(np.stack([np.zeros(50), np.ones(50), np.full(50, NAN)], 1), 0.5)
    assert both.holds.tolist() == [True, False, False]


def test_equivalence_errs_no_more_often_than_alpha():
    # the true difference is the margin itself, where the null hypothesis is hardest to keep
    values = np.random.default_rng(6).normal(0.5, 1, size=(60, 1000))
    assert 0.02 <= equivalence(values, 0.5).holds.mean() <= 0.08


def test_a_margin_is_positive():
    with pytest.raises(StatisticsError, match="margin is 0; give the largest difference"):
        equivalence(np.ones(3), 0)


# --- permutation -------------------------------------------------------------------------------


def test_sign_flips_by_hand():
    # of 8 sign vectors only +++ and --- reach the sum of three equal differences
    assert sign_flip_test(np.array([1.0, 1, 1])) == 0.25
    assert sign_flip_test(np.array([0.1, 0.2, -0.3])) == 1
    assert sign_flip_test(np.array([3.0])) == 1
    # only 3 - 1 - 1 and its mirror, of 8, are smaller in size than 3 + 1 - 1
    assert sign_flip_test(np.array([3.0, 1, -1])) == 0.75
    # 8 of 16 reach 0.7, the observed one and its mirror only up to rounding
    assert sign_flip_test(np.array([0.3, 0.3, 0.5, -0.4])) == 0.5


@settings(deadline=None, max_examples=30)
@given(values=arrays(float, 8, elements=st.integers(-20, 20).map(lambda n: n / 4)))
def test_sign_flips_agree_with_scipy(values: np.ndarray):
    theirs = stats.permutation_test(
        (values, np.zeros(8)),
        lambda x, y, axis: np.abs(np.sum(x - y, axis)),
        permutation_type="samples",
        alternative="greater",
    )
    assert sign_flip_test(values) == pytest.approx(theirs.pvalue)


def test_sampled_sign_flips_count_the_observed_one():
    values = np.ones((30, 2))
    np.testing.assert_allclose(sign_flip_test(values, n_permutations=99), 0.01)
    values = np.random.default_rng(7).normal(0.5, 1, size=(10, 3))
    exact, drawn = sign_flip_test(values), sign_flip_test(values, n_permutations=1000)
    np.testing.assert_allclose(drawn, exact, atol=0.05)
    assert (drawn != exact).any()


def test_sign_flips_hold_their_level():
    rng = np.random.default_rng(8)
    for p in (
        sign_flip_test(rng.normal(size=(25, 1000)), n_permutations=2000),
        sign_flip_test(rng.normal(size=(9, 1000))),
        sign_flip_test(
            grouped(rng, 25, 4, 1000), n_permutations=2000, clusters=[n // 4 for n in range(100)]
        ),
    ):
        for level in (0.05, 0.2, 0.5):
            assert np.mean(p <= level) == pytest.approx(level, abs=0.04)
    alone = sign_flip_test(grouped(rng, 25, 4, 1000), n_permutations=2000)
    assert np.mean(alone <= 0.05) > 0.12


def test_sign_flips_leave_missing_values_out():
    values = np.array([[1.0, 1, NAN], [1, NAN, NAN], [1, 1, NAN], [NAN, 1, NAN]])
    p = sign_flip_test(values)
    assert p[:2].tolist() == [0.25, 0.25]
    assert np.isnan(p[2])
    with pytest.raises(StatisticsError, match="no differences to test"):
        sign_flip_test(np.zeros((0, 2)))


def test_an_empirical_p_counts_the_observed_one():
    null = np.arange(99.0)
    assert empirical_p(1000, null) == 0.01
    assert empirical_p(-1, null) == 1
    assert empirical_p(98, null) == 0.02  # a tie is as extreme
    assert empirical_p(-1, null, "less") == 0.01
    assert empirical_p(-1, null, "two-sided") == 0.02
    assert empirical_p(49, null, "two-sided") == 1
    cells = empirical_p(np.array([5.0, -5]), np.zeros((19, 2)))
    assert cells.tolist() == [0.05, 1]


def test_an_empirical_p_is_uniform_under_the_null():
    draws = np.random.default_rng(9).normal(size=(100, 2000))
    for side in ("greater", "less", "two-sided"):
        p = empirical_p(draws[0], draws[1:], side)
        for level in (0.05, 0.2, 0.5):
            assert np.mean(p <= level) == pytest.approx(level, abs=0.03)


def test_an_empirical_p_refuses_missing_values():
    for observed, null in ((1.0, np.array([1, NAN])), (NAN, np.ones(3)), (1.0, np.ones(0))):
        with pytest.raises(StatisticsError, match="give at least one control"):
            empirical_p(observed, null)


# --- families, proportions ---------------------------------------------------------------------


def test_benjamini_hochberg_by_hand():
    p = np.array([[0.01, 0.04], [0.03, NAN]])
    np.testing.assert_allclose(benjamini_hochberg(p), [[0.03, 0.04], [0.04, NAN]])
    assert np.isnan(benjamini_hochberg(np.array([NAN]))).all()
    with pytest.raises(StatisticsError, match="between 0 and 1"):
        benjamini_hochberg(np.array([0.5, 1.5]))


@settings(deadline=None, max_examples=60)
@given(p=P_VALUES)
def test_benjamini_hochberg_adjusts_upwards_in_order(p: np.ndarray):
    adjusted = benjamini_hochberg(p)
    assert (adjusted >= p - 1e-12).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= -1e-12).all()
    assert adjusted.max() == pytest.approx(p.max())
    np.testing.assert_allclose(adjusted, multipletests(p, method="fdr_bh")[1], atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 500), part=st.floats(0, 1), level=st.floats(0.5, 0.999))
def test_wilson_holds_the_proportion_and_agrees_with_statsmodels(n, part, level):
    k = round(n * part)
    value, low, high = wilson(k, n, level)
    assert value == k / n
    assert -1e-12 <= low <= value + 1e-12
    assert value - 1e-12 <= high <= 1 + 1e-12
    theirs = proportion_confint(k, n, 1 - level, method="wilson")
    assert (low, high) == pytest.approx(theirs, abs=1e-9)


def test_wilson_by_hand():
    # with z = 2: (k + 2 -+ 2 sqrt(k (n - k) / n + 1)) / (n + 4)
    level = float(2 * stats.norm.cdf(2) - 1)
    _, low, high = wilson(6, 12, level)
    assert (low, high) == pytest.approx((0.25, 0.75))
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    for k, n in ((1, 0), (-1, 4), (5, 4)):
        with pytest.raises(StatisticsError, match=f"{k} successes of {n} trials"):
            wilson(k, n)


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(4, 4) == 1
    first = np.array([True, True, True, False, False, True])
    second = np.array([True, False, False, True, False, False])
    assert discordant(first, second) == (3, 1)
    assert discordant(second, first) == (1, 3)
    assert mcnemar(*discordant(first, second)) == pytest.approx(2 * 5 / 16)
    with pytest.raises(StatisticsError, match="6 outcomes against 5; compare the same pairs"):
        discordant(first, second[:5])


@settings(deadline=None, max_examples=40)
@given(b=st.integers(0, 40), c=st.integers(0, 40))
def test_mcnemar_agrees_with_statsmodels(b: int, c: int):
    theirs = statsmodels_mcnemar([[7, b], [c, 3]], exact=True).pvalue
    assert mcnemar(b, c) == pytest.approx(min(theirs, 1))
