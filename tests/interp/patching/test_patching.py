"""The one-pass sweep equals one forward pass a cell, on every family, site and padding side."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import hooks_left, tiny, word_pairs, word_tokenizer

import interp
from interp.bench.baselines import activation, patched_logits
from interp.data.pairs import TokenPair, tokenise
from interp.errors import DataError, DegenerateGap, InterpWarning, PlanError
from interp.forward.hooks import hooked
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


def with_padding(model: Model, side: str) -> Model:
    return dataclasses.replace(model, tokenizer=word_tokenizer(side))


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_site_by_layer_and_position(tiny_model: Model, side: str):
    model = with_padding(tiny_model, side)
    pairs = word_pairs()
    kept, _ = tokenise(model, pairs)
    for name in model.arch.sites:
        result = interp.patch(model, pairs, site=name, over="layer,pos")
        for i, pair in enumerate(kept):
            for layer in range(model.arch.n_layers):
                for pos in range(len(pair.clean)):
                    want = naive_logit_diff(
                        model, pair, SITES[name], [layer], [pos], None, "denoise"
                    )
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


# --- prompts of unequal length -----------------------------------------------------------------

UNEQUAL = [
    {
        "clean": "w1 w2 w7 w8 w3 w4",
        "corrupt": "w5 w1 w2 w9 w3 w4",
        "answer": "w20",
        "wrong_answer": "w21",
        "spans": {"s": ["w7 w8", "w9"]},
    },
    {
        "clean": "w1 w2 w7 w3",
        "corrupt": "w1 w2 w9 w8 w11 w12 w3",
        "answer": "w30",
        "wrong_answer": "w31",
        "spans": {"s": ["w7", "w9 w8 w11"]},
    },
    {
        "clean": "w1 w2 w7 w3 w4",
        "corrupt": "w1 w2 w9 w3 w4",
        "answer": "w40",
        "wrong_answer": "w41",
        "spans": {"s": ["w7", "w9"]},
    },
]
PARTNERS = [  # by hand: (clean, corrupt) positions of each place
    {"pos": [(0, 1), (1, 2), None, (3, 3), (4, 4), (5, 5)], "s": [(3, 3)]},
    {"pos": [(0, 0), (1, 1), (2, 4), (3, 6)], "s": [(2, 4)]},
    {"pos": [(i, i) for i in range(5)], "s": [(2, 2)]},
]


def by_hand(model: Model, pair: TokenPair, site: str, layer: int, both, direction: str) -> float:
    """The base prompt with the other's activations at partners, by a plain hooked forward."""
    prompts = pair.clean, pair.corrupt
    base = int(direction == "denoise")
    source = activation(model, SITES[site], layer, torch.tensor([prompts[1 - base]]))

    def put(act: torch.Tensor) -> None:
        for one in both:
            act[:, one[base]] = source[:, one[1 - base]]

    with torch.no_grad(), hooked(model, [(SITES[site], layer, put)]):
        logits = model.hf(input_ids=torch.tensor([prompts[base]]), use_cache=False).logits[0, -1]
    return float(logits[pair.answer] - logits[pair.wrong_answer])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gpt_neox", "qwen2", "gptj"])
def test_unequal_lengths_are_patched_partner_by_partner(family: str, direction: str, side: str):
    model = with_padding(tiny(family), side)
    pairs = interp.PromptPairs.from_records(UNEQUAL)
    kept, refused = tokenise(model, pairs)
    assert not refused
    for site in ("resid_pre", "z"):
        with pytest.warns(InterpWarning, match="1 tokens of clean and 4 of corrupt prompts, in 2"):
            by_pos = interp.patch(model, pairs, site, "layer,pos", direction=direction)
        with pytest.warns(InterpWarning, match="no partner"):
            by_span = interp.patch(model, pairs, site, "layer,span", direction=direction)
            whole = interp.patch(model, pairs, site, "layer", direction=direction)
        assert by_pos.unpaired == ((1, 1), (0, 3), (0, 0))
        for i, (pair, hand) in enumerate(zip(kept, PARTNERS, strict=True)):
            for layer in range(model.arch.n_layers):

                def want(both, pair=pair, layer=layer, site=site) -> float:
                    return by_hand(model, pair, site, layer, both, direction)

                every = [one for one in hand["pos"] if one]
                assert float(whole.values[i, layer]) == pytest.approx(want(every), abs=1e-4)
                for pos, one in enumerate(hand["pos"]):
                    got = float(by_pos.values[i, layer, pos])
                    if one is None:
                        assert np.isnan(got)
                    else:
                        assert got == pytest.approx(want([one]), abs=1e-4), (site, i, layer, pos)
                assert np.isnan(by_pos.values[i, layer, len(pair.clean) :]).all()
                places = {"s": hand["s"], "s_last": hand["s"], "last": hand["pos"][-1:]}
                for place, both in places.items():
                    got = float(by_span.values[i, layer].sel(span=place))
                    assert got == pytest.approx(want(both), abs=1e-4), (site, i, layer, place)


def test_neuron_groups_by_span():
    model, pairs = tiny("qwen3"), word_pairs()
    kept, _ = tokenise(model, pairs)
    groups = [[0, 5], [3], list(range(10, 40))]
    result = interp.patch(model, pairs, site="mlp_post", over="layer,span,neuron", neurons=groups)
    assert result.values.dims == ("pair", "layer", "span", "neuron")
    assert list(result.values.coords["span"].values) == ["s", "s_last", "last"]
    for i, pair in enumerate(kept):
        for j, place in enumerate(["s", "s_last", "last"]):
            for k, group in enumerate(groups):
                cell = ([1], [p for p, _ in pair.matched(place)], group, "denoise")
                want = naive_logit_diff(model, pair, SITES["mlp_post"], *cell)
                assert result.values.values[i, 1, j, k] == pytest.approx(want, abs=1e-4)


def test_contiguous_neuron_groups_cover_every_neuron_once():
    result = interp.patch(tiny("llama"), word_pairs(), site="mlp_post", over="neuron", neurons=10)
    labels = list(result.values.coords["neuron"].values)
    assert labels == ["0-9", "10-19", "20-29", "30-39", "40-49", "50-55"]


def test_all_layers_together(tiny_model: Model):
    pairs, site = word_pairs(), SITES["mlp_out"]
    kept, _ = tokenise(tiny_model, pairs)
    layers = range(tiny_model.arch.n_layers)
    result = interp.patch(tiny_model, pairs, site="mlp_out", over="pos")
    for i, pair in enumerate(kept):
        for pos in range(len(pair.clean)):
            want = naive_logit_diff(tiny_model, pair, site, layers, [pos], None, "denoise")
            assert result.values.values[i, pos] == pytest.approx(want, abs=1e-4)


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
    assert hash_before == interp.model.model.Model(**vars_of(model)).weights_hash


def vars_of(model: Model) -> dict:
    return {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}


def zeroed(model: Model) -> torch.nn.Module:
    import copy

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
