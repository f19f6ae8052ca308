"""Path patching: one edge is that edge; longer paths against two masked runs put together."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import tiny, word_pairs
from test_attribution import contrast_of, metric_with, resampled, swapped

import interp
from interp.attribution.exact import exact_edges, parse_path, path_effects
from interp.errors import PlanError
from interp.forward.blocks import head_writes
from interp.forward.hooks import hooked
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import SITES


def test_a_path_of_one_edge_is_that_edge(tiny_model: Model):
    contrast, graph = contrast_of(tiny_model), Graph.of(tiny_model.arch)
    names = ["input->a1.h2<k>", "a0.h1->m1", "m0->a2.h3<q>", "a1.h0->a2.h1<v>", "m1->logits"]
    found = path_effects(tiny_model, contrast, [parse_path(graph, name) for name in names])
    want = exact_edges(tiny_model, contrast, [graph.edge(name) for name in names])
    torch.testing.assert_close(found, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "path", ["input->m0->a2.h1<q>", "a0.h1->a1.h2<v>->m2", "m0->a1.h3<k>->logits"]
)
def test_two_steps_are_two_masked_runs(tiny_model: Model, path: str):
    """The first run gives the middle node's changed write, the second reads it at one place."""
    if tiny_model.arch.adapter == "Olmo2ArchitectureAdapter" and "<k>" in path:
        pytest.skip("OLMo-2 norms keys of all heads together, so heads are not separate")
    contrast, graph = contrast_of(tiny_model), Graph.of(tiny_model.arch)
    first, middle, last = parse_path(graph, path)
    node = int(graph.owner[middle])
    site = "mlp_out" if graph.sources[node].startswith("m") else "z"
    layer = (node - 1) // (graph.n_heads + 1)
    kept: list[torch.Tensor] = []
    keep = [(SITES[site], layer, lambda a: kept.append(a.clone()))]
    clean_as_other = resampled(tiny_model, swapped(contrast))
    mask = graph.exists.float()
    mask[first, middle] = 0
    with torch.no_grad():
        with hooked(tiny_model, keep):
            metric_with(tiny_model, contrast, mask, resampled(tiny_model, contrast))
        changed = list(getattr(clean_as_other, site))
        own = slice(None)
        if site == "z":
            d, head = tiny_model.arch.d_head, node - graph.heads(layer).start
            own = slice(head * d, (head + 1) * d)
        changed[layer] = changed[layer].clone()
        changed[layer][..., own] = kept[-1][..., own]
        ablated = dataclasses.replace(clean_as_other, **{site: changed})
        cut = graph.exists.float()
        cut[node, last] = 0
        full = metric_with(tiny_model, contrast, graph.exists.float(), ablated)
        want = full - metric_with(tiny_model, contrast, cut, ablated)
    found = path_effects(tiny_model, contrast, [(first, middle, last)])[:, 0]
    torch.testing.assert_close(found, want, atol=1e-5, rtol=0)


def test_path_patch_is_labelled_and_signed():
    model = tiny("llama")
    paths = ["m0->logits", "input->m0->logits"]
    found = interp.path_patch(model, word_pairs(), paths)
    assert found.dims == ("pair", "path")
    assert found.coords["path"].values.tolist() == paths
    assert np.abs(found.values).max() > 1e-4


def test_bad_paths_are_named():
    graph = Graph.of(tiny("llama").arch)
    for path, says in (
        ("m0", "has no step"),
        ("m1->m0", "computed before m1 writes"),
        ("m0->logits->m1", "goes on after the logits"),
        ("m0->a1.h0", "no edge"),
        ("x->m1", "no node 'x'"),
    ):
        with pytest.raises(PlanError, match=says):
            parse_path(graph, path)


def test_heads_write_through_their_own_columns(tiny_model: Model):
    z = torch.randn(1, 2, tiny_model.width(SITES["z"]))
    module, _ = tiny_model.point(SITES["z"], 0)
    bias = module(torch.zeros_like(z))
    torch.testing.assert_close(
        head_writes(tiny_model, 0, z).sum(1) + bias, module(z), atol=1e-5, rtol=1e-4
    )
