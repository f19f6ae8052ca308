"""Loading from every kind of reference, and the map of sites checked against TransformerLens."""

import copy

import pytest
import torch
from conftest import FAMILIES, remapped, tiny, tiny_hf, word_pairs, word_tokenizer

import interp
from interp.bench.baselines import activation
from interp.errors import ModelError, PlanError
from interp.model.adapters import bridge
from interp.model.model import Model
from interp.model.sites import EXPERT_SITES, MIXER_SITES, SITES, parse_site

IDS = torch.tensor([[1, 7, 20, 33, 8, 60]])


def test_every_site_equals_transformer_lens(tiny_model: Model):
    wrapped = bridge(copy.deepcopy(tiny_model.hf))
    _, cache = wrapped.run_with_cache(IDS)
    for name in tiny_model.arch.sites:
        for layer in range(tiny_model.arch.n_layers):
            ours = activation(tiny_model, SITES[name], layer, IDS)
            theirs = cache[SITES[name].at(layer)].reshape(ours.shape)
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4, msg=f"{name} {layer}")


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gpt_neox", "phi3", "gptj"])
def test_a_bridge_loads_as_the_model_inside_it(family: str):
    hf = tiny_hf(family)
    want = copy.deepcopy(hf).eval()(IDS).logits
    wrapped = bridge(hf)
    model = interp.load_model(wrapped, tokenizer=word_tokenizer())
    torch.testing.assert_close(model.hf(IDS).logits, want, atol=1e-5, rtol=1e-5)
    shared = {p.data_ptr() for p in wrapped.original_model.parameters()}
    assert all(p.data_ptr() in shared for p in model.hf.parameters())
    result = interp.patch(model, word_pairs())
    again = interp.patch(tiny(family), word_pairs())
    torch.testing.assert_close(
        torch.tensor(result.values.values),
        torch.tensor(again.values.values),
        atol=1e-4,
        rtol=1e-4,
        equal_nan=True,
    )


def test_a_model_in_training_mode_is_refused():
    model = interp.load_model(tiny_hf("gpt2"), tokenizer=word_tokenizer())
    model.hf.train()
    with pytest.raises(ModelError, match=r"training mode.*model.hf.eval\(\)"):
        interp.patch(model, word_pairs())


def test_an_nnsight_model_loads():
    nnsight = pytest.importorskip("nnsight")
    wrapped = nnsight.NNsight(tiny_hf("qwen3"))
    model = interp.load_model(wrapped, tokenizer=word_tokenizer())
    torch.testing.assert_close(model.hf(IDS).logits, tiny("qwen3").hf(IDS).logits)
    ours, plain = (interp.patch(m, word_pairs(), site="z") for m in (model, tiny("qwen3")))
    torch.testing.assert_close(
        torch.tensor(ours.values.values), torch.tensor(plain.values.values), equal_nan=True
    )


def test_a_saved_folder_loads(tmp_path):
    tiny_hf("olmo2").save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    model = interp.load_model(str(tmp_path), device="cpu")
    torch.testing.assert_close(model.hf(IDS).logits, tiny("olmo2").hf(IDS).logits)


def test_shapes_know_grouped_heads_and_own_head_size():
    arch = tiny("qwen3").arch
    assert (arch.n_layers, arch.n_heads, arch.n_kv_heads, arch.d_head) == (3, 4, 2, 16)
    assert (arch.d_model, arch.d_mlp) == (32, 56)


def test_parallel_blocks_have_no_resid_mid():
    for family in ("gptj", "gpt_neox"):
        with pytest.raises(PlanError, match="parallel"):
            tiny(family).site("resid_mid")
    for family in set(FAMILIES) - {"gptj", "gpt_neox"}:
        assert set(tiny(family).arch.sites) == set(SITES) - {*EXPERT_SITES, *MIXER_SITES}


@pytest.mark.parametrize("family", list(FAMILIES))
def test_conformance_holds(family: str):
    failed = [check for check in interp.validate(tiny(family)) if not check.holds]
    assert not failed


def test_conformance_notices_a_wrong_map():
    wrong = remapped(tiny("llama"), "resid_mid", "mlp_post")
    held = {check.name: check.holds for check in interp.validate(wrong)}
    assert not held["every site fulfils its identities"]


@pytest.mark.parametrize(
    ("ref", "error", "says"),
    [
        ("smolm2-135m", ModelError, "Did you mean 'smollm2-135m'"),
        ("owner/no-such-model", ModelError, "Hugging Face Hub"),
        ("/no/such/file.gguf", ModelError, "no such file"),
        (3, ModelError, "cannot load a int"),
    ],
)
def test_what_cannot_be_loaded_is_named(ref, error, says: str):
    with pytest.raises(error, match=says):
        interp.load_model(ref)


def test_bad_dtype_and_missing_tokenizer_and_gpu():
    with pytest.raises(ModelError, match="unknown dtype 'fp8'"):
        interp.load_model("smollm2-135m", dtype="fp8")
    with pytest.raises(ModelError, match="without a tokenizer"):
        interp.load_model(tiny_hf("llama"))
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no GPU"):
            interp.load_model("smollm2-135m", device="cuda")


def test_an_architecture_without_an_adapter_is_refused():
    class Odd(torch.nn.Module):
        config = copy.deepcopy(tiny("llama").hf.config)

        def get_output_embeddings(self):
            return None

    with pytest.raises(ModelError, match="Odd has no list of blocks"):
        interp.load_model(Odd(), tokenizer=word_tokenizer())


def test_site_names_round_trip():
    for site in SITES.values():
        for layer in (0, 11):
            assert parse_site(site.at(layer)) == (site, layer)
        assert parse_site(site.name) == (site, None)
