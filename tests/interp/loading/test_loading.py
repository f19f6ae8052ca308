"""What `load_model` takes and refuses: other architectures, damaged files, Hub ids."""

import json
import random
import re
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from conformance.tiny_models import tiny_model
from conftest import COMMON, GPT, strong, tiny_hf, word_pairs, word_tokenizer
from gguf_examples import tiny_gguf
from safetensors.torch import load_file, save_file

import interp
from interp import Add
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, InterpError, ModelError, PlanError
from interp.loading.gguf_header import check_gguf
from interp.model.model import Model

PARTIAL = {
    "mixtral": ("mlp_post", "mixture of experts"),
    "gpt_oss": ("mlp_post", "mixture of experts"),
    "granitemoe": ("mlp_post", "mixture of experts"),
    "deepseek_v3": ("q", "latent attention"),
    "lfm2_moe": ("z", "does not attend by heads"),
    "qwen3_next": ("z", "does not attend by heads"),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Conversions stay out of the user's cache."""
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=PARTIAL)
def partial(request: pytest.FixtureRequest) -> tuple[Model, str, str]:
    """A model that cannot have every site, one that it lacks, and why."""
    model = interp.load_model(tiny_model(request.param), tokenizer=word_tokenizer())
    return model, *PARTIAL[request.param]


def test_tokens_in_one_flat_axis_are_laid_out_by_row():
    """OPT's MLP takes the tokens of all rows together."""
    model = interp.load_model(tiny_model("opt"), tokenizer=word_tokenizer())
    assert {"mlp_out", "mlp_post", "resid_mid"} <= set(model.arch.sites)
    assert [check for check in interp.validate(model) if not check.holds] == []
    prompts = ["w1 w2 w3", "w4 w5"]
    both = interp.activations(model, prompts, "mlp_post", 1)[1]
    alone = interp.activations(model, prompts[1:], "mlp_post", 1)[1]
    torch.testing.assert_close(both[1, :2], alone[0])


def test_a_site_of_another_shape_is_missing_and_the_rest_is_there(partial):
    model, site, why = partial
    assert {"resid_pre", "resid_post"} <= set(model.arch.sites)
    lacking = [n for n, block in enumerate(model.arch.layers) if site in block.missing]
    assert lacking
    assert all(re.search(why, model.arch.layers[n].missing[site]) for n in lacking)
    with pytest.raises(PlanError, match=why):
        interp.patch(model, word_pairs(), site=site, layers=lacking[:1])
    with pytest.raises(PlanError, match=why):
        interp.forward(model, ["w1 w2"], Add(site, torch.zeros(32), layers=lacking[:1]))
    checks = interp.validate(model)
    assert [check for check in checks if not check.holds] == []
    if site in model.arch.missing:
        assert f"no {site}: {model.arch.missing[site]}" in checks[0].detail
        return
    having = model.arch.layers_with(site)
    got = interp.patch(model, word_pairs(), site=site)  # by default the layers that have it
    assert tuple(got.values.layer.values) == having
    assert tuple(interp.activations(model, ["w1 w2"], site).layers) == having


def test_a_joint_projection_that_the_adapter_cannot_split_is_found():
    """TransformerLens splits GPT-BigCode's for one key-value head; here each head has its own."""
    config = transformers.GPTBigCodeConfig(n_embd=32, n_layer=2, n_head=4, multi_query=False, **GPT)
    torch.manual_seed(0)
    hf = strong(transformers.GPTBigCodeForCausalLM(config))
    model = interp.load_model(hf, tokenizer=word_tokenizer())
    assert {"q", "k", "v", "z"} <= set(model.arch.sites)
    assert (model.arch.layers[0].n_heads, model.arch.layers[0].n_kv_heads) == (4, 4)
    width, joint = 8, hf.transformer.h[0].attn.c_attn
    got = interp.activations(model, ["w1 w2 w3"], "k", 0)[0][0]
    stream = interp.activations(model, ["w1 w2 w3"], "resid_pre", 0)[0][0]
    want = joint(hf.transformer.h[0].ln_1(stream)).view(3, 4, 3, width)[:, :, 1]
    torch.testing.assert_close(got.view(3, 4, width), want)
    assert [check for check in interp.validate(model) if not check.holds] == []


# --- what is refused -----------------------------------------------------------------------------

PLAIN = {key: value for key, value in COMMON.items() if key != "num_key_value_heads"}
BOTH_WAYS = {
    "head_dim": 8,
    "sliding_window": 4,
    "query_pre_attn_scalar": 8,
    "use_bidirectional_attention": True,
}


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("BertConfig", PLAIN | {"is_decoder": False}, "is not causal"),
        ("Gemma3TextConfig", COMMON | BOTH_WAYS, "is not causal"),
        ("ModernBertDecoderConfig", PLAIN, "logits are not the final norm and the unembedding"),
    ],
)
@pytest.mark.parametrize("scale", [1, 6])
def test_what_interp_would_compute_wrongly_is_refused(name: str, options: dict, says, scale: int):
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**options))
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1)
    with pytest.raises(ModelError, match=says):
        interp.load_model(hf, tokenizer=word_tokenizer())


@pytest.mark.parametrize("scale", [0.5, 1, 6])
def test_reading_later_tokens_is_noticed_in_sixteen_bits(scale: float):
    """Both rows run in one batch, so nothing of it is rounding."""
    torch.manual_seed(0)
    hf = transformers.BertLMHeadModel(transformers.BertConfig(**PLAIN)).bfloat16()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1)
    with pytest.raises(ModelError, match="is not causal"):
        interp.load_model(hf, tokenizer=word_tokenizer())


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_experts_that_round_by_batch_load_in_sixteen_bits(name: str):
    hf = tiny_model(name).bfloat16()
    assert interp.load_model(hf, tokenizer=word_tokenizer()).dtype == torch.bfloat16


def test_models_of_another_kind_are_refused():
    vision = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=56
    )
    others = [
        transformers.ViTForImageClassification(vision),
        transformers.BertModel(transformers.BertConfig(**PLAIN)),
        transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=97, d_model=32, d_ff=56, num_layers=2, num_heads=4)
        ),
        tiny_hf("llama").model,
    ]
    for hf in others:
        with pytest.raises(ModelError) as caught:
            interp.load_model(hf, tokenizer=word_tokenizer())
        assert "\n" not in str(caught.value)


# --- Hub ids -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", ["gpt2", "no-such-model", "owner/name"])
def test_a_hub_id_that_is_not_cached_is_tried_and_named(ref: str):
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        interp.load_model(ref)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert f"unknown model {ref!r}: no built-in name" in message
    assert "not cached here and could not be fetched: HF_HUB_OFFLINE is set" in message
    assert "Available: gemma-3-270m, qwen2.5-coder-0.5b, smollm2-135m" in message
    assert "\n" not in message


@pytest.mark.parametrize("ref", ["a/b/c", "", "no model", "-x", "../gpt2", "owner/name/"])
def test_what_cannot_be_a_hub_id_is_not_asked_for(ref: str, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", None)
    with pytest.raises(ModelError, match="unknown model .* not a built-in name"):
        interp.load_model(ref)


# --- damaged files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model."""
    path = tmp_path_factory.mktemp("saved")
    tiny_hf("llama").save_pretrained(path, max_shard_size="20KB")
    word_tokenizer().save_pretrained(path)
    return path


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


BROKEN = ("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors.index.json")


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '{"a": 1}', '{"model_type": 7}', '{"weight_map": []}', "\xff\x00"],
)
def test_a_broken_file_of_a_folder_gets_one_sentence(folder, tmp_path, name: str, text: str):
    here = copied(folder, tmp_path / "broken")
    (here / name).write_bytes(text.encode("latin-1"))
    loads_or_says_why(str(here))


@pytest.mark.parametrize("seed", range(40))
def test_a_mutated_folder_gets_one_sentence(folder, tmp_path, seed: int):
    rng = random.Random(seed)
    here = copied(folder, tmp_path / "mutated")
    file = here / BROKEN[seed % len(BROKEN)]
    document = json.loads(file.read_text())
    mutate(document, rng)
    file.write_text(json.dumps(document))
    loads_or_says_why(str(here))


def mutate(document, rng: random.Random) -> None:
    """Give one entry of a JSON document, at any depth, a value of another kind."""
    at = document
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = rng.choice(keys)
        if not (isinstance(at[key], dict | list) and at[key]) or rng.random() < 0.2:
            break
        at = at[key]
    at[key] = rng.choice([None, -1, 10**12, "x", [], {}, 1.5, True, float("nan"), [[[]]], ""])


def loads_or_says_why(ref: str) -> None:
    try:
        model = interp.load_model(ref, device="cpu")
    except InterpError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 600, message
    else:
        assert model.encode("w1 w2") is not None


def test_missing_weights_are_not_made_up(folder, tmp_path):
    here = copied(folder, tmp_path / "lacking")
    index = json.loads((here / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    config = json.loads((here / "config.json").read_text()) | {"num_hidden_layers": 4}
    (here / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lack 9 weights, such as 'model\.layers\.3\."):
        interp.load_model(str(here))


# --- tokenizers and embeddings of different sizes ------------------------------------------------


def small(rows: int) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**COMMON | {"vocab_size": rows})
    return transformers.AutoModelForCausalLM.from_config(config)


def test_words_beyond_the_embedding_are_refused_when_loading(tmp_path):
    tokenizer = word_tokenizer()
    small(60).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for given in (str(tmp_path), small(60)):
        with pytest.raises(ModelError, match=r"has 60 rows, and 34 .* such as 'w56' \(id 60\)"):
            interp.load_model(given, tokenizer=tokenizer)
    assert interp.load_model(small(128), tokenizer=tokenizer).n_vocab == 128


def test_only_a_prompt_with_an_added_token_beyond_the_embedding_is_refused():
    """As Gemma 3's tokenizer has a token for images that its text models do not embed."""
    more = word_tokenizer()
    rows = len(more)
    more.add_special_tokens({"pad_token": "[PAD]"})
    assert more.pad_token_id == rows
    hf = small(rows)
    model = interp.load_model(hf, tokenizer=more)
    assert model.arch.left_padding
    assert model.arch.gaps
    both = interp.activations(model, ["w1 w2 w3", "w4 w5"], "resid_post", 1)[1]
    torch.testing.assert_close(
        both[1, :2], interp.activations(model, ["w4 w5"], "resid_post", 1)[1][0]
    )
    assert len(interp.generate(model, ["w1 w2 w3", "w4"], max_new_tokens=2)) == 2
    says = rf"the token '\[PAD\]' \(id {rows}\) .* has {rows} rows"
    for given in ("w1 [PAD] w2", TokenPrompt((1, rows))):
        with pytest.raises(DataError, match=says):
            interp.activations(model, [given], "resid_post", 1)
    with pytest.raises(DataError, match=r"\(id -1\)"):
        interp.activations(model, [TokenPrompt((1, -1))], "resid_post", 1)


# --- weights that are left over ------------------------------------------------------------------


def left_over(folder: Path, to: Path, *names: str, **config) -> Path:
    """A copy of a saved model with more weights in its files, or another config."""
    here = copied(folder, to)
    (here / "config.json").write_text(
        json.dumps(json.loads((here / "config.json").read_text()) | config)
    )
    index = json.loads((here / "model.safetensors.index.json").read_text())
    save_file({name: torch.ones(3) for name in names}, here / "more.safetensors")
    index["weight_map"] |= dict.fromkeys(names, "more.safetensors")
    (here / "model.safetensors.index.json").write_text(json.dumps(index))
    return here


def test_a_layer_that_the_config_leaves_out_is_refused(folder, tmp_path):
    here = left_over(folder, tmp_path / "fewer", num_hidden_layers=2)
    with pytest.raises(ModelError, match=r"9 weights .*\('model\.layers\.2\.input_.* and 6 more\)"):
        interp.load_model(str(here))


LEFT_OVER = (
    "model.layers.0.self_attn.q_proj.bias",  # a config without attention_bias
    "model.layers.0.self_attn.q_norm.weight",
    "model.embed_norm.weight",
    "model.encoder.layers.0.fc1.weight",
    "lm_head.bias",
    "unknown.weight",
)
BESIDE = (
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.layers.1.attn.masked_bias",
    "vision_tower.layers.0.self_attn.q_proj.weight",
    "model.visual.blocks.0.attn.qkv.weight",
    "multi_modal_projector.linear_1.weight",
    "mtp.layers.0.mlp.up_proj.weight",
    "model.layers.3.eh_proj.weight",  # DeepSeek's layer that predicts a further token
    "model.layers.3.mlp.up_proj.weight",
    "v_head.summary.weight",
)


@pytest.mark.parametrize("name", LEFT_OVER)
def test_a_weight_that_the_model_does_not_use_is_refused(folder, tmp_path, name: str):
    with pytest.raises(ModelError, match=rf"1 weight .* \('{re.escape(name)}'\)"):
        interp.load_model(str(left_over(folder, tmp_path / "more", name, *BESIDE)))


def test_constants_towers_and_heads_beside_the_model_are_left_out(folder, tmp_path):
    here = left_over(folder, tmp_path / "beside", *BESIDE)
    assert interp.load_model(str(here)).weights_hash == interp.load_model(str(folder)).weights_hash


def test_buffers_that_older_files_hold_are_left_out(tmp_path):
    hf = tiny_hf("gpt_neo")
    names = [f"transformer.h.0.attn.attention.{name}" for name in ("bias", "masked_bias")]
    state = hf.state_dict() | {name: torch.ones(1) for name in names}
    hf.save_pretrained(tmp_path, state_dict=state)
    word_tokenizer().save_pretrained(tmp_path)
    assert set(names) <= set(load_file(tmp_path / "model.safetensors"))
    assert interp.load_model(str(tmp_path)).arch.n_layers == 3


# --- GGUF ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_one_part_of_a_split_gguf_file_is_said_to_be_that(gguf_file: Path, tmp_path):
    part = tmp_path / "tiny-00002-of-00003.gguf"
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_uint16("split.no", 1)
    writer.add_uint16("split.count", 3)
    writer.add_tensor("blk.1.attn_q.weight", np.zeros((32, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"one of the 3 parts .*; merge them first") as said:
        interp.load_model(str(part))
    assert "damaged" not in str(said.value)


def header_size(file: Path) -> int:
    return int(gguf.GGUFReader(file).data_offset)


def mutated(data: bytes, header: int, rng: random.Random) -> bytes:
    """One to three bytes, a whole count, or the file's length changed."""
    out = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(out[: rng.randrange(len(out))])
    if kind == 1:
        at = rng.randrange(header - 8)
        out[at : at + 8] = rng.choice([0, 1, 2**16, 2**31, 2**40, 2**63, 2**64 - 1]).to_bytes(
            8, "little"
        )
        return bytes(out)
    for _ in range(rng.randint(1, 3)):
        out[rng.randrange(header)] = rng.randrange(256)
    return bytes(out)


def test_a_sound_gguf_file_loads(gguf_file: Path):
    check_gguf(gguf_file)
    model = interp.load_model(str(gguf_file), device="cpu")
    assert (model.arch.n_layers, model.arch.d_model, model.arch.d_mlp) == (2, 32, 48)


def test_mutated_gguf_headers_neither_hang_nor_raise_anything_else(gguf_file: Path, tmp_path):
    data, header = gguf_file.read_bytes(), header_size(gguf_file)
    file, refused = tmp_path / "mutated.gguf", 0
    for seed in range(1000):
        file.write_bytes(mutated(data, header, random.Random(seed)))
        start = time.monotonic()
        try:
            check_gguf(file)
        except ModelError as error:
            refused += 1
            assert "\n" not in str(error)
        assert time.monotonic() - start < 2, seed
    assert 400 < refused < 1000


@pytest.mark.parametrize(
    "seeds", [range(60)] + [pytest.param(range(60, 3000), marks=pytest.mark.slow)]
)
def test_mutated_gguf_files_load_or_say_why(gguf_file: Path, tmp_path, seeds):
    data, header = gguf_file.read_bytes(), header_size(gguf_file)
    for seed in seeds:
        file = tmp_path / f"{seed}.gguf"
        file.write_bytes(mutated(data, header, random.Random(seed)))
        start = time.monotonic()
        try:
            interp.load_model(str(file), device="cpu")
        except InterpError as error:
            assert "\n" not in str(error)
        assert time.monotonic() - start < 30, seed
        file.unlink()
