"""Groups of prompts: planted groups, noise."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import adjusted_rand_score

from interp.errors import StatisticsError
from interp.statistics import coordinates, found_groups, silhouette_test


def planted(n: int = 20, apart: float = 3.0, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Scores of prompts of two groups, each with a mean of its own."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(2, 50)) * apart
    labels = ["ab"[i % 2] for i in range(n)]
    scores = np.stack([means["ab".index(one)] for one in labels]) + rng.normal(size=(n, 50))
    return scores, labels


def test_coordinates_have_the_distances_of_scores_of_length_one():
    scores = np.random.default_rng(1).normal(size=(7, 40)).astype(np.float32)
    cosine = np.corrcoef(scores)  # of centred scores: so centre them
    centred = scores - scores.mean(1, keepdims=True)
    found = squareform(pdist(coordinates(3 * centred))) ** 2
    assert found == pytest.approx(2 - 2 * cosine, abs=1e-5)
    with pytest.raises(StatisticsError, match="1 of them without any score"):
        coordinates(np.vstack([np.zeros(3), np.eye(3)]))


def test_planted_groups_are_found_and_beat_chance():
    scores, labels = planted()
    points = coordinates(scores)
    found = found_groups(points, n_null=50)
    assert adjusted_rand_score(found.labels, labels) == 1
    assert found.p == pytest.approx(1 / 51)
    given_labels = silhouette_test(points, labels, n_permutations=99)
    assert given_labels.silhouette == pytest.approx(found.silhouette)
    assert given_labels.p == 0.01
    assert given_labels.by_chance.value < 0.05


def test_axes_without_groups_are_no_groups():
    """One axis along which prompts vary much: correlated scores, but one normal distribution."""
    p = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        axis = np.outer(rng.normal(size=30), rng.normal(size=40))
        p.append(found_groups(2 * axis + rng.normal(size=(30, 40)), n_null=39, seed=seed).p)
    assert np.mean(np.array(p) <= 0.05) <= 0.25
    assert np.mean(p) > 0.2


def test_the_largest_group_is_the_first():
    points = np.array([[0.0], [0.1], [5.0], [5.1], [5.2]])
    assert found_groups(points, most=2, n_null=5).labels == (1, 1, 0, 0, 0)
    assert found_groups(np.zeros((5, 2)), n_null=5).silhouette == 0


def test_too_few_prompts_are_refused():
    with pytest.raises(StatisticsError, match="give four prompts"):
        found_groups(np.zeros((3, 1)))
    with pytest.raises(StatisticsError, match="1 groups of 3 prompts"):
        silhouette_test(np.zeros((3, 1)), ["a"] * 3)
