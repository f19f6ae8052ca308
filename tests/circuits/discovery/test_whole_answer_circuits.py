"""Circuits on whole answers and unequal prompts, against plain teacher-forced forwards."""

import numpy as np
import pytest
import torch
from whole_answers import FIVE, RECORDS, Aliases, aliases_of, kept, model_of, pairs, recorded

from circuits.discovery import Circuit, evaluate, faithfulness
from circuits.discovery.circuit import all_edges
from circuits.discovery.discovery_settings import DiscoverySettings
from circuits.discovery.evaluator import Evaluator
from circuits.discovery.search import discover
from interp.attribution.attribute import attribute_edges
from interp.errors import InterpWarning
from interp.model.graph import Graph
from interp.model.model import Model

OUT = ["a0.h1", "a1.h0", "a2.h3", "m1"]


def without(model: Model, nodes: list[str]) -> Circuit:
    """All edges but those of some nodes."""
    graph = Graph.of(model.arch)
    edges = graph.exists.clone()
    edges[[graph.node(name) for name in nodes]] = False
    return Circuit(graph, edges)


def patched(one: Aliases, alias, nodes: list[str]):
    """Each node's activation in place of its own, by a hook each."""
    d, edits = one.model.arch.d_head, []
    for name in nodes:
        layer = int(name[1]) if name != "input" else 0
        site, own = {"m": "mlp_out", "i": "resid_pre"}.get(name[0], "z"), slice(None)
        if name[0] == "a":
            own = slice(int(name[4:]) * d, (int(name[4:]) + 1) * d)
        edits.append(one.patched(alias, site, layer, own))
    return edits


@pytest.mark.parametrize(("family", "side"), [(f, s) for f in FIVE for s in ("left", "right")])
def test_a_circuit_is_a_plain_forward_with_the_rest_resampled(family: str, side: str):
    model = model_of(family, side)
    test = Evaluator.of(model, pairs())
    assert (test.unpaired, test.excluded) == (((0, 0), (0, 0), (1, 1), (0, 2)), ())
    got = test.metric_of(without(model, OUT))
    everything = [name for name in test.graph.sources if name != "logits"]
    with torch.no_grad():
        for i, one in enumerate(aliases_of(model)):
            wants = [
                one.logit_diff(),
                one.logit_diff(lambda alias, one=one: patched(one, alias, OUT)),
                one.logit_diff(lambda alias, one=one: patched(one, alias, everything)),
            ]
            for found, want in zip((test.full, got, test.empty), wants, strict=True):
                assert found[i] == pytest.approx(float(want), abs=1e-4), i


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_means_are_over_the_tokens_of_corrupt_prompts(ablation: str):
    model = model_of("llama")
    test = Evaluator.of(model, pairs(), ablation=ablation)  # pyright: ignore[reportArgumentType]
    assert test.unpaired == ()
    got, rows, own = test.metric_of(without(model, ["m1", "a0.h2"])), kept(model), slice(16, 24)
    values = {}
    for site, layer in (("mlp_out", 1), ("z", 0)):
        tokens = torch.cat([recorded(model, pair.corrupt, site, layer) for pair in rows])
        values[site] = tokens.mean(0) if ablation == "mean" else torch.zeros(tokens.shape[1])
    edits = [
        ("mlp_out", 1, lambda x: x.copy_(values["mlp_out"].expand_as(x))),
        ("z", 0, lambda x: x[0, :, own].copy_(values["z"][own].expand(x.shape[1], -1))),
    ]
    with torch.no_grad():
        for i, one in enumerate(aliases_of(model)):
            want = one.logit_diff(lambda _: edits)
            assert got[i] == pytest.approx(float(want), abs=1e-4)


def test_neurons_of_tokens_without_a_partner_stay():
    model = model_of("qwen2")
    test, kept_neurons = Evaluator.of(model, pairs()), tuple(range(0, 56, 2))
    every = all_edges(test.graph)
    circuit = Circuit(every.graph, every.edges, neurons={"m1": kept_neurons})
    got = test.metric_of(circuit)
    with torch.no_grad():
        for i, one in enumerate(aliases_of(model)):

            def edits(alias, one=one):
                return [one.patched(alias, "mlp_post", 1, slice(1, None, 2))]

            assert got[i] == pytest.approx(float(one.logit_diff(edits)), abs=1e-4)


def test_discovery_and_evaluation_of_whole_answers(tmp_path):
    model = model_of("llama")
    with pytest.warns(InterpWarning, match="no partner"):
        scores = attribute_edges(model, pairs(), "eap")
        found = discover(model, pairs(), DiscoverySettings(method="eap", size="60"))
    assert 0 < found.n_edges <= 60
    longer = [
        {**one, "clean": f"w80 {one['clean']}", "corrupt": f"w80 {one['corrupt']}"}
        for one in RECORDS
    ]
    test = Evaluator.of(model, longer)
    whole = faithfulness(test, scores, grid=(0.1, 1.0), progress=False)
    assert "1 tokens of clean and 3 of corrupt" in whole.warnings[0]
    np.testing.assert_allclose(whole.curves["metric"].sel(k=1.0)[0], test.full, atol=1e-5)
    done = evaluate(test, found, n_random=2, progress=False)
    assert done.summary()["warnings"] == list(done.warnings)
    assert done.summary()["answers"] == whole.answers == "whole (1 to 6 tokens)"
    assert type(done).load(done.save(tmp_path / "e")).warnings == done.warnings
    assert "no partner" in done._repr_html_()
    first = discover(model, pairs(), DiscoverySettings(method="eap", size="60", answers="first"))
    assert not torch.equal(first.edges, found.edges)


def test_acdc_runs_on_whole_answers():
    model = model_of("gpt2")
    settings = DiscoverySettings(select="acdc", threshold=0.0, size="40", method="eap")
    with pytest.warns(InterpWarning, match="no partner"):
        found = discover(model, pairs(), settings)
    assert 0 < found.n_edges <= 40
