"""Several sites in one pass as labelled arrays, as plain forwards have them; arrays in plans."""

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import tiny, word_pairs

import interp
from interp.data.prompts import TokenPrompt
from interp.errors import OutOfMemory, PlanError
from interp.forward import budget
from interp.interventions.labelled import UNIT_AXES, Activations, RecordedTokens
from interp.model.model import Model
from interp.model.sites import SITES

TEXTS = ["w1 w2 w3 w4 w5 w6", "w7 w8", "w9 w10 w11"]
EVEN = [TokenPrompt(tuple(range(4 * i + 1, 4 * i + 5)), {"s": (1, 2)}) for i in range(3)]


def test_all_sites_in_one_pass_equal_single_recordings(tiny_model: Model):
    cache = interp.activations(tiny_model, TEXTS, ["all", "pattern", "logits"])
    assert set(cache) == {*tiny_model.arch.sites, "pattern", "logits"}
    for site in (*tiny_model.arch.sites, "pattern"):
        alone = interp.activations(tiny_model, TEXTS, site)
        axes = UNIT_AXES[SITES[site].units] if site in SITES else ("head", "query", "key")
        front = ("prompt", "layer", "pos") if site in SITES else ("prompt", "layer")
        assert cache[site].dims == (*front, *axes)
        xr.testing.assert_allclose(cache[site], alone.array, atol=1e-5)
        for layer, values in alone.items():
            got = cache[site].sel(layer=layer).values.reshape(values.shape)
            np.testing.assert_allclose(got, values.numpy(), atol=1e-5, rtol=1e-5)


def test_logits_are_those_of_hugging_face(tiny_model: Model):
    cache = interp.activations(tiny_model, TEXTS, ["logits"])
    assert cache["logits"].dims == ("prompt", "pos", "vocab")
    for i, text in enumerate(TEXTS):
        ids = tiny_model.encode(text)
        with torch.no_grad():
            want = tiny_model.hf(torch.tensor([ids])).logits[0].float()
        got = cache["logits"].values[i]
        np.testing.assert_allclose(got[: len(ids)], want, atol=1e-4)
        assert np.isnan(got[len(ids) :]).all()
    last = interp.activations(tiny_model, TEXTS, ["logits"], at="last")["logits"]
    np.testing.assert_allclose(last, interp.forward(tiny_model, TEXTS).logits, atol=1e-4)


def test_entries_are_labelled():
    model = tiny("qwen3")
    cache = interp.activations(model, TEXTS, ["z", "k", "mlp_post"], [0, 2])
    z = cache["z"]
    assert z["layer"].values.tolist() == [0, 2]
    assert z["head"].values.tolist() == [0, 1, 2, 3]
    assert cache["k"]["kv_head"].values.tolist() == [0, 1]
    assert cache["mlp_post"].sizes["neuron"] == model.arch.d_mlp
    assert z["token"].values[1].tolist() == ["w7", "w8", "", "", "", ""]
    assert z["position"].values[1].tolist() == [0, 1, -1, -1, -1, -1]
    assert z["pos"].values.tolist() == list(range(6))
    assert z["length"].values.tolist() == [6, 2, 3]
    assert z.sizes["d_head"] == 16
    one = z.sel(layer=2, head=3).isel(prompt=0).sel(pos=4)
    d = model.arch.d_head
    want = interp.activations(model, TEXTS[:1], "z", 2)[2][0, 4, 3 * d : 4 * d]
    np.testing.assert_allclose(one, want, atol=1e-5)
    spans = interp.activations(model, [TokenPrompt((1, 2, 3), {"s": (0, 1)}), EVEN[0]], "z", at="s")
    assert "pos" not in spans.array.coords
    assert spans.array["position"].values.tolist() == [[0, 1], [1, 2]]


def test_names_are_those_of_transformer_lens():
    model = tiny("llama")
    cache = interp.activations(model, TEXTS, ["blocks.1.attn.hook_z", "blocks.2.hook_resid_post"])
    assert list(cache) == ["z", "resid_post"]
    assert cache["z"]["layer"].values.tolist() == [1]
    xr.testing.assert_identical(cache["blocks.1.attn.hook_z"], cache["z"].sel(layer=1))
    xr.testing.assert_identical(cache["resid_post", 2], cache["resid_post"].sel(layer=2))
    assert "z" in cache
    assert "q" not in cache
    for name, why in (
        ("q", "'q' was not recorded; the sites recorded are z, resid_post"),
        ("blocks.0.attn.hook_z", r"not recorded in layer 0; its layers are \[1\]"),
        (("resid_post", -1), "not recorded in layer -1"),
        ("hook_embed", "unknown site 'hook_embed'"),
    ):
        with pytest.raises(PlanError, match=why):
            cache[name]
    assert repr(cache).startswith("ActivationCache(z, resid_post: 3 prompts, ")
    assert "resid_post: prompt 3 x layer 1 x pos 6 x d_model 32" in cache._repr_html_()


def test_both_sides_of_pairs():
    model, pairs = tiny("llama"), interp.load_pairs(word_pairs())
    both = interp.activations(model, pairs, "z", 1, side="both").array
    assert both["side"].values.tolist() == ["clean"] * len(pairs) + ["corrupt"] * len(pairs)
    assert both["pair"].values.tolist() == 2 * [pair.id for pair in pairs]
    for side in ("clean", "corrupt"):
        texts = [getattr(pair, side) for pair in pairs]
        want = interp.activations(model, texts, "z", 1).array
        np.testing.assert_allclose(both[both.side == side], want, atol=1e-6)
        alone = interp.activations(model, pairs, ["z"], 1, side=side)["z"]
        np.testing.assert_allclose(alone, want, atol=1e-6)
    for prompts, side, why in (
        (TEXTS, "both", "these are prompts"),
        (pairs, "dirty", "unknown side 'dirty'"),
    ):
        with pytest.raises(PlanError, match=why):
            interp.activations(model, prompts, "z", side=side)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_run(monkeypatch):
    model = tiny("llama")

    class Little:
        available = 5000

    monkeypatch.setattr(budget.psutil, "virtual_memory", Little)
    n_bytes = 4 * 3 * 3 * 6 * 32
    assert n_bytes > Little.available
    with pytest.raises(OutOfMemory, match=r"would take 0.0 GB of memory, and 0.0 GB are free"):
        interp.activations(model, TEXTS, "resid_post")
    interp.activations(model, TEXTS, "resid_post", at="last")
    with pytest.raises(OutOfMemory, match="record fewer sites"):
        interp.activations(model, TEXTS, ["logits"])


def test_requests_that_mean_nothing_are_refused():
    model = tiny("llama")
    with pytest.raises(PlanError, match=r"ask for \['logits'\]"):
        interp.activations(model, TEXTS, "logits")
    with pytest.raises(PlanError, match="sites is empty"):
        interp.activations(model, TEXTS, [])
    with pytest.raises(PlanError, match="unknown site 'hook_z'"):
        interp.activations(model, TEXTS, ["z", "hook_z"])


def test_half_precision_is_recorded_without_loss():
    model = tiny("llama")
    half = interp.Model(copy.deepcopy(model.hf).bfloat16(), model.tokenizer, "half", model.arch)
    found = interp.activations(half, TEXTS, "z", 1)
    assert found[1].dtype == torch.bfloat16
    assert found.array.dtype == np.float32
    np.testing.assert_array_equal(found.array[:, 0].values.reshape(3, 6, 32), found[1].float())
    plain = interp.forward(half, EVEN).logits
    own = interp.activations(half, EVEN, ["z"], 1)["z"]
    patched = interp.forward(half, EVEN, interp.Patch("z", own)).logits
    assert torch.equal(patched, plain)


def test_layers_may_differ_in_heads():
    stacked = torch.full((2, 1, 3, 4, 8), torch.nan)
    stacked[0], stacked[1, ..., :2, :6] = 1.0, 2.0
    labels = RecordedTokens(((0, 1, 2),), (("a", "b", "c"),))
    found = Activations(stacked, (0, 3), SITES["z"], ((4, 8), (2, 6)), labels)
    assert found[0].shape == (1, 3, 32)
    assert torch.equal(found[3], torch.full((1, 3, 12), 2.0))
    assert found.array.sel(layer=3).notnull().sum() == 3 * 12
    assert torch.equal(interp.Patch("z", found, layers=3).value, found[3])
    with pytest.raises(PlanError, match="NaN or infinity"):
        interp.Patch("z", found)


# --- labelled arrays as what a plan writes --------------------------------------------------------


@pytest.mark.parametrize("at", ["all", "last", "s", "s_last", 1, (1, 2)])
def test_arrays_are_written_where_they_were_recorded(at):
    model = tiny("llama")
    found = interp.activations(model, EVEN[::-1], "z", [0, 1], at=at)
    for given in (found.array, interp.activations(model, EVEN[::-1], "all", at=at)["z"]):
        step = interp.Patch("z", given, layers=(0, 1), positions=at)
        assert step == interp.Patch("z", found, positions=at)
    one = interp.Patch("z", found.array.sel(layer=1), positions=at)
    assert one == interp.Patch("z", found, layers=1, positions=at)
    assert one.layers == (1,)


def test_computed_arrays_are_values_too():
    model = tiny("llama")
    array = interp.activations(model, EVEN, "resid_post").array
    vector = array.sel(layer=1).isel(prompt=0, pos=3) - array.sel(layer=1).isel(prompt=1, pos=3)
    step = interp.Add("resid_post", vector, 2.0, positions="last")
    assert step.layers == (1,)
    by_hand = interp.activations(model, EVEN, "resid_post", 1)[1]
    want = interp.Add("resid_post", by_hand[0, 3] - by_hand[1, 3], 2.0, layers=1, positions="last")
    assert step == want
    # the mean over prompts is one value per position, for whatever prompts
    mean = array.sel(layer=2).mean("prompt")
    by_hand = interp.activations(model, EVEN, "resid_post", 2)[2].mean(0)
    got = interp.forward(model, EVEN[:2], interp.Patch("resid_post", mean)).logits
    want = interp.forward(model, EVEN[:2], interp.Patch("resid_post", by_hand, layers=2)).logits
    torch.testing.assert_close(got, want)
    # the last tokens of prompts of other lengths: their positions differ, so the value has none
    ends = interp.activations(model, TEXTS, "resid_post", 1, at="last").array.sel(layer=1)
    other = interp.activations(model, TEXTS[::-1], "resid_post", 1, at="last").array.sel(layer=1)
    step = interp.Add("resid_post", other - ends, positions="last")
    rewritten = interp.activations(model, TEXTS, "resid_post", 1, at="last", plan=step)[1]
    np.testing.assert_allclose(rewritten, other, atol=1e-5)


def test_arrays_that_cannot_be_written_are_refused():
    model = tiny("llama")
    cache = interp.activations(model, EVEN, ["z", "resid_post", "pattern"])
    spans = [TokenPrompt((1, 2, 3), {"s": (0, 1)}), EVEN[0]]
    moved = interp.activations(model, spans, "resid_post", 1, at="s").array
    z, resid = cache["z"], cache["resid_post"]
    for site, array, options, why in (
        ("z", resid, {}, "was given activations of the site 'resid_post'; record 'z'"),
        ("resid_post", resid, {"layers": 3}, r"hold layers \[0, 1, 2\], not 3"),
        ("resid_post", resid.sel(layer=1), {"layers": 2}, r"not 2; .*drop_vars\('layer'\)"),
        ("pattern", cache["pattern"], {}, "can be read and cut"),
        ("z", z.sel(head=1), {}, r"it takes \['head', 'd_head'\]"),
        ("resid_post", resid.mean("prompt"), {}, "one intervention per layer"),
        ("resid_post", moved.isel(prompt=0) - moved.isel(prompt=1), {}, "has lost the positions"),
        ("resid_post", z.rename("resid_post"), {}, r"it takes \['d_model'\]"),
    ):
        with pytest.raises(PlanError, match=why):
            interp.Patch(site, array, **options)
    first = interp.activations(model, EVEN, "resid_post", 1, at=0)
    with pytest.raises(PlanError, match="none of it belongs to token 3"):
        interp.forward(model, EVEN, interp.Patch("resid_post", first.array))
