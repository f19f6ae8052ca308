"""Attribution calls: their axes, folders and messages; and the graph that names edges."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import tiny, word_pairs, word_tokenizer
from test_attribution import contrast_of

import interp
from interp.attribution.attribute import attribute, attribute_edges
from interp.attribution.estimators import ESTIMATORS, linearise
from interp.attribution.nodes import unit_scores
from interp.errors import PlanError
from interp.model.graph import Graph


def test_unit_scores_have_the_axes_of_patch_and_sum_over_what_is_left_out():
    model = tiny("llama")
    by_token = attribute(model, word_pairs(), "z", "layer,pos,head", "eap")
    summed = attribute(model, word_pairs(), "z", "layer,head", "eap")
    patched = interp.patch(model, word_pairs(), "z", "layer,pos,head", direction="noise")
    assert by_token.values.dims == patched.values.dims
    assert (np.isnan(by_token.values.values) == np.isnan(patched.values.values)).all()
    np.testing.assert_allclose(by_token.values.sum("pos").values, summed.values.values, atol=1e-6)
    effect = (patched.clean - patched.values).mean("pair").values.ravel()
    found = attribute(model, word_pairs(), "z", "layer,pos,head", "eap-gl", steps=8)
    mean = found.values.mean("pair").values.ravel()
    keep = ~np.isnan(mean)
    assert np.corrcoef(mean[keep], effect[keep])[0, 1] > 0.9


def test_left_padding_moves_no_position():
    model = tiny("llama")
    left = dataclasses.replace(model, tokenizer=word_tokenizer("left"))
    one, other = (
        attribute(m, word_pairs(), "z", "layer,pos,head").values.values for m in (model, left)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_neuron_scores_sum_to_the_mlp_where_it_is_linear_in_them():
    model = tiny("llama")
    contrast = contrast_of(model)
    at = linearise(model, contrast, ESTIMATORS["eap"], ["mlp_post", "mlp_out"])
    scores = unit_scores(model, contrast, at, ["mlp_post", "mlp_out"])
    torch.testing.assert_close(
        scores["mlp_post"].sum(-1), scores["mlp_out"][..., 0], atol=1e-5, rtol=1e-4
    )


def test_user_mistakes_are_told():
    model = tiny("llama")
    with pytest.raises(PlanError, match="Did you mean 'eap-ig'"):
        attribute_edges(model, word_pairs(), "eap-igs")
    with pytest.raises(PlanError, match="cannot take 3 steps"):
        attribute_edges(model, word_pairs(), "eap", steps=3)
    with pytest.raises(PlanError, match="no gradient at the clean run"):
        attribute_edges(model, word_pairs(), "eap", metric="kl")
    with pytest.raises(PlanError, match="cannot attribute to 'z' over"):
        attribute(model, word_pairs(), "z", "layer,neuron")
    with pytest.raises(PlanError, match="no edge"):
        Graph.of(model.arch).edge("a2.h0->a1.h0<q>")
    with pytest.raises(PlanError, match="no node"):
        Graph.of(model.arch).node("a9.h0")


def test_the_graph_counts_what_the_field_counts():
    counts = {(12, 12): 32_491, (26, 8): 74_218, (24, 14): 179_749, (32, 32): 1_592_881}
    for (layers, heads), n in counts.items():
        assert Graph(layers, heads, 8, False).n_edges == n
    graph = Graph(6, 4, 8, False)
    assert (graph.n_sources, graph.n_destinations, graph.n_edges) == (31, 79, 1108)
    assert len(set(graph.edge_names)) == graph.n_edges
    for name in graph.edge_names[::97]:
        assert graph.edge_name(*graph.edge(name)) == name


@pytest.mark.parametrize("family", ["gpt_neox", "gptj"])
def test_parallel_blocks_have_no_edge_from_heads_to_their_own_mlp(family: str):
    graph = Graph.of(tiny(family).arch)
    assert not graph.exists[graph.heads(1), graph.mlp_in(1)].any()
    assert graph.exists[graph.heads(0), graph.mlp_in(1)].all()
