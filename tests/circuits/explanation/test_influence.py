"""Influence and scores of a graph made by hand, against sums over its paths."""

import pytest
from graph_samples import hand_made

from circuits.explanation.influence import graph_scores, influence


def test_influence_is_handed_on_in_proportion():
    graph = hand_made()
    found, hidden = influence(graph.nodes, graph.edges)
    logits = 1.3 + 0.2 + 1.8 + 0.55 + 0.25
    late = 0.55 / logits
    neuron = 1.8 / logits + late * 0.3 / 0.5
    head = 1.3 / logits + neuron * 1.2 / 1.5
    rest = 0.2 / logits + neuron * 0.3 / 1.5
    assert found["logits"] == 1.0
    assert found["m1.n7@2"] == pytest.approx(late)
    assert found["m0.n5@2"] == pytest.approx(neuron)
    assert found["a0.h1@2"] == pytest.approx(head)
    assert found["a0.rest@2"] == pytest.approx(rest)
    assert found["embedding@1"] == pytest.approx(head)
    assert hidden["logits"] == pytest.approx(0.25 / logits)
    assert hidden["m1.n7@2"] == pytest.approx(late * 0.2 / 0.5)
    scores = graph_scores(graph.nodes, graph.edges)
    lost = rest + 0.25 / logits + late * 0.2 / 0.5
    assert scores["replacement"] == pytest.approx(head / (head + lost))
    assert head + lost == pytest.approx(1.0)
    assert scores["completeness"] == pytest.approx(1 - lost / (1 + late + neuron + head))
