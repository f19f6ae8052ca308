"""circuit-tracer's JSON: ours comes back exactly, another's too; what is damaged is refused."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from graph_samples import hand_made, large, recorded, without_corrupt

from circuits.explanation import AttributionGraph
from circuits.explanation.circuit_tracer import read_circuit_tracer, write_circuit_tracer
from circuits.explanation.tracer_records import to_circuit_tracer
from interp.errors import DataError

FILE = Path(__file__).with_name("circuit_tracer_graph.json")
"""Written by hand after circuit-tracer's schema."""
EXCERPT = Path(__file__).with_name("circuit_tracer_excerpt.json")
"""Records of a graph that circuit-tracer 0.2.0 made on gemma-2-2b, as Neuronpedia wrote them: 11 of
some 400 nodes, and 8 links between them."""


def sorted_edges(graph: AttributionGraph) -> pd.DataFrame:
    edges = graph.edges.sort_values(["source", "target", "branch"])
    return edges.reset_index(drop=True)


@pytest.mark.parametrize("graph", [hand_made(), without_corrupt(hand_made()), large(80)])
def test_our_graph_comes_back_from_its_file(graph: AttributionGraph, tmp_path: Path):
    graph = graph.relabelled({"logits": "</script> «Paris»"}).grouped(
        {"first": ["embedding@1", "a0.h1@2"]} if len(graph.nodes) < 20 else {}
    )
    graph = replace(graph, checks=pd.DataFrame({"node": ["logits"], "actual": [2.0]}))
    read = read_circuit_tracer(write_circuit_tracer(graph, tmp_path / "g.json"))
    pd.testing.assert_frame_equal(read.nodes, graph.nodes)
    pd.testing.assert_frame_equal(sorted_edges(read), sorted_edges(graph))
    pd.testing.assert_frame_equal(read.checks, graph.checks)
    for name in ("model", "tokens", "corrupt_tokens", "n_prompt", "target", "metric", "unit"):
        assert getattr(read, name) == getattr(graph, name)
    np.testing.assert_equal(read.corrupt_value, graph.corrupt_value)
    assert (read.value, read.scores, read.settings) == (graph.value, graph.scores, graph.settings)


def test_the_fields_are_those_that_its_front_end_reads():
    graph = hand_made().grouped({"who": ["a0.h1@2", "m0.n5@2"]})
    file = to_circuit_tracer(graph)
    nodes = {node["interp"]["id"]: node for node in file["nodes"]}
    assert file["metadata"]["prompt_tokens"] == ["The", " capital", " is"]
    assert file["metadata"]["prompt"] == "The capital is"
    head, neuron = nodes["a0.h1@2"]["node_id"], nodes["m0.n5@2"]["node_id"]
    assert (head, neuron) == ("0_100000001_2", "0_5_2")
    assert nodes["m1.n7@2"]["node_id"] == "1_7_2"
    assert nodes["a0.rest@2"]["feature_type"] == "mlp reconstruction error"
    assert file["qParams"]["supernodes"] == [["who", head, neuron]]
    assert file["qParams"]["pinnedIds"] == [head, neuron]
    target = nodes["logits"]
    assert target["feature_type"] == "logit" and target["is_target_logit"]
    assert float(target["clerp"].split("(p=")[1].split(")")[0]) != 0  # as its front end reads it
    # three numbers, as its decoder of ids reads them
    inner = [n["node_id"] for n in file["nodes"] if n["layer"] != "E"]
    assert all(list(map(int, one.split("_"))) for one in inner)
    assert len({n["jsNodeId"] for n in file["nodes"]}) == len(file["nodes"])
    # a link is the sum of its branches
    (link,) = (one for one in file["links"] if one["target"] == head)
    assert link["weight"] == 2.5 and link["interp"] == {"v": 2.0, "k": 0.5}
    # influence falls with |attribution| and ends at 1
    shares = [nodes[i]["influence"] for i in ("embedding@1", "a0.h1@2", "m0.n5@2", "a0.rest@2")]
    np.testing.assert_allclose(shares, np.cumsum([3.0, 2.5, 1.5, 0.5]) / 8.0)
    assert target["influence"] is None


def test_records_that_circuit_tracer_made_come_back_as_they_were(tmp_path: Path):
    graph = read_circuit_tracer(EXCERPT)
    assert to_circuit_tracer(graph) == json.loads(EXCERPT.read_text("utf-8"))
    assert graph.target == 'Output " Austin" (p=0.332)' and graph.tokens[6] == " Dallas"
    kinds = graph.nodes.groupby("kind")["id"].count().to_dict()
    assert kinds == {"feature": 4, "rest": 1, "embedding": 3, "logits": 3}
    error = graph.nodes.set_index("id").loc["0_24_7"]  # their ids of errors begin with 0
    assert (error["kind"], error["layer"], error["pos"]) == ("rest", 24, 7)
    written = write_circuit_tracer(graph, tmp_path / "g.json")
    assert to_circuit_tracer(read_circuit_tracer(written)) == to_circuit_tracer(graph)


def test_a_file_of_circuit_tracer_comes_back_as_it_was(tmp_path: Path):
    given = json.loads(FILE.read_text())
    graph = read_circuit_tracer(FILE)
    assert to_circuit_tracer(graph) == given
    stored = AttributionGraph.load(graph.save(tmp_path / "run"))
    assert to_circuit_tracer(stored) == given
    renamed = to_circuit_tracer(stored.relabelled({"1_7_1": "new"}))
    assert [node["clerp"] for node in renamed["nodes"]] == [
        "new" if node["node_id"] == "1_7_1" else node["clerp"] for node in given["nodes"]
    ]


def test_its_links_become_edges_in_logits_of_the_target():
    graph = read_circuit_tracer(FILE)
    nodes = graph.nodes.set_index("id")
    assert graph.model == "gemma-2-2b" and graph.target == 'Output "Paris" (p=0.800)'
    assert nodes["kind"].to_dict() == {
        "E_2_0": "embedding",
        "E_651_1": "embedding",
        "0_3_0": "feature",
        "0_-1_1": "rest",
        "1_7_1": "feature",
        "3_9_1": "logits",
        "3_8_1": "logits",
    }
    # by hand: feature 1_7 is worth 2 logits at activation 4, so each unit into it is worth 0.5
    want = {"1_7_1": 2.0, "0_3_0": 3 * 0.5, "0_-1_1": -1 * 0.5 + 0.25, "3_9_1": 2.25}
    want |= {"E_2_0": 6.0 * (1.5 / 6.0), "E_651_1": 0.8 * 0.5, "3_8_1": -1.5}
    assert nodes["attribution"].to_dict() == pytest.approx(want)
    weights = graph.edges.set_index(["source", "target"])["weight"]
    assert weights["0_3_0", "1_7_1"] == 1.5 and weights["1_7_1", "3_8_1"] == -1.5
    flow = graph.edges.groupby("target")["weight"].sum()
    inner = nodes.loc[["1_7_1", "0_3_0", "3_9_1"]]
    np.testing.assert_allclose(flow[inner.index] + inner["unshown"], inner["attribution"])
    assert nodes["supernode"]["1_7_1"] == "capital" and nodes["label"]["0_3_0"] == "France"


DAMAGES = {
    "was used before": lambda f: f["nodes"].append(f["nodes"][0]),
    "no node is called 'x'": lambda f: f["links"].append(f["links"][0] | {"source": "x"}),
    "links run in a circle": lambda f: f["links"].append(
        {"source": "1_7_1", "target": "0_3_0", "weight": 1.0}
    ),
    "no activation": lambda f: f["nodes"][4].update(activation=None),
    "no node is a logit": lambda f: [n.update(feature_type="x") for n in f["nodes"]],
    r"nodes\[2\].ctx_idx' is 'a'": lambda f: f["nodes"][2].update(ctx_idx="a"),
    "there are 2 tokens": lambda f: f["nodes"][2].update(ctx_idx=2),
    r"links\[0\].weight' is missing": lambda f: f["links"][0].pop("weight"),
    "'metadata' is missing": lambda f: f.pop("metadata"),
    "'nodes' is": lambda f: f.update(nodes=[]),
}


@pytest.mark.parametrize("fault", DAMAGES)
def test_a_damaged_file_is_refused_in_a_sentence(fault: str, tmp_path: Path):
    file = copy.deepcopy(json.loads(FILE.read_text()))
    DAMAGES[fault](file)
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(file))
    with pytest.raises(DataError, match=fault) as refusal:
        read_circuit_tracer(path)
    assert str(refusal.value).startswith(str(path)) and "\n" not in str(refusal.value)


def _prompt(**damage: Any) -> Callable[[Any], None]:
    prompt = recorded([5, 6]) | damage
    return lambda f: f["metadata"]["interp"]["settings"].update(prompt=prompt)


def test_a_damaged_file_of_ours_is_refused(tmp_path: Path):
    path = tmp_path / "graph.json"
    for damage, fault in (
        (lambda f: f["nodes"][0]["interp"].pop("layer"), "'layer' is missing"),
        (lambda f: f["nodes"][0]["interp"].update(id="logits"), "id 'logits' was used before"),
        (lambda f: f["metadata"]["interp"].update(value="x"), "'value' is 'x'"),
        (lambda f: f["nodes"][0]["interp"].update(kind="x"), "a node of kind 'x'"),
        (lambda f: f["nodes"][0]["interp"].update(pos=3), "at position 3; give one of"),
        (lambda f: f["nodes"][0]["interp"].update(layer=2**40), "'layer' is 1099511627776"),
        (lambda f: f["links"][0]["interp"].update(x=1.0), "links"),
        (_prompt(clean=["a"]), "settings.prompt: 'clean.0.' is 'a'"),
        (_prompt(clean=[]), "partner and roles have one entry per token"),
        (_prompt(partner=[1, 0]), "partner rises"),
        (_prompt(reads="centred 1"), "an answer has no tokens"),
        (_prompt(answers=7), "'answers' is 7"),
    ):
        file = copy.deepcopy(to_circuit_tracer(hand_made()))
        damage(file)
        path.write_text(json.dumps(file))
        with pytest.raises(DataError, match=fault):
            read_circuit_tracer(path)
