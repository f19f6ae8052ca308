"""Attribution to whole answers, and of unequal prompts, against plain teacher-forced forwards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_hf, word_tokenizer
from test_attribution import metric_with
from torch import Tensor
from whole_answers import FIVE, Aliases, aliases_of, kept, model_of, pairs

import interp
from circuits.discovery.evaluator import Evaluator, prepared
from interp.attribution.attribute import (
    attribute,
    attribute_edges,
    attribute_nodes,
    attribute_to,
    edges_by,
)
from interp.attribution.contrast import contrasts
from interp.attribution.estimators import ESTIMATORS
from interp.attribution.exact import exact_edges, path_patch
from interp.errors import InterpWarning, PlanError
from interp.forward.masked import run_masked
from interp.model.graph import Graph
from interp.model.model import Model

WARNING = "1 tokens of clean and 3 of corrupt prompts, in 2 of 4 pairs, have no partner"
BOTH_SIDES = [(family, side) for family in FIVE for side in ("left", "right")]


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


@pytest.mark.parametrize(("family", "side"), BOTH_SIDES)
def test_exact_edges_are_masked_runs_without_them(family: str, side: str):
    """Whose nodes are plain forwards: `test_whole_answer_circuits`."""
    model = model_of(family, side)
    graph = Graph.of(model.arch)
    (contrast,) = contrasts(model, kept(model))
    ablated = prepared(model, [contrast], "resample")[0][0][1]
    edges = [(int(s), int(d)) for s, d in graph.exists.nonzero()[::29]]
    effects = exact_edges(model, contrast, edges)
    with torch.no_grad():
        full = metric_with(model, contrast, graph.exists.float(), ablated)
        for effect, edge in zip(effects.T, edges, strict=True):
            mask = graph.exists.float()
            mask[edge] = 0
            want = full - metric_with(model, contrast, mask, ablated)
            torch.testing.assert_close(effect, want, atol=1e-4, rtol=0)


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
    found = torch.stack(list(edges_by(model, contrast, "eap")[0]))
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
    for metric in ("logprob", "prob"):
        one = attribute_nodes(model, pairs()[:2], metric=metric)
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
    prompts = {"clean": "w1 w2 w3", "corrupt": "w1 w9 w3"}
    records = [prompts | {"answer": "w20", "wrong_answer": "w21"}]
    longer = [prompts | {"answer": "w20 w30 w31", "wrong_answer": "w21 w32"}]
    alone = attribute_edges(model, records, "eap")
    first = attribute_edges(model, longer, "eap", answers="first")
    np.testing.assert_allclose(first.values, alone.values, atol=1e-6)
    whole = attribute_edges(model, longer, "eap")
    assert (first.answers, whole.answers) == ("first token of each", "whole (2 to 3 tokens)")
    assert not np.allclose(whole.values, alone.values, atol=1e-3)
    with pytest.raises(PlanError, match="choose 'whole' or 'first'"):
        attribute_edges(model, records, answers="last")  # pyright: ignore[reportArgumentType]


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
    model = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    with torch.no_grad():
        rows = model.hf.get_input_embeddings().weight
        ids = [model.encode(word)[-1] for word in ("w7", "w9", "w8", "w11")]
        rows[ids[1:]] = rows[ids[0]] + 1e-3 * torch.randn(3, rows.shape[1])
    record = {"clean": "w1 w7 w3 w4", "corrupt": "w1 w9 w3 w4"}
    record |= {"answer": ["w20 w22 w23", "w24"], "wrong_answer": "w21 w25"}
    for site in ("z", "mlp_out", "resid_post"):
        first = attribute(model, [record], site, method="eap")
        effect = interp.patch(model, [record], site, direction="noise")
        step = (effect.clean - effect.values).values
        np.testing.assert_allclose(first.values.values, step, atol=2e-5)
        assert np.abs(step).max() > 2e-4
