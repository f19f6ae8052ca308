"""A sweep over whole answers equals teacher-forced forward passes with hooks, cell by cell."""

import dataclasses

import numpy as np
import pytest
import torch
from answer_examples import by_definition, ids_with, long_pairs
from conftest import tiny, word_tokenizer

import interp
from interp.bench.baselines import activation, patched_logits
from interp.data.pairs import TokenPair, tokenise
from interp.errors import PlanError
from interp.model.model import Model
from interp.model.sites import SITES

FAMILIES = ["llama", "gemma3", "gpt2", "gpt_neox", "qwen2", "gptj", "mistral"]


def naive(model: Model, pair: TokenPair, site, layers, positions, features, direction: str):
    """Every metric under one patch, each alias in a plain pass of its own."""
    base, other = pair.clean, pair.corrupt
    if direction == "denoise":
        base, other = other, base

    def logits_behind(tokens: tuple[int, ...]) -> torch.Tensor:
        ids, from_ids = (ids_with(model, prompt, tokens) for prompt in (base, other))
        source = {layer: activation(model, site, layer, from_ids) for layer in layers}
        return patched_logits(model, ids, site, layers, positions, features, source)[0]

    return by_definition(pair, logits_behind)


def places(pair: TokenPair, name: str) -> list[int]:
    return [clean for clean, _ in pair.matched(name)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_positions(family: str, side: str):
    model = dataclasses.replace(tiny(family), tokenizer=word_tokenizer(side))
    pairs = long_pairs()
    kept, _ = tokenise(model, pairs)
    site = SITES["resid_pre"]
    names = ("logit_diff", "logprob", "prob", "logprob_per_token", "rank")
    results = {m: interp.patch(model, pairs, "resid_pre", metric=m, layers=[0, 2]) for m in names}
    for i, pair in enumerate(kept):
        for j, layer in enumerate([0, 2]):
            for pos in range(len(pair.clean)):
                want = naive(model, pair, site, [layer], [pos], None, "denoise")
                for name, result in results.items():
                    got = float(result.values[i, j, pos])
                    assert got == pytest.approx(want[name], abs=1e-4), (name, i, layer, pos)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_spans_and_neurons(family: str, direction: str):
    model, pairs = tiny(family), long_pairs()
    kept, _ = tokenise(model, pairs)
    d = model.arch.d_head
    heads = interp.patch(model, pairs, "z", "layer,head", direction=direction, layers=[1])
    spans = interp.patch(model, pairs, "mlp_out", "layer,span", direction=direction, layers=[0])
    groups = [[0, 5], [3]]
    neurons = interp.patch(
        model, pairs, "mlp_post", "neuron", direction=direction, at="s", neurons=groups
    )
    for i, pair in enumerate(kept):
        for head in range(model.arch.n_heads):
            features = range(head * d, head * d + d)
            want = naive(model, pair, SITES["z"], [1], range(len(pair.clean)), features, direction)
            assert float(heads.values[i, 0, head]) == pytest.approx(want["logit_diff"], abs=1e-4)
        for j, place in enumerate(spans.values.coords["span"].values):
            cell = (SITES["mlp_out"], [0], places(pair, str(place)), None, direction)
            want = naive(model, pair, *cell)["logit_diff"]
            assert float(spans.values[i, 0, j]) == pytest.approx(want, abs=1e-4)
        for k, group in enumerate(groups):
            layers = range(model.arch.n_layers)
            cell = (SITES["mlp_post"], layers, places(pair, "s"), group, direction)
            want = naive(model, pair, *cell)["logit_diff"]
            assert float(neurons.values[i, k]) == pytest.approx(want, abs=1e-4)


def test_any_batch_split_gives_the_same_numbers():
    model = tiny("llama")
    whole = interp.patch(model, long_pairs(), "resid_mid", "pos")
    for budget in (1, 60, 300):
        part = interp.patch(model, long_pairs(), "resid_mid", "pos", tokens_at_once=budget)
        np.testing.assert_allclose(part.values, whole.values, atol=1e-5)


def test_first_tokens_alone_are_an_explicit_choice():
    model = tiny("gpt2")
    first = interp.patch(model, long_pairs(), "z", "layer", answers="first")
    assert [row.reason for row in first.excluded] == [
        "answer and wrong_answer are the same token 'w40'.",
        "answer and wrong_answer are the same token 'w51'.",
    ]
    shorter = [
        {"clean": p.clean, "corrupt": p.corrupt, "answer": a, "wrong_answer": b}
        for p, (a, b) in zip(long_pairs(), [("w20", "w21"), ("w30", "w32")], strict=False)
    ]
    np.testing.assert_allclose(
        first.values, interp.patch(model, shorter, "z", "layer").values, atol=1e-5
    )


def test_next_token_metrics_do_not_read_what_follows():
    model = tiny("gemma3")
    kl = interp.patch(model, long_pairs(), "resid_pre", "layer", metric="kl")
    one_token = [
        {"clean": p.clean, "corrupt": p.corrupt, "answer": "w20", "wrong_answer": "w21"}
        for p in long_pairs()
    ]
    same = interp.patch(model, one_token, "resid_pre", "layer", metric="kl")
    np.testing.assert_allclose(kl.values, same.values, atol=1e-5)


def test_a_model_that_reads_no_tree_runs_once_per_alias():
    model, pairs = tiny("gpt_neo"), long_pairs()
    kept, _ = tokenise(model, pairs)
    for metric in ("logit_diff", "rank", "logprob_per_token"):
        result = interp.patch(model, pairs, "resid_pre", "layer,pos", metric=metric)
        for i, pair in enumerate(kept):
            for pos in range(7):
                got = float(result.values[i, 1, pos])
                if pos >= len(pair.clean):
                    assert np.isnan(got)
                    continue
                want = naive(model, pair, SITES["resid_pre"], [1], [pos], None, "denoise")
                assert got == pytest.approx(want[metric], abs=1e-4), (metric, i, pos)
    swept = interp.sweep_plans(model, pairs, {"none": ()}, "logit_diff")
    np.testing.assert_allclose(
        swept[:, 0], interp.patch(model, pairs, "z", "layer").clean, atol=1e-4
    )
    with pytest.raises(PlanError, match="several answers of several tokens.*answers='first'"):
        interp.ablate(model, pairs, "a1.h2", n_random=0)
    # a single continuation does not branch
    row = {"clean": "w1 w2 w3", "corrupt": "w4 w2 w3", "answer": "w5 w6 w7", "wrong_answer": "w8"}
    result = interp.patch(model, [row], "resid_pre", "layer,pos")
    (pair,), _ = tokenise(model, interp.PromptPairs.from_records([row]))
    for pos in range(3):
        want = naive(model, pair, SITES["resid_pre"], [1], [pos], None, "denoise")["logit_diff"]
        assert float(result.values[0, 1, pos]) == pytest.approx(want, abs=1e-4)
