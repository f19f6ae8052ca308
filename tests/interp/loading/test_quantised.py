"""Quantised and offloaded models: every verb as on a plain model of the same matrices."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from conftest import tiny, tiny_hf, word_pairs, word_tokenizer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import interp
from circuits.editing.editor import edit
from circuits.editing.fact import Fact
from interp.attribution.logit_attribution import direct_logit_attribution
from interp.data.pairs import tokenise
from interp.errors import ModelError, PlanError
from interp.forward.blocks import head_writes, neuron_keys, weight_of
from interp.loading.quantised import has_gradient
from interp.model.model import Model
from interp.model.weights import is_plain, matrix_of, quantised


class Codes(nn.Module):
    """A linear module without a weight: 8-bit codes and a scale per output, as libraries pack."""

    def __init__(self, old: nn.Module):
        super().__init__()
        conv = isinstance(old, Conv1D)
        weight = (old.weight.T if conv else old.weight).detach()
        self.out_features, self.in_features = weight.shape
        self.scale = nn.Parameter(weight.abs().amax(1, keepdim=True) / 127, requires_grad=False)
        codes = (weight / self.scale).round().to(torch.int8)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.bias = None if old.bias is None else nn.Parameter(old.bias.detach())
        self.source_cls = type(old)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.codes.to(x.dtype) * self.scale.to(x.dtype), self.bias)

    def plain(self) -> nn.Module:
        out = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        out.weight.data = self.codes * self.scale
        if self.bias is not None:
            out.bias.data = self.bias.data
        out.source_cls = self.source_cls
        return out


class RoundedCodes(Codes):
    """Rounds activations, too, so that no gradient comes through."""

    def forward(self, x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
        return super().forward((x / step).round() * step)


def replaced(hf: nn.Module, make: Callable[[nn.Module], nn.Module], *kinds: type) -> nn.Module:
    """The model with other linear modules in its blocks; the unembedding stays."""
    hf = copy.deepcopy(hf)
    for path, module in list(hf.named_modules()):
        if isinstance(module, kinds) and path != "lm_head":
            parent, _, leaf = path.rpartition(".")
            setattr(hf.get_submodule(parent), leaf, make(module))
    return hf


def loaded(hf: nn.Module) -> Model:
    return interp.load_model(hf, tokenizer=word_tokenizer())


FACT = Fact("w1 {} w3", "w2", "w4")
FAMILIES = ("llama", "qwen2", "phi3", "gpt2")


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: pytest.FixtureRequest) -> tuple[Model, Model]:
    """A model in 8-bit codes, and its twin of plain weights that are what the codes stand for."""
    packed = replaced(tiny_hf(request.param), Codes, nn.Linear, Conv1D)
    return loaded(packed), loaded(replaced(packed, Codes.plain, Codes))


VERBS = {
    "patch": lambda m: interp.patch(m, word_pairs(), "resid_pre").values,
    "patch heads": lambda m: interp.patch(m, word_pairs(), "z", over="head").values,
    "neurons": lambda m: interp.attribute(m, word_pairs(), "mlp_post").values,
    "relp": lambda m: interp.attribute(m, word_pairs(), "resid_mid", method="relp").values,
    "chords": lambda m: interp.attribute(m, word_pairs(), "resid_mid", method="eap-dg").values,
    "edges": lambda m: interp.attribute_edges(m, word_pairs()).values,
    "exact edges": lambda m: interp.attribute_edges(m, word_pairs(), method="exact").values,
    "direct": lambda m: direct_logit_attribution(m, tokenise(m, word_pairs())[0]).nodes,
    "heads": lambda m: head_writes(m, 1, torch.ones(1, 2, m.arch.layers[1].d_head * 4)),
    "lens": lambda m: interp.logit_lens(m, "w1 w2 w3").table()["probability"],
}


def numbers(verb: str, *models: Model) -> list[Tensor]:
    """What a verb gives on each model."""
    return [torch.tensor(np.asarray(found)) for found in map(VERBS[verb], models)]


@pytest.mark.filterwarnings("ignore::interp.errors.InterpWarning")
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_that_of_the_plain_model(both: tuple[Model, Model], verb: str):
    got, want = numbers(verb, *both)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4, equal_nan=True)
    assert want.nan_to_num().abs().max() > 0.01


def test_weights_are_read_as_the_module_applies_them(both: tuple[Model, Model]):
    packed, plain = both
    for site in ("q", "k", "v", "z", "mlp_post"):
        torch.testing.assert_close(weight_of(packed, site, 1), weight_of(plain, site, 1))
    if "gate" in plain.arch.layers[1].neuron_keys:
        torch.testing.assert_close(neuron_keys(packed, 1), neuron_keys(plain, 1))


def test_what_a_quantised_model_is(both: tuple[Model, Model]):
    packed, plain = both
    assert all(check.holds for check in interp.validate(packed))
    assert list(quantised(packed.hf)) == ["Codes"]
    assert not quantised(plain.hf)
    assert "quantised or wrapped (Codes)" in repr(packed)
    assert packed.n_vocab == 97
    assert packed.weights_hash != plain.weights_hash
    before = packed.weights_hash
    scale = next(m for m in packed.hf.modules() if isinstance(m, Codes)).scale
    with torch.no_grad():
        scale.mul_(2)
        assert packed.weights_hash != before
        scale.div_(2)
    assert packed.weights_hash == before


def test_a_kernel_without_a_backward_pass_is_refused_and_the_rest_works():
    model = loaded(replaced(tiny_hf("llama"), RoundedCodes, nn.Linear))
    twin = loaded(replaced(replaced(tiny_hf("llama"), Codes, nn.Linear), Codes.plain, Codes))
    for verb in ("neurons", "relp", "chords", "edges"):
        with pytest.raises(PlanError, match=r"gradients do not pass .*q_proj.*RoundedCodes"):
            numbers(verb, model)
    assert all(check.holds for check in interp.validate(model))
    got, want = (interp.patch(m, word_pairs(), "z", over="head").values for m in (model, twin))
    assert abs(got - want).max() < 0.1 * abs(want).max()
    exact = interp.attribute_edges(model, word_pairs(), method="exact").values
    assert abs(exact).max() > 0.01
    one = model.hf.model.layers[0].mlp.up_proj
    torch.testing.assert_close(matrix_of(one, model.like, "it"), one.codes * one.scale)


def test_a_module_that_is_not_one_matrix_is_not_read():
    class Squared(Codes):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * super().forward(x).abs()

    module = Squared(nn.Linear(8, 6))
    with pytest.raises(PlanError, match=r"weights of layer 0 z cannot be read .*Squared"):
        matrix_of(module, torch.empty(0), "layer 0 z")
    assert has_gradient(Codes(nn.Linear(8, 6)), torch.empty(0))
    assert not has_gradient(RoundedCodes(nn.Linear(8, 6)), torch.empty(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_large_bias_does_not_round_a_matrix_away(dtype: torch.dtype):
    torch.manual_seed(0)
    linear = nn.Linear(16, 12).to(dtype)
    linear.bias.data += 300
    module = Codes(linear).to(dtype)
    got = matrix_of(module, torch.empty(0, dtype=dtype), "it")
    want = module.codes.to(dtype) * module.scale
    assert got.dtype == dtype
    assert (got - want).abs().max() <= 2e-2 * want.abs().max()


def test_a_plain_weight_is_itself_and_a_subclass_that_computes_the_same_is_plain():
    class Named(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.T + self.bias

    class Adapted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + x.sum(-1, keepdim=True)

    linear, named, adapted = nn.Linear(4, 3), Named(4, 3), Adapted(4, 3)
    assert matrix_of(linear, torch.empty(0), "it") is linear.weight
    assert is_plain(named)
    assert matrix_of(named, torch.empty(0), "it") is named.weight
    assert not is_plain(adapted)
    torch.testing.assert_close(matrix_of(adapted, torch.empty(0), "it"), adapted.weight + 1)
    assert not is_plain(nn.Linear(4, 3).to(torch.float8_e4m3fn))


def test_routers_and_grouped_maps_are_no_quantised_modules():
    class Router(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            out = super().forward(x)
            return out.softmax(-1), out

    class Grouped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("rgd,god->rgo", x, self.weight.view(2, 3, 4))

    class Experts(nn.Module):
        in_features, out_features = 4, 3

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 4, 3))

        def forward(self, x: Tensor, expert: Tensor) -> Tensor:
            return x @ self.weight[expert]

    assert not quantised(nn.ModuleList([Router(4, 3), Grouped(4, 6), Experts(), nn.Linear(4, 3)]))


def test_quantised_models_are_not_edited():
    model = loaded(replaced(tiny_hf("llama"), Codes, nn.Linear))
    with pytest.raises(
        PlanError, match="cannot be edited: its weights are quantised or wrapped .Codes"
    ):
        edit(model, [FACT])
    with pytest.raises(PlanError, match="cannot be edited: accelerate offloads"):
        edit(loaded(cpu_offload(tiny_hf("llama"), execution_device="cpu")), [FACT])


# --- offloaded by accelerate ---------------------------------------------------------------------


@pytest.fixture(scope="module", params=["cpu", "disk"])
def offloaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    hf = tiny_hf("gpt2" if request.param == "cpu" else "llama").eval()
    if request.param == "cpu":
        cpu_offload(hf, execution_device="cpu")
    else:
        disk_offload(hf, str(tmp_path_factory.mktemp("weights")), execution_device="cpu")
    return loaded(hf)


@pytest.mark.filterwarnings("ignore::interp.errors.InterpWarning")
@pytest.mark.parametrize("verb", VERBS)
def test_offloaded_models_give_the_same_numbers(offloaded: Model, verb: str):
    plain = tiny("gpt2" if "GPT2" in type(offloaded.hf).__name__ else "llama")
    got, want = numbers(verb, offloaded, plain)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6, equal_nan=True)


def test_the_hash_of_offloaded_weights_is_that_of_their_data(offloaded: Model):
    plain = tiny("gpt2" if "GPT2" in type(offloaded.hf).__name__ else "llama")
    assert all(p.device.type == "meta" for p in offloaded.hf.parameters())
    assert offloaded.weights_hash == plain.weights_hash
    assert (offloaded.device.type, offloaded.unembed_device.type) == ("cpu", "cpu")
    assert all(check.holds for check in interp.validate(offloaded))
    assert all(p.device.type == "meta" for p in offloaded.hf.parameters())  # none was left behind


def test_what_cannot_be_moved_is_said():
    away = cpu_offload(tiny_hf("llama"), execution_device="cpu")
    assert interp.load_model(away, word_tokenizer(), device="cpu").device.type == "cpu"
    with pytest.raises(ModelError, match="accelerate placed the weights .* cast"):
        interp.load_model(away, word_tokenizer(), dtype="bfloat16")
    packed = replaced(tiny_hf("llama"), Codes, nn.Linear)
    with pytest.raises(ModelError, match=r"quantised, so it cannot be cast to torch\.bfloat16"):
        interp.load_model(packed, word_tokenizer(), dtype="bfloat16")
    for hook, device in zip(("layers.0", "layers.1"), ("cpu", "cuda:3"), strict=True):
        module = away.model.get_submodule(f"{hook}.mlp.up_proj")
        module._hf_hook.execution_device = torch.device(device)
    with pytest.raises(ModelError, match="computes on several devices .cpu, cuda:3."):
        interp.load_model(away, word_tokenizer())


def test_weights_without_data_are_refused():
    with torch.device("meta"):
        empty = type(tiny_hf("llama"))(tiny_hf("llama").config)
    with pytest.raises(ModelError, match=r"holds no data: model\.embed_tokens\.weight"):
        loaded(empty)
    broken = tiny_hf("llama")
    model = loaded(broken)
    broken.model.layers[0].mlp.up_proj.to("meta")
    with pytest.raises(PlanError, match=r"layers\.0\.mlp\.up_proj\.weight lies on the meta device"):
        _ = model.weights_hash


# --- asked for by name, and other libraries ------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_hf("qwen2").save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


def test_quantisation_that_cannot_be_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ModelError, match=r"unknown quantization '4bits'. Did you mean '4bit'"):
        interp.load_model(folder, quantization="4bits")
    with pytest.raises(ModelError, match="an object keeps its weights"):
        interp.load_model(tiny_hf("llama"), word_tokenizer(), quantization="8bit")
    with pytest.raises(ModelError, match="a compiled program keeps its weights"):
        interp.load_model("tracr-hist", quantization="8bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ModelError, match=r"needs bitsandbytes; install 'interp-circuits\[quant"):
        interp.load_model(folder, quantization="8bit")


@pytest.mark.filterwarnings("ignore::interp.errors.InterpWarning")
@pytest.mark.parametrize("how", ["8bit", "4bit"])
def test_bitsandbytes_on_a_cpu(folder: Path, how: str, tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    model = interp.load_model(folder, word_tokenizer(), quantization=how)
    assert all(check.holds for check in interp.validate(model))

    def plain(module: nn.Module) -> nn.Module:
        out = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        out.weight.data = matrix_of(module, model.like, "it")
        if module.bias is not None:
            out.bias.data = module.bias.data
        return out

    kind = type(model.hf.model.layers[0].mlp.up_proj)
    twin = loaded(replaced(model.hf, plain, kind))
    atol = 1e-4 if how == "4bit" else 0.1  # 8 bits round activations, too
    for verb in VERBS:
        got, want = numbers(verb, model, twin)
        torch.testing.assert_close(got, want, atol=atol, rtol=1e-3, equal_nan=True)
    model.hf.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    again = interp.load_model(tmp_path, word_tokenizer())
    assert again.weights_hash == model.weights_hash
    with pytest.raises(ModelError, match="quantised already; give no quantization"):
        interp.load_model(tmp_path, quantization=how)


@pytest.mark.filterwarnings("ignore::interp.errors.InterpWarning")
def test_torchao_that_rounds_activations_gives_no_gradient(folder: Path):
    torchao = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    whole = TorchAoConfig(torchao.Int8DynamicActivationInt8WeightConfig())
    with pytest.raises(PlanError, match="gradients do not pass"):
        interp.attribute_edges(
            interp.load_model(folder, word_tokenizer(), quantization=whole), word_pairs()
        )
    only = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    model = interp.load_model(folder, word_tokenizer(), quantization=only)
    assert abs(interp.attribute_edges(model, word_pairs()).values).max() > 0.01
