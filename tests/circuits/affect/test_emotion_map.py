"""The plane of emotions: planted valence and arousal, the ridge read-out, labels on a phone."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from circuits.affect.emotion_map import (
    PLOT,
    correlation,
    emotion_map,
    pearson,
    principal,
    readable,
    ridge_left_out,
)
from circuits.affect.emotion_vectors import EmotionVectors

N = 40


def planted(seed: int = 0, noise: float = 0.3) -> tuple[EmotionVectors, pd.DataFrame]:
    """Layer 0 is noise; in layer 1 valence is the longest axis, arousal the second."""
    rng = np.random.default_rng(seed)
    ratings = rng.normal(size=(N, 2))
    x = noise * rng.normal(size=(N, 2, 24))
    x[:, 1, :2] += ratings * [5, 3]
    frame = pd.DataFrame(columns=["layer", "accuracy"])
    names = tuple(f"e{i}" for i in range(N))
    found = EmotionVectors(
        torch.tensor(x - x.mean(0)).float(), torch.zeros(2, 24), torch.ones(N, 2), names,
        tuple(f"w{i}" for i in range(N)), frame, frame, frame,
        {}, (), 1, "given", "m", "llama", "0",
    )  # fmt: skip
    norms = pd.DataFrame(ratings, columns=["valence", "arousal"], index=list(found.words))
    return found, norms


def test_the_ridge_read_out_equals_a_loop_that_fits_without_each_word():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 5)), rng.normal(size=(9, 3))
    penalty = ((x - x.mean(0)) ** 2).sum() / len(x)
    found = ridge_left_out(x, y)
    for i in range(9):
        rest = np.delete(np.arange(9), i)
        own, rated = x[rest] - x[rest].mean(0), y[rest] - y[rest].mean(0)
        weights = np.linalg.solve(own.T @ own + penalty * np.eye(5), own.T @ rated)
        wanted = y[rest].mean(0) + (x[i] - x[rest].mean(0)) @ weights
        assert found[i] == pytest.approx(wanted)
        assert ridge_left_out(x, y[:, 0])[i] == pytest.approx(wanted[0])


def test_a_word_s_own_rating_does_not_change_its_prediction():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(8, 4)), rng.normal(size=8)
    other = y.copy()
    other[3] += 100
    assert ridge_left_out(x, y)[3] == pytest.approx(ridge_left_out(x, other)[3])


def test_correlations_are_pearson_s_with_an_interval():
    rng = np.random.default_rng(3)
    x = rng.normal(size=60)
    y = x + rng.normal(size=60)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    row = correlation(x, y, np.linspace(-1, 1, 21), rng)
    assert row["low"] < row["r"] < row["high"] and row["high"] - row["low"] < 0.5
    assert row["null"] == pytest.approx(0.9)
    assert row["p"] == pytest.approx((1 + (np.linspace(-1, 1, 21) >= row["r"]).sum()) / 22)


def test_principal_scores_are_those_of_the_covariance():
    x = np.random.default_rng(4).normal(size=(12, 6)) * [9, 5, 1, 1, 1, 1]
    scores, part = principal(x)
    values, axes = np.linalg.eigh(np.cov(x.T))
    wanted = (x - x.mean(0)) @ axes[:, ::-1][:, :2]
    assert np.abs(scores) == pytest.approx(np.abs(wanted))
    assert part == pytest.approx(values[::-1][:2] / values.sum())


def test_planted_ratings_are_found_where_they_are_and_not_elsewhere():
    found, norms = planted()
    done = emotion_map(found, norms)
    rows = done.table.set_index(["layer", "rating", "read_out"])
    for rating, component in (("valence", "PC1"), ("arousal", "PC2")):
        for read in (component, "ridge, word left out"):
            there, nowhere = rows.loc[(1, rating, read)], rows.loc[(0, rating, read)]
            assert there["r"] > 0.95 and there["p"] == pytest.approx(0.001)
            assert there["low"] > there["null"] > 0.2
            assert nowhere["p"] > 0.01 and nowhere["low"] < nowhere["null"]
    assert rows.loc[(1, "valence", "PC1"), "variance"] > rows.loc[(1, "arousal", "PC2"), "variance"]
    assert set(done.table["n"]) == {N} and done.left_out == dict.fromkeys(done.left_out, 0)
    assert done.chosen["layer"].tolist() == [0] * 4 + [1] * 4
    assert "r(valence, PC1)" in done.report().html()


def test_signs_of_vectors_do_not_matter():
    found, norms = planted()
    done = emotion_map(found, norms)
    other = emotion_map(replace(found, vectors=-found.vectors), norms)
    assert np.allclose(done.table["r"], other.table["r"], atol=1e-6)
    assert np.allclose(done.places["x"], other.places["x"], atol=1e-4)


def test_permuted_ratings_agree_only_by_chance():
    below = 0
    for seed in range(10):
        found, norms = planted(seed)
        mixed = norms.sample(frac=1, random_state=seed).set_axis(norms.index)
        table = emotion_map(found, mixed, seed).table
        below += int((table["p"] > 0.05).sum())
    assert below > 0.85 * 80


def test_words_without_a_rating_are_left_out_and_counted():
    found, norms = planted()
    norms.loc[norms.index[5:], "arousal"] = np.nan
    norms = norms.drop(index=["w0", "w1"])
    norms.loc["e0"] = [1.0, np.nan]  # by the emotion's name
    done = emotion_map(found, norms)
    assert done.left_out == {"the word has no valence": 1, "the word has no arousal": 37}
    assert set(done.table["rating"]) == {"valence"} and set(done.table["n"]) == {39}
    assert done.places.loc[0, "valence"] == 1.0 and np.isnan(done.places.loc[1, "valence"])


@pytest.mark.parametrize("seed", range(5))
def test_names_that_are_written_do_not_overlap(seed: int):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 171))
    names = ["w" * int(n) for n in rng.integers(3, 14, 171)]
    shown = np.flatnonzero(readable(x, y, names))
    assert 20 < len(shown) < 171
    across, down = x / np.ptp(x) * PLOT[0], y / np.ptp(y) * PLOT[1]
    for i in shown:
        for j in shown[shown > i]:
            apart = abs(across[i] - across[j]) >= 3.4 * (len(names[i]) + len(names[j]))
            assert apart or abs(down[i] - down[j]) >= 14
    assert readable(np.zeros(1), np.zeros(1), ["joy"]).tolist() == [True]
