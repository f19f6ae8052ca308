"""Maps are measured: what adds up is there, block by block; the rest is missing, or refused."""

import copy
import dataclasses
import re
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conformance.tiny_models import tiny_model as tiny_of
from conftest import COMMON, tiny, tiny_hf, word_pairs, word_tokenizer
from torch import nn

import interp
from interp.data.pairs import tokenise
from interp.errors import ModelError, PlanError
from interp.loading import fitting
from interp.model.adapters import architecture_of
from interp.model.architecture import BlockMap, ModulePoint
from interp.model.components import everything
from interp.model.graph import Graph
from interp.model.model import Model

STATE = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
}
LINEAR = {
    "head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
STREAM = {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"}
HEADS = {"q", "k", "v", "z"}
EVERY = STREAM | HEADS | {"mlp_post"}
ALONE = {"resid_pre", "resid_post", "attn_out"}
KINDS: dict[str, tuple[str, dict[str, Any], list[set[str]]]] = {
    "llama": ("LlamaConfig", COMMON, [EVERY] * 3),
    "granite": (
        "GraniteConfig",
        COMMON | {"residual_multiplier": 0.22, "embedding_multiplier": 3.0},
        [EVERY] * 3,
    ),
    "lfm2": (
        "Lfm2Config",
        COMMON | {"layer_types": ["full_attention", "conv", "full_attention"]},
        [EVERY, EVERY - HEADS, EVERY],
    ),
    "qwen3_5": ("Qwen3_5TextConfig", COMMON | LINEAR, [EVERY - HEADS, EVERY, EVERY - HEADS]),
    "bamba": (
        "BambaConfig",
        COMMON | STATE | {"attn_layer_indices": [1], "mamba_expand": 2},
        [EVERY - HEADS, EVERY, EVERY - HEADS],
    ),
    "falcon_h1": (
        "FalconH1Config",
        COMMON
        | STATE
        | {"mamba_d_ssm": 64, "ssm_out_multiplier": 0.7, "attention_out_multiplier": 0.8},
        [EVERY] * 3,
    ),
    "mamba": ("MambaConfig", COMMON | {"state_size": 4}, [ALONE] * 3),
}


def random_model(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, name)(**options)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, Model]:
    name, options, _ = KINDS[request.param]
    hf = random_model(name, **options)
    return request.param, interp.load_model(hf, tokenizer=word_tokenizer())


def test_every_block_has_the_sites_it_computes(kind):
    name, model = kind
    assert [set(block.points) & EVERY for block in model.arch.layers] == KINDS[name][2]
    for block in model.arch.layers:
        assert set(block.missing) >= EVERY - set(block.points)


def test_sublayers_add_up_to_the_stream(kind):
    """By recorded activations alone, with the block's own multipliers."""
    name, model = kind
    found = {
        (layer, site): interp.activations(model, ["w1 w2 w3 w4 w5"], site, layer)[layer]
        for layer, block in enumerate(model.arch.layers)
        for site in set(block.points) & STREAM
    }
    times = {"granite": (0.22, 0.22), "falcon_h1": (0.8, 1.0)}.get(name, (1.0, 1.0))
    for layer, block in enumerate(model.arch.layers):
        parts = block.parts
        assert (parts.attn_scale, parts.mlp_scale) == pytest.approx(times, abs=1e-5)
        at = {site: value for (n, site), value in found.items() if n == layer}
        end = at.get("resid_mid", at["resid_post"])
        if not parts.beside:
            total = at["resid_pre"] + parts.attn_scale * at["attn_out"]
            torch.testing.assert_close(total, end, atol=1e-4, rtol=1e-4)
        if "mlp_out" in at:
            total = at["resid_mid"] + parts.mlp_scale * at["mlp_out"]
            torch.testing.assert_close(total, at["resid_post"], atol=1e-4, rtol=1e-4)


def test_a_layer_without_a_site_says_why_and_the_others_are_swept(kind):
    name, model = kind
    lacking = [n for n, block in enumerate(model.arch.layers) if "z" not in block.points]
    if not lacking:
        return
    with pytest.raises(PlanError, match="no site 'z'.*(linear maps|attend by heads)"):
        interp.patch(model, word_pairs(), site="z", layers=lacking[:1])
    with pytest.raises(PlanError, match="cannot be taken apart into edges: in layer 0|in layer 1"):
        Graph.of(model.arch)
    if "z" not in model.arch.missing:
        swept = interp.patch(model, word_pairs(), site="z", over=("layer", "head"))
        assert tuple(swept.values.layer.values) == model.arch.layers_with("z")
        heads = {one.layer for one in everything(model, "head")}
        assert heads == set(model.arch.layers_with("z"))


@pytest.mark.parametrize("name", ["BertConfig", "ModernBertDecoderConfig"])
def test_blocks_that_norm_the_stream_and_other_heads_are_refused(name: str):
    hf = random_model(name, **COMMON | {"is_decoder": True})
    with pytest.raises(ModelError, match="cannot be proven|are not the final norm") as refused:
        interp.load_model(hf, tokenizer=word_tokenizer())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["qwen4_exp_text", "hy_v4", "deepseek_v4", "inkling2_text"])
def test_several_residual_streams_are_refused(name: str):
    with pytest.raises(ModelError, match="2 residual streams side by|no single residual stream"):
        interp.load_model(tiny_of(name), tokenizer=word_tokenizer())


@pytest.mark.parametrize("name", ["minimax", "zaya", "beam"])
def test_a_stream_that_blocks_scale_or_norm_is_proven_and_not_summed(name: str):
    """Beside the blocks' own modules and factors, on recorded activations."""
    model = interp.load_model(tiny_of(name), tokenizer=word_tokenizer())
    sites = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    for layer, block in enumerate(model.blocks):
        pre, attn, mid, mlp, post = (
            interp.activations(model, ["w1 w2 w3 w4 w5"], site, layer)[layer] for site in sites
        )
        for x, write, end, half in ((pre, attn, mid, 0), (mid, mlp, post, 1)):
            torch.testing.assert_close(_carried_on(name, block, layer, half, x, write), end)
    with pytest.raises(PlanError, match="scales or norms the residual stream itself"):
        Graph.of(model.arch)
    with pytest.raises(PlanError, match="scales or norms the residual stream itself, so what"):
        model.parts(0)


@pytest.mark.parametrize("name", ["minimax", "beam"])
def test_a_factor_of_the_stream_shows_in_16_bits(name: str):
    """Beam's are .7 to .93; a plain sum would be off by less than bf16 may be in a deep model."""
    model = interp.load_model(tiny_of(name).bfloat16(), tokenizer=word_tokenizer())
    carry = "input_layernorm" if name == "minimax" else ""
    assert {block.parts.carry for block in model.arch.layers} == {carry}
    assert {"attn_out", "resid_mid", "mlp_out"} <= set(model.arch.sites)


def _carried_on(name: str, block: Any, layer: int, half: int, x: Any, write: Any) -> Any:
    if name == "zaya":
        return (block.post_attention_residual_scale, block.post_mlp_residual_scale)[half](write, x)
    if name == "beam":
        n = 2 * (layer + 1) + half
        return write / n**0.5 + x * ((n - 1) / n) ** 0.5
    norms = (block.input_layernorm, block.post_attention_layernorm)
    own = ("attn", "mlp")[half]
    alpha, beta = (getattr(block, f"{own}_{factor}_factor") for factor in ("alpha", "beta"))
    return alpha * norms[half](x) + beta * write


def test_a_bidirectional_model_is_refused():
    with pytest.raises(ModelError, match="not causal"):
        interp.load_model(Handmade(causal=False), tokenizer=word_tokenizer())


# --- wrong maps ----------------------------------------------------------------------------------


def wrong(points: dict[str, ModulePoint]) -> Any:
    """An adapter whose map has some sites in other places, in every layer."""

    def mapped(hf: nn.Module) -> Any:
        arch = architecture_of(hf)
        layers = tuple(
            dataclasses.replace(block, points={**block.points, **points}) for block in arch.layers
        )
        return dataclasses.replace(arch, layers=layers)

    return mapped


NORM, MLP = ModulePoint("input_layernorm", "out"), ModulePoint("mlp", "out")
SHIFTED = torch.arange(32).roll(8)
WRONG = {
    "attn_out": ({"attn_out": NORM}, "attn_out", "resid_pre . attn_out differs from resid_mid by"),
    "mlp_out": ({"mlp_out": NORM}, "mlp_out", "resid_mid . mlp_out differs from resid_post by"),
    "resid_mid": ({"resid_mid": ModulePoint("self_attn", "in")}, "resid_mid", "differs from"),
    "z": ({"z": ModulePoint("self_attn.q_proj", "in")}, "z", "is not attn_out"),
    "q": (
        {"q": ModulePoint("self_attn.q_proj", "out", SHIFTED)},
        "q",
        "moves other heads or tokens",
    ),
    "k": (
        {"k": ModulePoint("self_attn.v_proj", "out"), "v": ModulePoint("self_attn.k_proj", "out")},
        "k",
        "moves other heads or tokens",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_map_is_noticed_and_put_right_by_the_structure(case: str, monkeypatch):
    points, site, why = WRONG[case]
    monkeypatch.setattr(fitting, "architecture_of", wrong(points))
    right = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    assert [set(block.points) & EVERY for block in right.arch.layers] == [EVERY] * 3
    monkeypatch.setattr(fitting, "guessed", lambda model, ids: [[] for _ in model.arch.layers])
    if case == "resid_mid":  # then nothing at all adds up
        with pytest.raises(ModelError, match="cannot be proven .resid_pre . attn_out differs"):
            interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
        return
    missing = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer()).arch.layers[1].missing
    assert why.replace(" . ", " + ") in missing[site]
    with pytest.raises(PlanError, match=f"no site '{site}'"):
        interp.patch(
            dataclasses.replace(right, arch=_without(right, site)), word_pairs(), site=site
        )


def _without(model: Model, site: str) -> Any:
    def cut(block: BlockMap) -> BlockMap:
        points = {name: point for name, point in block.points.items() if name != site}
        return dataclasses.replace(block, points=points, missing={**block.missing, site: "so"})

    return dataclasses.replace(model.arch, layers=tuple(map(cut, model.arch.layers)))


# --- weights under which sites move nothing -------------------------------------------------------


@pytest.mark.parametrize("kind", ["zero", "attention", "equal", "saturated"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "gpt_neox"])
def test_no_site_is_lost_by_weights_that_do_nothing(family: str, kind: str):
    hf = copy.deepcopy(tiny_hf(family))
    heads = re.compile(r"(q_proj|k_proj|v_proj|o_proj|c_attn|query_key_value|attention\.dense)\.")
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if kind == "zero" and "norm" not in name:
                parameter.zero_()
            elif heads.search(name) and kind == "saturated":
                parameter *= 1000
            elif heads.search(name):
                parameter.fill_(0.0 if kind == "attention" else 0.1)
    model = interp.load_model(hf, tokenizer=word_tokenizer())
    whole = tiny(family).arch.layers
    assert [set(block.points) for block in model.arch.layers] == [set(b.points) for b in whole]
    assert [block.whole for block in model.arch.layers] == [None] * len(whole)


# --- without an adapter --------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, causal: bool):
        super().__init__()
        self.before, self.between = nn.LayerNorm(32), nn.LayerNorm(32)
        self.joint, self.back = nn.Linear(32, 96), nn.Linear(32, 32)
        self.wide, self.act, self.narrow = nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)
        self.causal = causal

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None):
        n = hidden.shape[1]
        q, k, v = self.joint(self.before(hidden)).unflatten(-1, (4, 3, 8)).unbind(-2)
        seen = torch.ones(n, n, dtype=torch.bool)
        seen = (seen.tril() if self.causal else seen)[None, None]
        if attention_mask is not None:
            seen = (seen & attention_mask[:, None, None].bool()) | torch.eye(n, dtype=torch.bool)
        z = nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=seen
        )
        hidden = hidden + self.back(z.transpose(1, 2).flatten(-2))
        return hidden + 0.5 * self.narrow(self.act(self.wide(self.between(hidden))))


class Handmade(nn.Module):
    """A model of no library: q, k and v in one projection, head by head; half of each MLP."""

    def __init__(self, causal: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.config = transformers.PreTrainedConfig(num_attention_heads=4)
        self.embed, self.norm = nn.Embedding(97, 32), nn.LayerNorm(32)
        self.stack = nn.ModuleList(Block(causal) for _ in range(3))
        self.head = nn.Linear(32, 97, bias=False)

    dtype = torch.float32

    @property
    def base_model(self):
        return self

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        hidden = self.embed(input_ids)
        for block in self.stack:
            hidden = block(hidden, attention_mask=attention_mask)
        hidden = self.norm(hidden)
        return SimpleNamespace(logits=self.head(hidden), last_hidden_state=hidden)


def test_a_family_without_an_adapter_is_mapped_by_its_structure():
    model = interp.load_model(Handmade(), tokenizer=word_tokenizer())
    for block in model.arch.layers:
        assert set(block.points) & EVERY == EVERY
        assert (block.n_heads, block.n_kv_heads, block.d_head, block.d_mlp) == (4, 4, 8, 48)
        assert (block.parts.attn_scale, block.parts.mlp_scale) == pytest.approx((1, 0.5))
        features = torch.arange(96).view(4, 3, 8)
        for i, site in enumerate("qkv"):
            assert torch.equal(block.points[site].features, features[:, i].flatten())


def test_patching_heads_without_an_adapter_equals_plain_hooks():
    model = interp.load_model(Handmade(), tokenizer=word_tokenizer())
    pair = tokenise(model, word_pairs())[0][0]
    got = interp.patch(model, word_pairs()[:1], site="z", over=("layer", "head"))
    clean, corrupt = (torch.tensor([ids]) for ids in (pair.clean, pair.corrupt))
    for layer in range(3):
        back = model.hf.stack[layer].back
        kept: list[torch.Tensor] = []
        handle = back.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0]))
        with torch.no_grad():
            model.hf(clean)
        handle.remove()
        for head in range(4):
            own = slice(8 * head, 8 * head + 8)

            def put(_, args, own=own, kept=kept):
                args[0][..., own] = kept[0][..., own]

            handle = back.register_forward_pre_hook(put)
            with torch.no_grad():
                logits = model.hf(corrupt).logits[0, -1]
            handle.remove()
            want = float(logits[pair.answer] - logits[pair.wrong_answer])
            assert float(got.values[0, layer, head]) == pytest.approx(want, abs=1e-4)


def test_the_built_in_families_are_whole():
    for family in ("llama", "gemma3", "gpt2", "gpt_neox", "olmo2"):
        assert [block.whole for block in tiny(family).arch.layers] == [None] * len(
            tiny(family).arch.layers
        )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "falcon_h1"])
def test_models_that_read_left_padding_run_padded_on_the_right(name: str, side: str):
    """Pairs and answers of several lengths at once, as each pair alone."""
    kind, options, _ = KINDS[name]
    model = interp.load_model(random_model(kind, **options), tokenizer=word_tokenizer())
    model = dataclasses.replace(model, arch=dataclasses.replace(model.arch, left_padding=False))
    model.tokenizer.padding_side = side
    rows = [asdict(pair) | {"answer": "w50 " * (i + 1)} for i, pair in enumerate(word_pairs())]
    plan = {"zero": interp.Ablate("mlp_post", layers=1, positions="last")}

    def measured(some: Any) -> list[np.ndarray]:
        own: Any = {"n_random": 0, "progress": False}
        return [
            interp.patch(model, some, "resid_pre", "layer", at="last").values.values,
            *(
                interp.ablate(model, some, "m1", how, **own).reading()["ablated"].values
                for how in ("zero", "resample")
            ),
            interp.sweep_plans(model, some, plan).values,
        ]

    alone = [measured(rows[i : i + 1]) for i in range(len(rows))]
    for at_once, *each in zip(measured(rows), *alone, strict=True):
        np.testing.assert_allclose(at_once, np.concatenate(each), atol=1e-4)
