"""A sweep over whole answers equals teacher-forced forward passes with hooks, cell by cell."""

import numpy as np
import pytest
import torch
from conftest import tiny
from whole_answers import RECORDS, Aliases, aliases_of, model_of, pairs

import interp
from interp.errors import InterpWarning, PlanError

FAMILIES = ["llama", "gemma3", "gpt2", "gpt_neox", "qwen2", "gptj", "mistral"]
METRICS = ("logit_diff", "logprob", "prob", "logprob_per_token", "rank")
WARNING = "1 tokens of clean and 3 of corrupt prompts, in 2 of 4 pairs, have no partner"


def naive(one: Aliases, site: str, layers, at, features, direction: str) -> dict[str, float]:
    """Every metric under one patch, each alias in a plain pass of its own."""
    side = "corrupt" if direction == "denoise" else "clean"

    def edits(alias):
        return [one.patched(alias, site, layer, features, at, side) for layer in layers]

    with torch.no_grad():
        return {name: float(value) for name, value in one.metrics(edits, side).items()}


def places(one: Aliases) -> dict[str, tuple[int, ...]]:
    """By hand, the clean positions of the places that a sweep over spans has."""
    span = one.pair.spans["s"]
    return {"s": span, "s_last": span[-1:], "last": (len(one.pair.clean) - 1,)}


@pytest.mark.parametrize(("side", "direction"), [("left", "denoise"), ("right", "noise")])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_positions(family: str, side: str, direction: str):
    model, site = model_of(family, side), "resid_pre"
    with pytest.warns(InterpWarning, match=WARNING):
        results = {
            m: interp.patch(model, pairs(), site, metric=m, direction=direction, layers=[0, 2])
            for m in METRICS
        }
    assert results["rank"].unpaired == ((0, 0), (0, 0), (1, 1), (0, 2))
    for i, one in enumerate(aliases_of(model)):
        for j, layer in enumerate([0, 2]):
            for pos in range(6):
                got = {name: float(result.values[i, j, pos]) for name, result in results.items()}
                if pos in one.partner:
                    want = naive(one, site, [layer], [pos], slice(None), direction)
                    assert got == pytest.approx(want, abs=1e-4), (i, layer, pos)
                else:
                    assert np.isnan(list(got.values())).all()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_spans_and_neurons(family: str, direction: str):
    model, options = model_of(family), {"direction": direction}
    d, groups = model.arch.d_head, [[0, 5], [3]]
    with pytest.warns(InterpWarning, match=WARNING):
        heads = interp.patch(model, pairs(), "z", "layer,head", layers=[1], **options)
        spans = interp.patch(model, pairs(), "mlp_out", "layer,span", layers=[0], **options)
        neurons = interp.patch(
            model, pairs(), "mlp_post", "neuron", at="s", neurons=groups, **options
        )
    for i, one in enumerate(aliases_of(model)):

        def want(*cell, one=one) -> float:
            return pytest.approx(naive(one, *cell, direction)["logit_diff"], abs=1e-4)

        everywhere = range(len(one.pair.clean))
        for head in range(model.arch.n_heads):
            own = slice(head * d, head * d + d)
            assert float(heads.values[i, 0, head]) == want("z", [1], everywhere, own)
        for place, at in places(one).items():
            got = float(spans.values.sel(span=place)[i, 0])
            assert got == want("mlp_out", [0], at, slice(None)), place
        for k, group in enumerate(groups):
            cell = ("mlp_post", range(model.arch.n_layers), places(one)["s"], group)
            assert float(neurons.values[i, k]) == want(*cell)


def test_first_tokens_alone_are_an_explicit_choice():
    model = tiny("gpt2")
    first = interp.patch(model, pairs(), "z", "layer", answers="first")
    (row,) = first.excluded
    assert row.reason == "answer and wrong_answer are the same token 'w30'."
    answers = [(0, ["w20", "w24"], "w21"), (2, "w40", "w42"), (3, "w50", "w51")]
    shorter = [RECORDS[i] | {"answer": a, "wrong_answer": b} for i, a, b in answers]
    alone = interp.patch(model, shorter, "z", "layer")
    np.testing.assert_allclose(first.values, alone.values, atol=1e-5)


def test_next_token_metrics_do_not_read_what_follows():
    model = tiny("gemma3")
    one_token = [row | {"answer": "w20", "wrong_answer": "w21"} for row in RECORDS]
    both = (interp.patch(model, rows, over="layer", metric="kl") for rows in (pairs(), one_token))
    np.testing.assert_allclose(*(found.values for found in both), atol=1e-5)


def test_a_model_that_reads_no_tree_runs_once_per_alias():
    model = tiny("gpt_neo")
    for metric in ("logit_diff", "rank", "logprob_per_token"):
        result = interp.patch(model, pairs(), "resid_pre", "layer,pos", metric=metric)
        for i, one in enumerate(aliases_of(model)):
            for pos in one.partner:
                want = naive(one, "resid_pre", [1], [pos], slice(None), "denoise")[metric]
                got = float(result.values[i, 1, pos])
                assert got == pytest.approx(want, abs=1e-4), (metric, i, pos)
    swept = interp.sweep_plans(model, pairs(), {"none": ()}, "logit_diff")
    clean = interp.patch(model, pairs(), "z", "layer").clean
    np.testing.assert_allclose(swept[:, 0], clean, atol=1e-4)
    with pytest.raises(PlanError, match="several answers of several tokens.*answers='first'"):
        interp.ablate(model, pairs(), "a1.h2", n_random=0)
    # a single continuation does not branch
    row = {"clean": "w1 w2 w3", "corrupt": "w4 w2 w3", "answer": "w5 w6 w7", "wrong_answer": "w8"}
    rows = interp.PromptPairs.from_records([row])
    result, (one,) = interp.patch(model, rows), aliases_of(model, rows)
    for pos in range(3):
        want = naive(one, "resid_pre", [1], [pos], slice(None), "denoise")["logit_diff"]
        assert float(result.values[0, 1, pos]) == pytest.approx(want, abs=1e-4)
