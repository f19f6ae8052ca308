"""The one-pass sweep equals one forward pass a cell, on every family, site and padding side."""

import copy
import dataclasses
from itertools import cycle

import numpy as np
import pytest
import torch
from conftest import FAMILIES, hooks_left, tiny, word_pairs, word_tokenizer
from whole_answers import aliases_of, plain

import interp
from interp.bench.baselines import activation, patched_logits
from interp.data.pairs import tokenise
from interp.errors import DataError, DegenerateGap, PlanError
from interp.model.model import Model
from interp.model.sites import SITES


@pytest.mark.parametrize(
    ("family", "side"), list(zip(FAMILIES, cycle(["left", "right"]), strict=False))
)
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
    result = interp.patch(tiny_model, pairs, site=name, over=("layer", "head"), direction="noise")
    assert result.values.shape[1:] == (tiny_model.arch.n_layers, tiny_model.n_units(site))
    for i, one in enumerate(aliases_of(tiny_model, pairs)):
        for layer, head in np.ndindex(result.values.shape[1:]):
            own = slice(head * d, head * d + d)
            with torch.no_grad():
                want = one.logit_diff(
                    lambda a, one=one, at=(layer, own): [one.patched(a, name, *at)]
                )
            assert result.values.values[i, layer, head] == pytest.approx(float(want), abs=1e-4)


def test_contiguous_neuron_groups_cover_every_neuron_once():
    result = interp.patch(tiny("llama"), word_pairs(), site="mlp_post", over="neuron", neurons=10)
    labels = list(result.values.coords["neuron"].values)
    assert labels == ["0-9", "10-19", "20-29", "30-39", "40-49", "50-55"]


def test_only_consecutive_neurons_are_labelled_as_a_range():
    groups = [[3, 40], [3, 4, 5], [3, 5, 40], [7]]
    options = {"site": "mlp_post", "over": "neuron", "neurons": groups}
    labels = interp.patch(tiny("llama"), word_pairs(), **options).values.coords["neuron"].values
    assert list(labels) == ["3,40", "3-5", "3,5,40", "7-7"]


def test_one_hook_name_is_that_layer_alone():
    model = tiny("llama")
    whole = interp.patch(model, word_pairs(), site="z", over="layer,head")
    one = interp.patch(model, word_pairs(), site="blocks.2.attn.hook_z", over="layer,head")
    assert list(one.values.coords["layer"].values) == [2]
    np.testing.assert_allclose(one.values.values[:, 0], whole.values.values[:, 2], atol=1e-5)


def test_kl_by_its_definition():
    """Other metrics: `test_patched_answers`."""
    model = tiny("gemma2")
    result = interp.patch(model, word_pairs(), metric="kl", site="resid_pre", over="layer,pos")
    one = aliases_of(model, word_pairs())[2]
    (answer,) = one.pair.answers[0]
    with torch.no_grad():
        clean = plain(model, one.pair.clean)[-1]
        for layer, pos in [(0, 2), (1, 5), (2, 7)]:
            edit = one.patched(answer, "resid_pre", layer, at=[pos], side="corrupt")
            want = (clean.exp() * (clean - plain(model, one.pair.corrupt, [edit])[-1])).sum()
            got = result.values.values[2, layer, pos]
            assert got == pytest.approx(float(want), abs=1e-4)


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
        ({"over": "layer", "at": "subject"}, DataError, "no span 'subject'.*in each row: .spans"),
        ({"metric": "logit_dif"}, PlanError, "Did you mean 'logit_diff'"),
        ({"direction": "back"}, PlanError, "unknown direction"),
        ({"site": "mlp_post", "over": "neuron", "neurons": [[99]]}, PlanError, "neuron 99"),
        ({"neurons": 10}, PlanError, "neurons=10 without a neuron axis"),
        ({"layers": []}, PlanError, "layers=.. do not fit"),
        ({"site": "blocks.2.hook_resid_pre", "layers": [1]}, PlanError, "layers=.1. do not fit"),
        ({"site": "blocks.2.hook_resid_pre", "layers": [2, 1]}, PlanError, "do not fit"),
    ],
)
def test_bad_arguments_are_named(options: dict, error: type, says: str):
    with pytest.raises(error, match=says):
        interp.patch(tiny("llama"), word_pairs(), **options)


def test_a_sweep_over_spans_that_no_row_gives_says_how_to_give_one():
    rows = [{"clean": "w1 w2", "corrupt": "w3 w2", "answer": "w5", "wrong_answer": "w6"}]
    with pytest.raises(DataError, match='give one in each row: "spans": {"NAME": ."TEXT IN'):
        interp.patch(tiny("llama"), rows, over="layer,span")


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
