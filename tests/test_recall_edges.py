"""Circuits of edges: found, told apart and controlled for in the planted models."""

import numpy as np
import pytest
from planted_recall import COPY, RECALL, planted, planted_data

from circuits.discovery import Circuit, of_edges
from circuits.recall_reasoning import Settings
from circuits.recall_reasoning.cells import DESIGNS
from circuits.recall_reasoning.edges import _circuits, edges_table, exchanged
from interp.model.graph import Graph

QUICK = Settings(
    design="A-C",
    rules=("absolute",),
    n_select=20,
    n_validate=20,
    n_test=40,
    n_control=20,
    n_random=20,
)


def test_edges_of_the_planted_heads_dissociate():
    singles, control = edges_table(planted(), planted_data(), DESIGNS["A-C"], QUICK, (1, 3))
    chosen = singles[singles["chosen"]]
    assert chosen["ability"].tolist() == ["recall", "copying"]
    assert chosen["holds"].all()
    assert np.allclose(chosen["own_effect"], 1, atol=0.05)
    assert np.allclose(chosen["other_effect"], 0, atol=0.05)
    assert not singles[~singles["chosen"]]["specific"].any()
    # a single edge has seven others of its shape: the other heads of the layer
    assert (control["n_random"] == 7).all()
    assert np.allclose(control["random"], 0, atol=0.05)


def test_edges_of_one_head_for_both_do_not():
    singles, _ = edges_table(planted(separate=False), planted_data(), DESIGNS["A-C"], QUICK, (1, 3))
    assert singles.groupby("ability")["chosen"].sum().to_dict() == {"copying": 1, "recall": 1}
    assert not singles["holds"].any()


def test_the_first_edges_are_those_of_the_planted_heads():
    model = planted()
    found = _circuits(model, planted_data(), DESIGNS["A-C"], QUICK, (1, 8))
    assert [(one.ability, one.size) for one in found] == [
        ("recall", 1),
        ("recall", 8),
        ("copying", 1),
        ("copying", 8),
    ]
    for one, (layer, head) in zip(found[1::2], (RECALL, COPY), strict=True):
        names = Circuit(Graph.of(model.arch), one.edges).edge_names
        assert f"a{layer}.h{head}->logits" in names
    assert found[0].name == "recall/edge/absolute/1"


@pytest.mark.parametrize("seed", range(5))
def test_exchanged_circuits_keep_their_shape_and_none_of_their_heads(seed):
    graph = Graph.of(planted().arch)
    names = ["input->a0.h2<v>", "a0.h2->a1.h4<q>", "a1.h4->logits", "input->m0", "m0->logits"]
    other = exchanged(graph, of_edges(graph, names).edges, np.random.default_rng(seed))
    found = Circuit(graph, other).edge_names
    assert len(found) == 5 and {"input->m0", "m0->logits"} <= set(found)
    assert not set(found) & set(names[:3])
    (first,) = [n for n in found if n.startswith("input->a0")]
    (second,) = [n for n in found if n.endswith("<q>")]
    (third,) = [n for n in found if n.startswith("a1")]
    head = first.removeprefix("input->").removesuffix("<v>")
    assert second.startswith(f"{head}->a1.h") and third == f"{second[7:12]}->logits"
    assert not (other & ~graph.exists).any()
