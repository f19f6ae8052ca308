"""Attribution to whole answers, and of unequal prompts, against plain teacher-forced forwards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from whole_answers import FIVE, PARTNERS, Aliases, kept, model_of, pairs, plain

import interp
from circuits.discovery.evaluator import Evaluator, prepared
from interp.attribution.attribute import attribute, attribute_edges, attribute_nodes, attribute_to
from interp.attribution.contrast import contrasts
from interp.attribution.edges import edge_scores
from interp.attribution.estimators import ESTIMATORS
from interp.attribution.exact import path_patch
from interp.errors import InterpWarning, PlanError
from interp.forward.masked import run_masked
from interp.model.graph import Graph
from interp.model.model import Model
from interp.model.sites import SITES

WARNING = "1 tokens of clean and 3 of corrupt prompts, in 2 of 4 pairs, have no partner"
BOTH_SIDES = [(family, side) for family in FIVE for side in ("left", "right")]


def aliases_of(model: Model) -> list[Aliases]:
    return [Aliases(model, *both) for both in zip(kept(model), PARTNERS, strict=True)]


def head(model: Model, number: int) -> slice:
    return slice(number * model.arch.d_head, (number + 1) * model.arch.d_head)


# --- exact effects -------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "side"), BOTH_SIDES)
def test_exact_nodes_are_plain_forwards(family: str, side: str):
    model = model_of(family, side)
    with pytest.warns(InterpWarning, match=WARNING):
        found = attribute_nodes(model, pairs(), "exact")
    assert found.summary()["warnings"] == list(found.warnings)
    nodes = {"a0.h1": ("z", 0, head(model, 1)), "a2.h3": ("z", 2, head(model, 3))}
    nodes |= {"m1": ("mlp_out", 1, slice(None)), "input": ("resid_pre", 0, slice(None))}
    with torch.no_grad():
        for i, one in enumerate(aliases_of(model)):
            clean, corrupt = one.logit_diff(), one.logit_diff(side="corrupt")
            assert float(found.clean[i]) == pytest.approx(float(clean), abs=1e-4)
            assert float(found.corrupt[i]) == pytest.approx(float(corrupt), abs=1e-4)
            for name, place in nodes.items():
                without = one.logit_diff(lambda alias, p=place, one=one: [one.patched(alias, *p)])
                got = float(found.values[i].sel(node=name))
                assert got == pytest.approx(float(clean - without), abs=1e-4), (name, i)


def change_of(one: Aliases, alias, source: str) -> Tensor:
    """Corrupt minus clean of what a head or the embedding writes to the residual stream."""
    model = one.model
    if source == "input":
        clean, corrupt = one.both(alias, "resid_pre", 0)
        return corrupt - clean
    if source[0] == "m":
        clean, corrupt = one.both(alias, "mlp_out", int(source[1:]))
        return corrupt - clean
    layer, number = int(source[1]), int(source[4])
    clean, corrupt = one.both(alias, "z", layer)
    own, moved = head(model, number), clean.clone()
    moved[:, own] = corrupt[:, own]
    module, _ = model.point(SITES["z"], layer)
    before, after = module(clean), module(moved)
    path = model.parts(layer).ln1_post
    if path is not None:
        norm = model.blocks[layer].get_submodule(path)
        before, after = norm(before), norm(after)
    return after - before


def cut(one: Aliases, alias, source: str, destination: str):
    """What hooks do where one edge is cut: its destination reads the source's corrupt write."""
    model, change = one.model, change_of(one, alias, source)
    if destination == "logits":
        return [("resid_post", model.arch.n_layers - 1, lambda x: x.add_(change))]
    layer = int(destination[1])
    block, parts = model.blocks[layer], model.parts(layer)
    if destination[0] == "m":
        site = "resid_pre" if parts.parallel else "resid_mid"
        clean, _ = one.both(alias, site, layer)
        out = block.get_submodule(parts.mlp)(block.get_submodule(parts.ln2)((clean + change)[None]))
        if parts.ln2_post is not None:
            out = block.get_submodule(parts.ln2_post)(out)
        return [("mlp_out", layer, lambda x: x.copy_(out[0]))]
    part, own = destination[6], head(model, int(destination[4]))
    clean, _ = one.both(alias, "resid_pre", layer)
    module, point = model.point(SITES[part], layer)
    values = module(block.get_submodule(parts.ln1)((clean + change)[None]))[0]
    values = values if point.features is None else values[:, point.features]

    def put(activation: Tensor) -> None:
        activation[0, :, own] = values[:, own]

    return [(part, layer, put)]


EDGES = ["input->a1.h2<q>", "a0.h1->a2.h3<q>", "m0->m2", "a1.h0->m1", "a0.h2->logits", "m1->logits"]
OF_VALUES = ["input->a0.h1<k>", "a0.h1->a1.h2<v>", "m0->a2.h0<k>"]


@pytest.mark.parametrize(("family", "side"), BOTH_SIDES)
def test_exact_edges_are_plain_forwards(family: str, side: str):
    model = model_of(family, side)
    edges = [*EDGES, *(OF_VALUES if model.arch.n_kv_heads == model.arch.n_heads else ())]
    if model.parts(0).parallel:
        edges.remove("a1.h0->m1")  # which reads the same stream as the attention beside it
    effects = path_patch(model, pairs(), edges)
    with torch.no_grad():
        for i, one in enumerate(aliases_of(model)):
            clean = one.logit_diff()
            for name in edges:
                both = name.split("->")
                without = one.logit_diff(lambda a, one=one, both=both: cut(one, a, *both))
                got = float(effects[i].sel(path=name))
                assert got == pytest.approx(float(clean - without), abs=1e-4), (name, i)


@pytest.mark.parametrize("family", ["gemma3", "gpt_neox"])
def test_all_edges_at_once_are_single_paths(family: str):
    model = model_of(family)
    with pytest.warns(InterpWarning, match=WARNING):
        scores = attribute_edges(model, pairs(), "exact")
    names = [str(name) for name in scores.values.coords["edge"].values[::23]]
    paths = path_patch(model, pairs(), names)
    np.testing.assert_allclose(scores.values.sel(edge=names), paths, atol=1e-5)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "side"), BOTH_SIDES)
def test_eap_is_autograd_through_the_plain_model(family: str, side: str):
    model = model_of(family, side)
    with pytest.warns(InterpWarning):
        units = {s: attribute(model, pairs(), s, method="eap") for s in ("z", "resid_pre")}
        nodes = attribute_nodes(model, pairs(), "eap")
    for i, one in enumerate(aliases_of(model)):
        want, whole = _by_autograd(model, one)
        n = len(one.pair.clean)
        for site, values in units.items():
            got = values.values.values[i]
            assert np.isnan(got[:, n:]).all()
            without = [p for p in range(n) if p not in one.partner]
            assert np.isnan(got[:, without]).all()
            for (layer, pos), score in want[site].items():
                assert got[layer, pos] == pytest.approx(score, abs=1e-4), (site, i, layer, pos)
        assert float(nodes.values[i].sel(node="input")) == pytest.approx(whole, abs=1e-4)


def _by_autograd(model: Model, one: Aliases) -> tuple[dict[str, dict], float]:
    """Scores at each prompt token; and the embedding's, at the tokens of answers, too."""
    held: dict[tuple, list[Tensor]] = {}

    def edits(alias):
        def keep(site: str, layer: int):
            def own(activation: Tensor) -> None:
                held.setdefault((site, layer), []).append(activation)

            return site, layer, own

        layers = range(model.arch.n_layers)
        return [keep(site, layer) for site in ("z", "resid_pre") for layer in layers]

    with torch.enable_grad():
        embed = model.hf.get_input_embeddings().weight
        embed.requires_grad_(True)
        try:
            total = one.logit_diff(edits)
            flat = [x for values in held.values() for x in values]
            slopes = iter(torch.autograd.grad(total, flat, allow_unused=True))
        finally:
            embed.requires_grad_(False)
    scores: dict[str, dict] = {"z": {}, "resid_pre": {}}
    whole = 0.0
    for (site, layer), values in held.items():
        for (_, alias), value in zip(one.listed, values, strict=True):
            slope = next(slopes)
            clean, corrupt = one.both(alias, site, layer)
            slope = torch.zeros_like(value) if slope is None else slope
            score = ((clean - corrupt) * slope.view(clean.shape)).sum(-1)
            for pos in one.partner:
                at = (layer, pos)
                scores[site][at] = scores[site].get(at, 0.0) + float(score[pos])
            if (site, layer) == ("resid_pre", 0):
                whole += float(score.sum())
    return scores, whole


@pytest.mark.parametrize("family", FIVE)
def test_eap_edges_are_the_gradient_of_the_masked_run(family: str):
    model = model_of(family)
    graph = Graph.of(model.arch)
    (contrast,) = contrasts(model, kept(model))
    ablated = prepared(model, [contrast], "resample")[0][0][1]
    mask = graph.exists.float().requires_grad_(True)
    resid = run_masked(model, contrast.calls, contrast.clean, mask, ablated)
    found = torch.stack(list(edge_scores(model, contrast, ESTIMATORS["eap"])))
    for i, value in enumerate(contrast.read(resid, contrast.pair)):
        (slope,) = torch.autograd.grad(value, mask, retain_graph=True)
        want = slope.double()[graph.exists]
        torch.testing.assert_close(found[i][graph.exists], want, atol=2e-4, rtol=1e-3)


# --- methods -------------------------------------------------------------------------------------


def test_the_discrete_gradient_adds_up_where_every_token_has_a_partner():
    model = model_of("llama")
    found = attribute_edges(model, pairs()[:2])
    assert found.convergence == pytest.approx(1, abs=1e-3)
    assert found.warnings == ()
    one = attribute_nodes(model, pairs()[:2], metric="logprob")
    gap, total = float((one.clean - one.corrupt).mean()), one.values.sel(node="input").mean()
    assert float(total) == pytest.approx(gap, rel=1e-3)


@pytest.mark.parametrize("method", [*ESTIMATORS, "eap-qk", "grad-drop"])
def test_every_method_takes_whole_answers_and_unequal_prompts(method: str):
    model = model_of("qwen2")
    with pytest.warns(InterpWarning, match="no partner"):
        scores = attribute(model, pairs(), "q", ("layer", "pos", "head"), method)
    empty = np.isnan(scores.values.values).all((1, 3))
    assert empty.tolist() == [
        [False] * 5 + [True],
        [False] * 4 + [True] * 2,
        [False] * 2 + [True] + [False] * 3,
        [False] * 4 + [True] * 2,
    ]


@pytest.mark.parametrize("method", ["eap-ig", "eap-ig-activations", "eap-qk", "eap-dg"])
def test_edges_of_whole_answers_approximate_their_exact_effects(method: str):
    """Not equal, but of one mind: the correlation over edges that matter is high."""
    model = model_of("llama")
    with pytest.warns(InterpWarning, match="no partner"):
        exact, found = (attribute_edges(model, pairs(), m).mean() for m in ("exact", method))
    assert float(np.corrcoef(exact, found)[0, 1]) > 0.5


def test_the_first_token_is_an_explicit_choice():
    model = model_of("gpt2")
    records = [{k: v for k, v in one.items() if k != "spans"} for one in _first_tokens()]
    alone = attribute_edges(model, records, "eap")
    first = attribute_edges(model, _whole_of(records), "eap", answers="first")
    np.testing.assert_allclose(first.values, alone.values, atol=1e-6)
    whole = attribute_edges(model, _whole_of(records), "eap")
    assert (first.answers, whole.answers) == ("first token of each", "whole (2 to 3 tokens)")
    assert not np.allclose(whole.values, alone.values, atol=1e-3)
    with pytest.raises(PlanError, match="choose 'whole' or 'first'"):
        attribute_edges(model, records, answers="last")  # pyright: ignore[reportArgumentType]


def _first_tokens() -> list[dict]:
    prompts = {"clean": "w1 w2 w3", "corrupt": "w1 w9 w3"}
    return [prompts | {"answer": "w20", "wrong_answer": "w21"}]


def _whole_of(records: list[dict]) -> list[dict]:
    return [one | {"answer": "w20 w30 w31", "wrong_answer": "w21 w32"} for one in records]


def test_a_model_that_cannot_read_gaps_is_refused():
    model = model_of("gpt_neo")
    with pytest.raises(PlanError, match="prompts of unequal length are laid side by side"):
        attribute_edges(model, pairs()[3:], "eap")


def test_pairs_that_a_model_cannot_read_are_left_out_with_the_reason(tmp_path: Path):
    model = model_of("gpt_neo")
    mixed, alone = pairs(), pairs()[1:2]  # what the second's answers have in common is a chain
    one, other = (attribute_nodes(model, data, "exact") for data in (mixed, alone))
    np.testing.assert_array_equal(one.values, other.values)
    assert not one.warnings
    reasons = {row.id: row.reason for row in one.excluded}
    assert list(one.values.coords["pair"]) == [alone[0].id]
    assert ["several answers" in why for why in reasons.values()] == [True, False, False]
    assert ["unequal length" in why for why in reasons.values()] == [False, True, True]
    in_shards = attribute_to(model, mixed, "nodes", method="exact", out=tmp_path / "run")
    assert in_shards.excluded == one.excluded
    found = Evaluator.of(model, mixed)
    assert (found.ids, found.excluded) == ((alone[0].id,), one.excluded)
    # the right answer alone does not branch
    assert not attribute_nodes(model, mixed[:2], "eap", metric="logprob").excluded


def test_patching_and_attribution_agree_to_first_order():
    """Small steps: prompts that differ in one token whose embedding is nearly the other's."""
    model = model_of("llama")
    with torch.no_grad():
        rows = model.hf.get_input_embeddings().weight
        ids = [model.encode(word)[-1] for word in ("w7", "w9", "w8", "w11")]
        before = rows[ids].clone()
        rows[ids[1:]] = rows[ids[0]] + 1e-3 * torch.randn(3, rows.shape[1])
    try:
        record = {"clean": "w1 w7 w3 w4", "corrupt": "w1 w9 w3 w4"}
        record |= {"answer": ["w20 w22 w23", "w24"], "wrong_answer": "w21 w25"}
        for site in ("z", "mlp_out", "resid_post"):
            first = attribute(model, [record], site, method="eap")
            effect = interp.patch(model, [record], site, direction="noise")
            step = (effect.clean - effect.values).values
            np.testing.assert_allclose(first.values.values, step, atol=2e-5)
            assert np.abs(step).max() > 2e-4
    finally:
        with torch.no_grad():
            rows[ids] = before
    assert plain(model, model.encode("w1 w2")).shape[0] == 2
