"""Figures hold the numbers they are made of."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny
from test_emotion_discovery import planted

from circuits.emotion import EMOTIONS, Directions, EmotionCircuit, Influence
from circuits.emotion.figures import (
    plot_along,
    plot_circuits,
    plot_curves,
    plot_influence,
    plot_similarity,
    plot_states,
    plot_transfer,
)
from circuits.emotion.projections import projections, shown_layers
from circuits.emotion.states import centred
from circuits.emotion.transfer import left_out


def test_transfer_shows_accuracy_by_layer_and_the_reading_layer():
    found = planted()
    table = left_out(found, found, "within").table()
    figure = plot_transfer(table, "t", layer=1)
    curve = figure.data[-1]
    np.testing.assert_allclose(curve.y, table["accuracy"])
    assert "n 72, 6 clusters" in curve.name
    assert figure.layout.shapes[-1].x0 == 1


def test_similarity_influence_and_places():
    own = Directions.of(planted())
    figure = plot_similarity(own, (0, 1), "t")
    np.testing.assert_allclose(figure.data[1].z, own.similarity(1).numpy(), rtol=1e-6)
    assert np.shape(plot_along(own, "fear", "t").data[0].z) == (4, 4)
    values = torch.rand(5, 6, 2, 3)
    figure = plot_influence(Influence(values, (0.3,), "stream"), "t")
    np.testing.assert_allclose(figure.data[7].y, values[:, 1, 1].mean(0).numpy(), rtol=1e-5)
    assert "5 neutral texts" in figure.layout.title.text


def test_circuits_count_neurons_and_share_heads():
    model = tiny("llama")
    one = EmotionCircuit.of(model, "anger", [(0, 1), (2, 3), (2, 4)], [(1, 2)])
    other = EmotionCircuit.of(model, "fear", [(1, 1)], [(1, 2), (0, 0)])
    figure = plot_circuits({"anger": one, "fear": other}, "t")
    assert list(figure.data[0].x) == [1, 0, 2]
    assert figure.data[2].z[1][2] == 2 and figure.data[2].z[0][0] == 1
    assert figure.data[2].customdata[1][2] == "anger fear "


def test_curves_draw_random_sets_as_marks():
    rows = [
        ("centred", 4, 0, "all", 0.9, 0.8, 1.0, 48),
        ("centred", 1, 0, "all", 1.0, 0.9, 1.1, 48),
        ("random", 4, 1, "all", 1.0, 1.0, 1.0, 48),
        ("centred", 4, 0, "fear", 0.1, 0.0, 0.2, 48),
    ]
    columns = ["name", "k", "draw", "emotion", "remaining", "low", "high", "n"]
    figure = plot_curves(pd.DataFrame(rows, columns=columns), "remaining", "t")
    line, marks = figure.data[1], figure.data[2]
    assert list(line.x) == [1, 4] and list(line.y) == [1.0, 0.9]
    assert marks.mode == "markers" and marks.name == "random, each draw"
    assert "n 48 texts" in figure.layout.title.text


@pytest.mark.parametrize("layers", [(1,), (0, 1)])
def test_states_are_drawn_by_emotion(layers: tuple[int, ...]):
    figure = plot_states(projections(planted(), layers), "t")
    assert [trace.name for trace in figure.data[:6]] == list(EMOTIONS)
    assert len(figure.data) == 6 * len(layers)
    spread = np.array([trace.x for trace in figure.data[-6:]]).mean(1)
    assert spread.std() > 0.5  # emotions lie apart in layer 1


def test_projections_are_the_groups_own_variance_on_its_two_main_axes():
    found = planted()
    table = projections(found, (1,), most=4)
    assert table["text"].nunique() == 4 and len(table) == 4 * 6
    step = len(found) // 4
    part = centred(found.only(range(0, len(found), step)).resid_post)[:, :, 1].flatten(0, 1)
    largest = torch.linalg.svdvals(part)[:2]
    lengths = [float(np.linalg.norm(table[axis])) for axis in ("x", "y")]
    np.testing.assert_allclose(lengths, largest.numpy(), rtol=1e-4)
    assert shown_layers(30, 27) == (0, 10, 15, 27, 29)
