"""Figures hold the numbers they are made of."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_emotion_discovery import planted

from circuits.emotion import EMOTIONS, Directions
from circuits.emotion.directions import projections, shown_layers
from circuits.emotion.figures import (
    plot_circuits,
    plot_effects,
    plot_influence,
    plot_similarity,
    plot_states,
    plot_transfer,
)
from circuits.emotion.states import centred
from circuits.emotion.transfer import left_out


def test_transfer_shows_accuracy_by_layer_and_the_reading_layer():
    found = planted()
    table = left_out(found, found, "within").table()
    figure = plot_transfer(table, layer=1)
    curve = figure.data[-1]
    np.testing.assert_allclose(curve.y, table["accuracy"])
    assert "n 72, 6 clusters" in curve.name
    assert figure.layout.shapes[-1].x0 == 1


def test_similarity_and_influence():
    own = Directions.of(planted())
    figure = plot_similarity({layer: own.similarity(layer).numpy() for layer in (0, 1)})
    np.testing.assert_allclose(figure.data[1].z, own.similarity(1).numpy(), rtol=1e-6)
    values = np.random.default_rng(0).random((5, 6, 2, 3))
    figure = plot_influence(values)
    np.testing.assert_allclose(figure.data[7].y, values[:, 1, 1].mean(0))
    assert "5 neutral texts" in figure.layout.title.text


def test_circuits_count_neurons_and_share_heads():
    neurons = [("anger", 0, 1), ("anger", 2, 3), ("anger", 2, 4), ("fear", 1, 1)]
    heads = [("anger", 1, 2), ("fear", 1, 2), ("fear", 0, 0)]
    rows = [(e, "neurons", *at) for e, *at in neurons] + [(e, "heads", *at) for e, *at in heads]
    units = pd.DataFrame(rows, columns=["emotion", "part", "layer", "unit"])
    figure = plot_circuits(units, n_layers=3, n_heads=4)
    assert list(figure.data[0].x) == [1, 0, 2]
    assert figure.data[2].z[1][2] == 2 and figure.data[2].z[0][0] == 1
    assert figure.data[2].customdata[1][2] == "anger fear "


def test_effects_draw_random_circuits_as_crosses():
    rows = [
        ("necessity", "centred", "anger", 0.5, 0.4, 0.6),
        ("necessity", "random", "anger", 1.0, 0.9, 1.1),
        ("sufficiency", "centred", "anger", 1.8, 1.6, 2.1),
    ]
    columns = ["test", "name", "emotion", "value", "low", "high"]
    figure = plot_effects(pd.DataFrame(rows, columns=columns))
    assert [trace.marker.symbol for trace in figure.data] == ["circle", "x", "circle"]
    assert figure.data[1].name == "random, each draw" and list(figure.data[2].y) == [1.8]


@pytest.mark.parametrize("layers", [(1,), (0, 1)])
def test_states_are_drawn_by_emotion(layers: tuple[int, ...]):
    figure = plot_states(projections(planted(), layers))
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
