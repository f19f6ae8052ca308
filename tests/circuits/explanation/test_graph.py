"""`AttributionGraph`: stored exactly, pruned with its arithmetic closed, relabelled, grouped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from graph_samples import hand_made, without_corrupt

from circuits.explanation import AttributionGraph
from circuits.explanation.graph import node_id
from interp.errors import DataError, PlanError


def in_flow(graph: AttributionGraph) -> pd.Series:
    flow = graph.edges.groupby("target")["weight"].sum()
    nodes = graph.nodes.set_index("id")
    return flow.reindex(nodes.index).fillna(0) + nodes["unshown"]


def closes(graph: AttributionGraph) -> None:
    """In-flow, of nodes not shown included, is the attribution; sources have none."""
    want = graph.nodes.set_index("id")
    inner = want["kind"].isin(["head", "neuron", "logits"])
    np.testing.assert_allclose(in_flow(graph)[inner], want["attribution"][inner])


@pytest.mark.parametrize("graph", [hand_made(), without_corrupt(hand_made())])
def test_saved_and_loaded_exactly(graph: AttributionGraph, tmp_path: Path):
    checked = replace(graph, checks=pd.DataFrame({"node": ["a0.h1@2"], "actual": [2.0]}))
    read = AttributionGraph.load(checked.save(tmp_path / "g"))
    for table in ("nodes", "edges", "checks"):
        pd.testing.assert_frame_equal(getattr(read, table), getattr(checked, table))
    assert read.tokens == graph.tokens and read.corrupt_tokens == graph.corrupt_tokens
    assert (read.scores, read.settings, read.target) == (graph.scores, graph.settings, graph.target)
    np.testing.assert_equal(read.corrupt_value, graph.corrupt_value)
    assert read.total == pytest.approx(3.0 if graph.corrupt_tokens else 2.0)


def test_pruning_keeps_the_arithmetic_closed():
    graph = hand_made()
    closes(graph)
    less = graph.pruned(nodes=2)
    assert less.n_nodes == 2 and "m1.n7@2" not in set(less.nodes["id"])
    assert less.node("logits")["unshown"] == pytest.approx(0.25 - 0.55)
    closes(less)
    none = graph.pruned(nodes=0)
    assert set(none.nodes["kind"]) == {"embedding", "rest", "logits"}
    assert none.edges[["source", "target"]].values.tolist() == [["a0.rest@2", "logits"]]
    assert none.node("logits")["unshown"] == pytest.approx(3.0 - 0.2)


def test_edges_by_share_of_in_flow():
    less = hand_made().pruned(edges=0.79)
    assert less.into("logits")["source"].tolist() == ["m0.n5@2", "a0.h1@2"]  # 3.1 of 3.85
    assert less.into("m0.n5@2")["source"].tolist() == ["a0.h1@2"]
    assert less.into("a0.h1@2")["branch"].tolist() == ["v"]
    assert "a0.rest@2" not in set(less.nodes["id"])
    closes(less)
    assert len(hand_made().pruned(edges=1.0).edges) == len(hand_made().edges)
    assert len(hand_made().pruned(edges=0.0).edges) == 0


def test_labels_and_supernodes():
    graph = hand_made().relabelled({"m0.n5@2": "says Paris"})
    graph = graph.grouped({"capital": ["m0.n5@2", "a0.h1@2"]})
    assert graph.node("m0.n5@2")["label"] == "says Paris"
    assert graph.nodes["supernode"].tolist().count("capital") == 2
    assert graph.grouped({"": ["m0.n5@2"]}).node("m0.n5@2")["supernode"] == ""
    assert hand_made().node("m0.n5@2")["label"] == ""


def test_refused_by_name():
    graph = hand_made()
    with pytest.raises(PlanError, match="no node 'm0.n6@2'.*m0.n5@2"):
        graph.relabelled({"m0.n6@2": "x"})
    with pytest.raises(PlanError, match="edges=2"):
        graph.pruned(edges=2)
    with pytest.raises(PlanError, match="-1 nodes"):
        graph.pruned(nodes=-1)
    with pytest.raises(DataError, match="edges has no column 'branch'"):
        replace(graph, edges=graph.edges.drop(columns="branch"))
    with pytest.raises(DataError, match="names the node 'm0.n5@2'"):
        replace(graph, nodes=graph.nodes.drop(index=5))
    with pytest.raises(DataError, match="twice"):
        replace(graph, nodes=pd.concat([graph.nodes, graph.nodes]))


def test_ids():
    assert node_id("head", 5, 7, 3) == "a5.h3@7"
    assert node_id("neuron", 12, 7, 345) == "m12.n345@7"
    assert node_id("mlp", 3, 7) == "m3@7"
    assert [node_id("rest", 3, 7, unit) for unit in (0, 1)] == ["a3.rest@7", "m3.rest@7"]
    assert node_id("embedding", pos=2) == "embedding@2"
    assert (node_id("bias"), node_id("logits"), node_id("logits", unit=1)) == (
        "bias",
        "logits",
        "logits.1",
    )


def test_shown(tmp_path: Path):
    graph = hand_made()
    page = graph.report().write(tmp_path / "index.html").read_text("utf-8")
    assert "a0.h1@2" in page and "-1.000 on the corrupt prompt" in page
    assert "a0.h1@2" in graph._repr_html_() and "3 nodes, 9 edges" in repr(graph)
    assert graph.summary()["top"][0] == {"id": "embedding@1", "attribution": 3.0}
    assert len(graph.top(3)) == 3
