"""Figures of attributions and circuits: what is drawn, how it is labelled, what is left out."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import interp_pairs, tiny, word_pairs

from circuits.discovery import (
    Circuit,
    Evaluator,
    evaluate,
    faithfulness,
    of_edges,
    prune,
    top_edges,
)
from circuits.discovery.faithfulness import random_circuit
from circuits.discovery.figures import plot_faithfulness
from interp.attribution.attribute import attribute, attribute_edges, attribute_nodes
from interp.attribution.scores import EdgeScores
from interp.errors import PlanError
from interp.results.style import GREY


@pytest.fixture(scope="module")
def edges() -> EdgeScores:
    return attribute_edges(tiny("llama"), word_pairs())


# --- scores ------------------------------------------------------------------------------------


def test_edges_are_summed_from_layer_to_layer(edges: EdgeScores):
    figure = edges.plot()
    (heatmap,) = figure.data
    assert heatmap.z.shape == (4, 7)  # input and 3 layers; heads and MLP of each, logits
    shown = heatmap.customdata[..., 0].astype(float)
    assert np.nansum(shown) == pytest.approx(float(abs(edges.mean()).sum()), rel=1e-2)
    to_logits = [n for n in edges.graph.edge_names if re.fullmatch(r"(a0\.h\d|m0)->logits", n)]
    expected = float(abs(edges.mean().sel(edge=to_logits)).sum())
    assert shown[1, 6] == pytest.approx(expected, rel=1e-2)
    assert np.isnan(heatmap.z[2, 0])  # no edge runs back from layer 1 to layer 0
    assert list(figure.layout.yaxis.ticktext) == ["input", "0", "1", "2"]
    assert figure.layout.xaxis.ticktext[-1] == "logits"


def test_nodes_have_the_mlps_as_last_column():
    scores = attribute_nodes(tiny("llama"), word_pairs())
    figure = scores.plot()
    (heatmap,) = figure.data
    mean = scores.mean()
    assert heatmap.z.shape == (3, 5)
    assert heatmap.z[1, 2] == pytest.approx(float(mean.sel(node="a1.h2")))
    assert heatmap.z[2, 4] == pytest.approx(float(mean.sel(node="m2")))
    assert figure.layout.xaxis.ticktext[-1] == "MLP"
    assert f"{float(mean.sel(node='input')):.3g}" in figure.layout.xaxis.title.text


@pytest.mark.parametrize(
    ("site", "over", "shape", "labels"),
    [
        ("resid_pre", "layer,pos", (3, 8), ("layer", "token")),
        ("z", "layer,head", (3, 4), ("layer", "head")),
        ("z", "layer,pos,head", (3, 8), ("layer", "token")),
        ("mlp_post", "layer,neuron", (3, 56), ("layer", "neurons of the layer")),
    ],
)
def test_units_are_heatmaps(site: str, over: str, shape: tuple, labels: tuple):
    figure = attribute(tiny("llama"), word_pairs(), site, over).plot()
    (heatmap,) = figure.data
    assert heatmap.z.shape == shape
    assert figure.layout.yaxis.title.text == labels[0]
    assert figure.layout.xaxis.title.text.startswith(labels[1])
    assert heatmap.zmin == -heatmap.zmax


def test_neurons_come_strongest_first_with_their_numbers():
    scores = attribute(tiny("llama"), word_pairs(), "mlp_post", "layer,neuron")
    (heatmap,) = scores.plot().data
    strongest = int(abs(scores.mean()).sel(layer=1).values.argmax())
    assert abs(heatmap.z[1, 0]) == pytest.approx(float(abs(scores.mean()).sel(layer=1).max()))
    assert heatmap.customdata[1, 0, 1] == f", neuron {strongest}"


def test_one_axis_is_a_curve_with_its_interval():
    scores = attribute(tiny("llama"), word_pairs(), "attn_out", "layer")
    band, mean = scores.plot().data
    assert band.name == "95 % interval"
    np.testing.assert_allclose(mean.y, scores.mean().values, rtol=1e-6)


def test_scores_as_a_report(edges: EdgeScores):
    text = replace(edges, method="<b>").report().html()
    assert "&lt;b&gt;" in text
    assert "3 pairs of records" in text
    assert "No row was excluded" in text
    assert edges.top(1)["edge"][0].replace(">", "&gt;") in text
    cell = edges._repr_html_()
    assert cell.startswith('<div class="interp-report">')
    assert "3 pairs of records" in cell and edges.top(1)["edge"][0].replace(">", "&gt;") in cell


# --- circuits ----------------------------------------------------------------------------------


def drawn_edges(figure) -> list[str]:
    (points,) = [trace for trace in figure.data if trace.name == "edges"]
    return [re.sub(r"&gt;|: .*", lambda m: ">" if m[0] == "&gt;" else "", t.replace("&lt;", "<"))
            for t in points.text]  # fmt: skip


def test_a_circuit_is_drawn_whole(edges: EdgeScores):
    circuit = top_edges(edges, 40)
    figure = circuit.plot()
    assert set(drawn_edges(figure)) == set(circuit.edge_names)
    nodes = {
        name: (x, y)
        for trace in figure.data
        if trace.mode == "markers+text"
        for (name, *_), x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }
    assert set(nodes) == {*circuit.nodes, "logits"}
    assert nodes["logits"][1] > max(y for name, (_, y) in nodes.items() if name != "logits")
    assert nodes["input"][1] < min(y for name, (_, y) in nodes.items() if name != "input")
    assert f"{circuit.n_edges} of 262 edges" in figure.layout.title.text
    assert "left out" not in figure.layout.title.text


def test_a_large_circuit_says_what_is_left_out(edges: EdgeScores):
    circuit = top_edges(edges, 100)
    figure = circuit.plot(most=30)
    assert circuit.scores is not None
    sizes = dict(zip(circuit.edge_names, circuit.scores[circuit.edges].abs(), strict=True))
    assert set(drawn_edges(figure)) == set(sorted(sizes, key=lambda n: -sizes[n])[:30])
    said = f"the 30 strongest are drawn, {circuit.n_edges - 30} left out"
    assert said in figure.layout.title.text


def test_sign_way_and_size_have_their_style():
    graph = attribute_edges(tiny("llama"), word_pairs()[:1]).graph
    names = ["input->m0", "m0->a1.h0<q>", "m0->a1.h0<k>", "m0->a1.h0<v>", "a1.h0->logits"]
    circuit = of_edges(graph, names)
    scores = circuit.edges.double()
    scores[graph.edge("m0->a1.h0<q>")] = -0.1
    lines = {
        t.name: t.line for t in replace(circuit, scores=scores).plot().data if t.mode == "lines"
    }
    assert lines["opposes, into query"].dash == "dash"
    assert lines["supports, into key"].dash == "dot"
    assert lines["supports, into value"].dash == "solid"
    assert lines["opposes, into query"].color != lines["supports, into key"].color
    assert lines["opposes, into query"].width < lines["supports, into key"].width
    unscored = {t.name for t in circuit.plot().data if t.mode == "lines"}
    assert unscored == {"into query", "into key", "into value", "into MLP or logits"}


def test_an_empty_circuit_is_not_drawn(edges: EdgeScores):
    with pytest.raises(PlanError, match="has no edges to draw"):
        of_edges(edges.graph, []).plot()
    assert of_edges(edges.graph, []).to_dot().startswith("digraph")


def test_graphviz_text(edges: EdgeScores):
    text = of_edges(edges.graph, ["input->a0.h1<q>", "a0.h1->logits"]).to_dot()
    assert '"input" -> "a0.h1" [color="' + GREY + '", style=dashed' in text
    assert 'label="q"' in text
    assert '"a0.h1" -> "logits"' in text
    assert text.count("->") == 2
    assert text.rstrip().endswith("}")


def test_faithfulness_curves(edges: EdgeScores):
    others = interp_pairs()
    result = faithfulness(Evaluator.of(tiny("llama"), others), edges, grid=(0.1, 0.5, 1.0))
    table = result.to_frame()
    figure = plot_faithfulness({"eap-dg": table, "other": table}, "llama", "logit_diff", "")
    assert [t.name for t in figure.data] == [
        "eap-dg, by size", "eap-dg, signed", "other, by size", "other, signed"
    ]  # fmt: skip
    assert figure.data[0].line.color == figure.data[1].line.color != figure.data[2].line.color
    np.testing.assert_allclose(figure.data[0].y, result.f().sel(ranking="absolute"))
    assert list(figure.data[1].x) == [0.1, 0.5, 1.0]
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.shapes[0].y0 == 1
    assert result.plot().data[0].name == "eap-dg, by size"
    page = result.report().html()
    value, low, high = result.areas()["log_CPR"]
    assert "log CPR" in page and f"{value:.3f} [{low:.3f}, {high:.3f}]" in page
    assert "3 test pairs" in page


# --- random circuits ---------------------------------------------------------------------------


def shape(circuit: Circuit) -> list[str]:
    """Edge names without the heads' numbers: what shuffled heads leave as it is."""
    return sorted(re.sub(r"\.h\d+", "", name) for name in circuit.edge_names)


@pytest.mark.parametrize("seed", range(3))
def test_random_circuits_match_the_circuit(edges: EdgeScores, seed: int):
    circuit = top_edges(edges, 40)
    heads = random_circuit(circuit, "heads", seed)
    assert shape(heads) == shape(circuit)
    assert heads.edge_names != circuit.edge_names
    assert int(prune(heads.graph, heads.edges).sum()) == circuit.n_edges
    drawn = random_circuit(circuit, "edges", seed)
    assert drawn.n_edges == circuit.n_edges
    assert bool((drawn.edges <= circuit.graph.exists).all())
    assert shape(drawn) != shape(circuit)


def test_random_neurons_are_as_many(edges: EdgeScores):
    circuit = replace(top_edges(edges, 200), neurons={"m0": (1, 5, 9), "m2": ()})
    drawn = random_circuit(circuit, "heads", 0, d_mlp=56)
    assert {name: len(kept) for name, kept in drawn.neurons.items()} == {"m0": 3, "m2": 0}
    assert drawn.neurons["m0"] != (1, 5, 9)


def test_an_evaluation_is_a_ratio_of_means(edges: EdgeScores):
    test = Evaluator.of(tiny("llama"), interp_pairs())
    circuit = top_edges(edges, 60)
    done = evaluate(test, circuit, n_random=3)
    assert done.faithfulness().value == pytest.approx(test.faithfulness(test.metric_of(circuit)))
    assert {kind: len(drawn) for kind, drawn in done.random.items()} == {"edges": 3, "heads": 3}
    again = evaluate(test, circuit, n_random=3)
    np.testing.assert_array_equal(again.random["heads"], done.random["heads"])
    assert evaluate(test, circuit, n_random=0).summary()["random"] == {}
