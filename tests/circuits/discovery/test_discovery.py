"""Circuits: selection, areas on a hand-made curve, files, overlap; leaks are refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import tiny, word_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.discovery import (
    GRID,
    Circuit,
    Evaluator,
    acdc,
    all_edges,
    edge_matrix,
    faithfulness,
    greedy_edges,
    of_edges,
    overlap,
    prune,
    threshold_edges,
    top_edges,
    top_neurons,
    top_nodes,
)
from circuits.discovery.result import RANKINGS, Faithfulness
from interp.attribution.attribute import attribute, attribute_edges, attribute_nodes
from interp.attribution.scores import EdgeScores
from interp.errors import DataError, PlanError
from interp.model.graph import Graph

SMALL = Graph(2, 2, 8, False)
EXAMPLE = Path(__file__).parents[4] / "shared/data/circuits/mib/example_circuit_ioi-eap-ig.json"


def scores_of(
    values: np.ndarray, graph: Graph = SMALL, prompts: tuple[str, ...] = ()
) -> EdgeScores:
    """Edge scores from given per-pair values."""
    ids = [str(i) for i in range(len(values))]
    array = xr.DataArray(
        values.astype(np.float32),
        dims=("pair", "edge"),
        coords={"pair": ids, "edge": list(graph.edge_names)},
    )
    series = xr.DataArray(np.ones(len(values)), dims="pair", coords={"pair": ids})
    return EdgeScores(
        values=array,
        clean=series,
        corrupt=-series,
        graph_or_none=graph,
        method="given",
        metric="logit_diff",
        unit="logits",
        model="small",
        weights_hash="",
        source="",
        excluded=(),
        prompts=(),
        seconds=0.0,
    )


def with_scores(named: dict[str, float], graph: Graph = SMALL) -> EdgeScores:
    values = np.zeros((1, graph.n_edges))
    for name, value in named.items():
        values[0, graph.edge_names.index(name)] = value
    return scores_of(values, graph)


def curves(signed, absolute, full, empty, grid=(0.5, 1.0), ids="abc") -> Faithfulness:
    """Faithfulness of hand-made curves: (k, pair) values under either ranking."""
    pairs = pd.DataFrame({"pair": list(ids)[: len(full)], "full": full, "empty": empty})
    metric = np.stack([signed, absolute])
    n_edges = np.tile(np.arange(len(grid)), (2, 1))
    found = xr.Dataset(
        {"metric": (("ranking", "k", "pair"), metric), "n_edges": (("ranking", "k"), n_edges)},
        {"ranking": list(RANKINGS), "k": list(grid), "pair": pairs["pair"].tolist()},
    )
    return Faithfulness(
        pairs, "model", "logit_diff", "resample", "source", 0, curves=found, method="method"
    )


@pytest.fixture(scope="module")
def found() -> EdgeScores:
    return attribute_edges(tiny("gemma3"), word_pairs()[:2], "eap-dg")


def test_top_edges_rank_by_size_or_sign_and_prune_what_leads_nowhere():
    path = {"input->a0.h0<v>": 3.0, "a0.h0->m1": -2.0, "m1->logits": 1.0}
    scores = with_scores(path | {"input->a1.h1<q>": 2.5})
    assert set(top_edges(scores, 4).edge_names) == set(path)
    assert top_edges(scores, 3).n_edges == 0
    # By sign the negative edge is last, and the path is broken.
    assert top_edges(scores, 3, absolute=False).n_edges == 0
    assert set(threshold_edges(scores, 0.5).edge_names) == set(path)


def test_edges_left_out_within_rounding_of_the_last_are_counted():
    path = {"input->a0.h0<v>": 3.0, "a0.h0->m1": -2.0, "m1->logits": 1.0}
    near = {"input->a1.h1<q>": 1.0 - 1e-7, "input->m1": 1.0, "input->a0.h1<v>": 0.9}
    scores = with_scores(path | near)
    assert top_edges(scores, 3).method.endswith("top 3, 2 left out are within rounding of the last")
    assert top_edges(scores, 5).method.endswith("top 5") and top_edges(scores, 0).n_edges == 0
    top = scores.top(4)
    assert list(top["edge"])[:2] == ["input->a0.h0<v>", "a0.h0->m1"]
    assert top.attrs["near_ties"] == scores.summary()["near_ties"] == ""
    tied = with_scores(path | {"input->m1": -3.0})
    said = "Within rounding of input->a0.h0<v>: input->m1."
    assert tied.summary()["near_ties"] == said and tied.report().lead.endswith(said)


def test_greedy_grows_from_the_logits_along_the_best_edges():
    scores = with_scores(
        {
            "m1->logits": 1.0,
            "a0.h0->m1": 0.5,
            "input->a0.h0<v>": 0.4,
            "input->a1.h1<q>": 9.0,
            "input->logits": 0.3,
        }
    )
    circuit = greedy_edges(scores, 3)
    assert set(circuit.edge_names) == {"m1->logits", "a0.h0->m1", "input->a0.h0<v>"}
    assert set(greedy_edges(scores, 4).edge_names) == {*circuit.edge_names, "input->logits"}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_pruning_keeps_exactly_the_edges_on_some_path(seed: int, density: float):
    generator = torch.Generator().manual_seed(seed)
    edges = SMALL.exists & (torch.rand(SMALL.exists.shape, generator=generator) < density)
    kept = prune(SMALL, edges)
    assert torch.equal(prune(SMALL, kept), kept)
    assert not (kept & ~edges).any()
    owner = SMALL.owner.tolist()
    reached, useful = {0}, {SMALL.n_sources}
    for s, d in edges.nonzero().tolist():  # sources are in order of computation
        if s in reached:
            reached.add(owner[d])
    for s, d in reversed(edges.nonzero().tolist()):
        if owner[d] in useful:
            useful.add(s)
    want = {(s, d) for s, d in edges.nonzero().tolist() if s in reached and owner[d] in useful}
    assert {(s, d) for s, d in kept.nonzero().tolist()} == want


def test_areas_of_a_step_are_mibs():
    """f = 0 until all edges are kept: CPR .25 and CMD .749, the random baseline of MIB."""
    full, empty = np.array([2.0, 4.0]), np.array([-1.0, 0.0])
    values = np.stack([empty] * 9 + [full])
    result = curves(values, values, full, empty, GRID)
    areas = result.areas()
    assert areas["CPR"][0] == pytest.approx(0.25)
    assert areas["CMD"][0] == pytest.approx(0.999 - 0.25)
    assert areas["log_CPR"][0] == pytest.approx(0.5 * np.log(2) / np.log(1000))
    exact = np.stack([full] * 10)
    perfect = curves(exact, exact, full, empty, GRID).areas()
    assert perfect["CMD"] == (0, 0, 0)
    assert perfect["CPR"][0] == pytest.approx(0.999)


def test_areas_are_ratios_of_means_over_pairs():
    full, empty = np.array([10.0, 2.0]), np.array([0.0, 0.0])
    half = np.array([5.0, 2.0])
    curve = np.stack([half, full])
    result = curves(curve, curve, full, empty)
    assert float(result.f().sel(ranking="signed", k=0.5)) == pytest.approx(7 / 12)
    clustered = dataclasses.replace(result, pairs=result.pairs.assign(cluster=["x", "x"]))
    value, low, high = clustered.areas()["CPR"]
    assert low == pytest.approx(value) == pytest.approx(high)


def test_faithfulness_runs_mibs_sizes_on_the_test_prompts(found: EdgeScores):
    test = Evaluator.of(tiny("gemma3"), word_pairs()[2:])
    result = faithfulness(test, found)
    assert tuple(result.curves["k"].values) == GRID
    assert float(result.f().sel(ranking="signed")[-1]) == 1
    n = int(0.2 * found.graph.n_edges)
    circuit = top_edges(found, n)
    absolute = result.curves.sel(ranking="absolute").isel(k=7)
    np.testing.assert_allclose(absolute["metric"], test.metric_of(circuit), atol=1e-5)
    assert int(absolute["n_edges"]) == circuit.n_edges


def test_circuits_are_not_tested_on_what_discovery_saw(found: EdgeScores):
    model = tiny("gemma3")
    for rows in (word_pairs(), word_pairs()[1:]):
        with pytest.raises(PlanError, match="were seen in discovery"):
            Evaluator.of(model, rows).metric_of(top_edges(found, 30))
        with pytest.raises(PlanError, match="were seen in discovery"):
            faithfulness(Evaluator.of(model, rows), found)
    searched = acdc(Evaluator.of(model, word_pairs()[:1]), 1e6)
    with pytest.raises(PlanError, match="were seen in discovery"):
        Evaluator.of(model, word_pairs()[:1]).metric_of(searched)
    with pytest.raises(PlanError, match="another shape of model"):
        Evaluator.of(tiny("llama"), word_pairs()[2:]).metric_of(top_edges(found, 30))


@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
def test_the_whole_circuit_is_the_model_under_any_ablation(ablation):
    data = Evaluator.of(tiny("gemma3"), word_pairs(), ablation=ablation)
    np.testing.assert_allclose(data.metric_of(all_edges(data.graph)), data.full, atol=1e-5)
    nothing = of_edges(data.graph, [])
    np.testing.assert_allclose(data.metric_of(nothing), data.empty, atol=1e-5)
    assert data.faithfulness(data.full) == 1
    assert data.faithfulness(data.empty) == 0


def test_zero_ablated_embedding_and_components_leave_the_biases():
    """With all edges cut to zero, only attention's and the norms' constants reach the logits."""
    data = Evaluator.of(tiny("llama"), word_pairs(), ablation="zero")
    np.testing.assert_allclose(data.empty, 0, atol=1e-6)  # llama has no biases


def test_neuron_circuits_run_only_their_neurons():
    model = tiny("llama")
    scores = attribute(model, word_pairs()[:1], "mlp_post", "layer,neuron")
    test = Evaluator.of(model, word_pairs()[1:])
    n = scores.values.sizes["layer"] * scores.values.sizes["neuron"]
    np.testing.assert_allclose(test.metric_of(top_neurons(scores, n)), test.full, atol=1e-5)
    none = test.metric_of(top_neurons(scores, 0))
    mlps = [f"m{i}" for i in range(model.arch.n_layers)]
    # No neuron left = every MLP writes what it wrote on the corrupt prompt.
    edges = all_edges(test.graph).edges.clone()
    for name in mlps:
        edges[test.graph.node(name)] = False
    np.testing.assert_allclose(none, test.metric_of(Circuit(test.graph, edges)), atol=1e-5)
    assert sum(map(len, top_neurons(scores, 40).neurons.values())) == 40
    second = dataclasses.replace(scores, values=scores.values.isel(layer=[1]))  # the only dense one
    assert list(top_neurons(second, 3).neurons) == ["m1"]


def test_node_circuits_keep_all_outgoing_edges():
    scores = attribute_nodes(tiny("llama"), word_pairs()[:1], "eap")
    graph = scores.graph
    assert top_nodes(scores, graph.n_sources - 1).n_edges == graph.n_edges
    mean = scores.mean().to_series().drop("input").abs().sort_values(ascending=False)
    some = top_nodes(scores, 5)
    assert set(some.nodes) == {"input", *mean.index[:5]}
    for name in some.nodes:
        node = graph.node(name)
        reached = [d for d in graph.exists[node].nonzero()[:, 0].tolist()]
        inside = [
            d
            for d in reached
            if (graph.sources + ("logits",))[graph.owner[d]] in (*some.nodes, "logits")
        ]
        assert some.edges[node].nonzero()[:, 0].tolist() == inside


def test_overlap():
    first = of_edges(SMALL, ["input->m0", "m0->logits", "m0->m1", "m1->logits"])
    second = of_edges(SMALL, ["input->m0", "m0->logits", "input->a1.h0<q>", "a1.h0->logits"])
    both = overlap(first, second)
    assert both.edges == pytest.approx(2 / 6)
    assert both.shared_edges == 2
    assert both.nodes == pytest.approx(2 / 4)
    assert (both.only_first, both.only_second) == (("m1",), ("a1.h0",))
    assert both.rank_correlation is None
    with pytest.raises(PlanError, match="differently shaped"):
        overlap(first, all_edges(Graph(1, 2, 8, False)))


def test_mib_json_round_trip(tmp_path, found: EdgeScores):
    circuit = dataclasses.replace(top_edges(found, 60), neurons={"m1": (3, 5)})
    loaded = Circuit.load(circuit.save(tmp_path / "c.json"))
    assert torch.equal(loaded.edges, circuit.edges)
    torch.testing.assert_close(loaded.scores, circuit.scores, equal_nan=True)
    for name in ("graph", "neurons", "method", "model", "weights_hash", "prompts"):
        assert getattr(loaded, name) == getattr(circuit, name)
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]
    record = circuit.to_json()
    assert record["edges"][circuit.edge_names[0]]["in_graph"] is True
    assert len(record["edges"]) == found.graph.n_edges
    np.testing.assert_allclose(
        edge_matrix(found)[found.graph.exists], loaded.scores[found.graph.exists]
    )


@pytest.mark.skipif(not EXAMPLE.is_file(), reason=f"no example circuit at {EXAMPLE}")
def test_mibs_own_example_loads(tmp_path):
    circuit = Circuit.load(EXAMPLE)
    record = json.loads(EXAMPLE.read_text())
    inside = {name for name, entry in record["edges"].items() if entry["in_graph"]}
    assert circuit.graph.n_edges == 32_491
    assert set(circuit.edge_names) == inside
    assert circuit.n_edges == 756
    again = Circuit.load(circuit.save(tmp_path / "again.json"))
    assert torch.equal(again.edges, circuit.edges)


def test_files_that_are_no_circuits_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        Circuit.load(tmp_path / "none.json")
    bad = tmp_path / "bad.json"
    for text, error, match in (
        ("{", DataError, "line 1: not valid JSON"),
        ("[]", DataError, "it is \\[\\]; it must be a JSON object"),
        ("{}", DataError, "'cfg' is missing"),
    ):
        bad.write_text(text)
        with pytest.raises(error, match=match):
            Circuit.load(bad)
    record = of_edges(SMALL, ["input->m0"]).to_json()
    record["edges"]["m1->m0"] = {"in_graph": True}
    bad.write_text(json.dumps(record))
    with pytest.raises(PlanError, match="computed before m1 writes"):
        Circuit.load(bad)


def test_sizes_and_thresholds_are_checked(found: EdgeScores):
    with pytest.raises(PlanError, match="cannot take 99999 components"):
        top_edges(found, 99_999)
    with pytest.raises(PlanError, match="threshold is -1"):
        acdc(Evaluator.of(tiny("gemma3"), word_pairs()[:1]), -1)
    with pytest.raises(PlanError, match="unknown ablation 'none'"):
        Evaluator.of(tiny("gemma3"), word_pairs(), ablation="none")  # pyright: ignore[reportArgumentType]


def test_differences_of_areas_are_paired():
    full, empty = np.array([10.0, 2.0, 7.0]), np.zeros(3)
    low, high = np.stack([full / 2, full]), np.stack([full, full])
    first, second = (curves(c, c, full, empty) for c in (high, low))
    # Every pair alone gives the same gain, so there is no doubt about the difference.
    assert first.minus(second)["CPR"] == pytest.approx((0.125, 0.125, 0.125))
    assert first.minus(second)["CMD"] == pytest.approx((-0.125, -0.125, -0.125))
    with pytest.raises(PlanError, match="same test pairs"):
        first.minus(curves(low, low, full, empty, ids="abx"))
