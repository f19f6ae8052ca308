"""The one-pass sweep equals one forward pass a cell, on every family, site and padding side."""

import copy
import dataclasses
from itertools import cycle

import numpy as np
import pytest
import torch
from conftest import FAMILIES, hooks_left, tiny, word_pairs, word_tokenizer

import interp
from interp.bench.baselines import activation, patched_logits
from interp.data.pairs import TokenPair, tokenise
from interp.errors import DataError, DegenerateGap, PlanError
from interp.model.model import Model
from interp.model.sites import SITES, Site


def naive(
    model: Model, pair: TokenPair, site: Site, layers, positions, features, direction: str
) -> torch.Tensor:
    """Final logits of one intervention by a plain hooked forward pass."""
    clean, corrupt = (torch.tensor([ids]) for ids in (pair.clean, pair.corrupt))
    base, other = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    source = {layer: activation(model, site, layer, other) for layer in layers}
    return patched_logits(model, base, site, layers, positions, features, source)[0, -1]


def naive_logit_diff(model: Model, pair: TokenPair, *cell) -> float:
    logits = naive(model, pair, *cell)
    return float(logits[pair.answer] - logits[pair.wrong_answer])


@pytest.mark.parametrize(("family", "side"), zip(FAMILIES, cycle(["left", "right"]), strict=False))
def test_every_site_by_layer_and_position(family: str, side: str):
    model = dataclasses.replace(tiny(family), tokenizer=word_tokenizer(side))
    pairs = word_pairs()
    kept, _ = tokenise(model, pairs)
    for name in model.arch.sites:
        result = interp.patch(model, pairs, site=name, over="layer,pos")
        for i, pair in enumerate(kept):
            clean, corrupt = (torch.tensor([ids]) for ids in (pair.clean, pair.corrupt))
            for layer in range(model.arch.n_layers):
                source = {layer: activation(model, SITES[name], layer, clean)}
                for pos in range(len(pair.clean)):
                    cell = (SITES[name], [layer], [pos], None, source)
                    logits = patched_logits(model, corrupt, *cell)[0, -1]
                    want = float(logits[pair.answer] - logits[pair.wrong_answer])
                    got = result.values.values[i, layer, pos]
                    assert got == pytest.approx(want, abs=1e-4), (name, i, layer, pos)
            assert np.isnan(result.values.values[i, :, len(pair.clean) :]).all()


@pytest.mark.parametrize("name", ["z", "q", "k", "v"])
def test_heads_at_all_positions(tiny_model: Model, name: str):
    if name not in tiny_model.arch.sites:
        pytest.skip(tiny_model.arch.missing[name])
    pairs, site, d = word_pairs(), SITES[name], tiny_model.arch.d_head
    kept, _ = tokenise(tiny_model, pairs)
    result = interp.patch(tiny_model, pairs, site=name, over=("layer", "head"), direction="noise")
    assert result.values.shape[1:] == (tiny_model.arch.n_layers, tiny_model.n_units(site))
    for i, pair in enumerate(kept):
        for layer in range(tiny_model.arch.n_layers):
            for head in range(tiny_model.n_units(site)):
                features = range(head * d, head * d + d)
                everywhere = range(len(pair.clean))
                want = naive_logit_diff(
                    tiny_model, pair, site, [layer], everywhere, features, "noise"
                )
                assert result.values.values[i, layer, head] == pytest.approx(want, abs=1e-4)


def test_contiguous_neuron_groups_cover_every_neuron_once():
    result = interp.patch(tiny("llama"), word_pairs(), site="mlp_post", over="neuron", neurons=10)
    labels = list(result.values.coords["neuron"].values)
    assert labels == ["0-9", "10-19", "20-29", "30-39", "40-49", "50-55"]


def test_one_hook_name_is_that_layer_alone():
    model = tiny("llama")
    whole = interp.patch(model, word_pairs(), site="z", over="layer,head")
    one = interp.patch(model, word_pairs(), site="blocks.2.attn.hook_z", over="layer,head")
    assert list(one.values.coords["layer"].values) == [2]
    np.testing.assert_allclose(one.values.values[:, 0], whole.values.values[:, 2], atol=1e-5)


@pytest.mark.parametrize("metric", list(interp.METRICS))
def test_metrics_by_their_definitions(metric: str):
    model, pairs = tiny("gemma2"), word_pairs()
    kept, _ = tokenise(model, pairs)
    result = interp.patch(model, pairs, metric=metric, site="resid_pre", over="layer,pos")
    pair = kept[2]
    clean = model.hf(torch.tensor([pair.clean])).logits[0, -1].double()
    for layer, pos in [(0, 2), (1, 5), (2, 7)]:
        cell = (SITES["resid_pre"], [layer], [pos], None, "denoise")
        logits = naive(model, pair, *cell).double()
        log_p, log_q = clean.log_softmax(-1), logits.log_softmax(-1)
        want = {
            "logit_diff": logits[pair.answer] - logits[pair.wrong_answer],
            "logprob": log_q[pair.answer],
            "logprob_per_token": log_q[pair.answer],
            "prob": log_q[pair.answer].exp(),
            "kl": (log_p.exp() * (log_p - log_q)).sum(),
            "rank": (logits > logits[pair.answer]).sum(),
        }[metric]
        assert result.values.values[2, layer, pos] == pytest.approx(float(want), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_any_batch_split_gives_the_same_numbers(family: str):
    model, pairs = tiny(family), word_pairs()
    whole = interp.patch(model, pairs, site="resid_mid" if family == "llama" else "z")
    for budget in (1, 40, 300):
        part = interp.patch(
            model, pairs, site="resid_mid" if family == "llama" else "z", tokens_at_once=budget
        )
        np.testing.assert_allclose(part.values.values, whole.values.values, atol=1e-5)


def test_patching_everything_turns_one_prompt_into_the_other():
    model = tiny("olmo2")
    denoise = interp.patch(model, word_pairs(), site="resid_pre", over="layer")
    noise = interp.patch(model, word_pairs(), site="resid_pre", over="layer", direction="noise")
    for layer in range(model.arch.n_layers):
        np.testing.assert_allclose(denoise.values.values[:, layer], denoise.clean, atol=1e-4)
        np.testing.assert_allclose(noise.values.values[:, layer], noise.corrupt, atol=1e-4)
    np.testing.assert_allclose(denoise.normalised()["mean"], 1, atol=1e-4)
    np.testing.assert_allclose(noise.normalised()["mean"], 0, atol=1e-4)


def test_the_model_is_left_as_it_was():
    model = tiny("gemma3")
    ids = torch.tensor([[5, 6, 7, 8]])
    before, hash_before = model.hf(ids).logits, model.weights_hash
    with pytest.raises(DegenerateGap):
        same = [{"clean": "w1 w2", "corrupt": "w3 w2", "answer": "w5", "wrong_answer": "w6"}]
        dead = interp.load_model(zeroed(model), tokenizer=model.tokenizer)
        interp.patch(dead, same)
    interp.patch(model, word_pairs(), site="z")
    assert torch.equal(model.hf(ids).logits, before)
    assert not hooks_left(model)
    assert model.attention_implementation in ("sdpa", "eager")
    assert all("forward" not in vars(block) for block in model.blocks)
    assert hash_before == dataclasses.replace(model).weights_hash


def zeroed(model: Model) -> torch.nn.Module:
    hf = copy.deepcopy(model.hf)
    with torch.no_grad():
        hf.get_output_embeddings().weight.zero_()
    return hf


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"site": "resid_per"}, PlanError, "Did you mean 'resid_pre'"),
        ({"site": "blocks.9.hook_resid_pre"}, PlanError, "layer 9 is out of range"),
        ({"layers": [0, 7]}, PlanError, "layer 7 is out of range"),
        ({"over": "layer,head"}, PlanError, "has no heads"),
        ({"over": "layer,neuron", "site": "z"}, PlanError, "has no neurons"),
        ({"over": "layer,pos,span"}, PlanError, "both position axes"),
        ({"over": "layer,layer"}, PlanError, "each axis once"),
        ({"over": "depth"}, PlanError, "unknown axis"),
        ({"over": "layer", "at": "subject"}, DataError, "no span 'subject'"),
        ({"metric": "logit_dif"}, PlanError, "Did you mean 'logit_diff'"),
        ({"direction": "back"}, PlanError, "unknown direction"),
        ({"site": "mlp_post", "over": "neuron", "neurons": [[99]]}, PlanError, "neuron 99"),
    ],
)
def test_bad_arguments_are_named(options: dict, error: type, says: str):
    with pytest.raises(error, match=says):
        interp.patch(tiny("llama"), word_pairs(), **options)


def test_a_site_that_cannot_exist_says_why():
    with pytest.raises(PlanError, match="in parallel"):
        interp.patch(tiny("gptj"), word_pairs(), site="resid_mid")


@pytest.mark.parametrize("family", ["qwen2", "gptj"])
def test_places_before_the_prompts_differ_hold_the_unpatched_value(family: str):
    row = {"clean": "w1 w2 w3", "corrupt": "w1 w2 w4", "answer": "w5", "wrong_answer": "w6"}
    result = interp.patch(
        tiny(family), [row | {"spans": {"a": ["w1 w2", "w1 w2"]}}], at="a", over="layer"
    )
    np.testing.assert_array_equal(result.values.values[0], float(result.corrupt[0]))
