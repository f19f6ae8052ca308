"""Graphs of several prompts merged, against sums by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import interp_pairs, tiny, word_pairs
from graph_samples import hand_made, recorded

from circuits.discovery import Evaluator
from circuits.explanation import explain
from circuits.explanation.merge import recurring_edges, task_circuit
from interp.errors import DataError, PlanError


def test_positions_are_aligned_by_span_and_from_the_end():
    first = replace(hand_made(), settings={"prompt": recorded([5, 6, 7], roles=["", "s", ""])})
    second = first.pruned(edges=0.5)
    found = recurring_edges([first, second])
    by_edge = found.set_index(["source", "target", "branch"])
    assert by_edge.loc[("embedding@s", "a0.h1@-1", "v")].tolist() == [1.0, 2.0]
    assert by_edge.loc[("embedding@s", "a0.h1@-1", "k")].tolist() == [0.5, 0.25]
    assert by_edge.loc[("m1.n7@-1", "logits", "")].tolist() == [0.5, -0.275]
    assert found["share"].is_monotonic_decreasing and len(found) == len(first.edges)


def test_what_recurs_is_a_circuit():
    model = tiny("llama")
    graphs = [explain(model, pair, nodes=60, edges=0.9) for pair in word_pairs()]
    circuit = task_circuit(model, graphs, 0.6)
    neurons: dict[tuple[int, int], int] = {}
    for graph in graphs:
        own = graph.nodes[graph.nodes["kind"] == "neuron"]
        for one in {*zip(own["layer"], own["unit"], strict=True)}:
            neurons[one] = neurons.get(one, 0) + 1
    kept = {(int(n[1:]), unit) for n, units in circuit.neurons.items() for unit in units}
    assert kept == {one for one, n in neurons.items() if n >= 0.6 * 3}
    for name in circuit.edge_names[:: max(1, circuit.n_edges // 8)]:
        source, _, end = name.partition("->")
        end, _, branch = end.removesuffix(">").partition("<")
        weights = []
        for graph in graphs:
            at = graph.edges.assign(
                s=[x.partition("@")[0] for x in graph.edges["source"]],
                t=[x.partition("@")[0] for x in graph.edges["target"]],
            )
            at = at.replace({"s": {"embedding": "input"}})
            at = at.assign(**{c: [x.partition(".n")[0] for x in at[c]] for c in "st"})
            own = at[(at["s"] == source) & (at["t"] == end) & (at["branch"] == branch)]
            weights.append(own["weight"].sum() if len(own) else None)
        assert sum(w is not None for w in weights) >= 0.6 * 3
        mean = sum(w or 0.0 for w in weights) / 3
        assert float(circuit.scores[circuit.graph.edge(name)]) == pytest.approx(mean, abs=1e-6)
    assert circuit.prompts[0] == word_pairs()[0].clean
    test = Evaluator.of(model, interp_pairs())
    assert np.isfinite(test.metric_of(circuit)).all()
    with pytest.raises(PlanError, match="seen in discovery"):
        Evaluator.of(model, word_pairs()).metric_of(circuit)


def test_refused_by_name():
    with pytest.raises(DataError, match="no graphs"):
        recurring_edges([])
    with pytest.raises(PlanError, match="different weights"):
        recurring_edges([hand_made(), replace(hand_made(), weights_hash="1" * 32)])
    with pytest.raises(PlanError, match="different metrics"):
        recurring_edges([hand_made(), replace(hand_made(), metric="logprob")])
    with pytest.raises(PlanError, match="other weights"):
        task_circuit(tiny("llama"), [hand_made()])
    assert isinstance(recurring_edges([hand_made()]), pd.DataFrame)
