"""Shared fixtures: tiny random models of every family, and the built-in models."""

import dataclasses
import functools
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from conformance.tiny_models import word_tokenizer  # noqa: E402

import interp  # noqa: E402
from interp.model.model import Model  # noqa: E402

ROOT = Path(__file__).parent.parent

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}
FAMILIES = {
    "llama": ("LlamaConfig", COMMON),
    "mistral": ("MistralConfig", COMMON | {"sliding_window": 4}),
    "qwen2": ("Qwen2Config", COMMON),
    "qwen3": ("Qwen3Config", COMMON | {"head_dim": 16}),
    "gemma2": ("Gemma2Config", COMMON | GEMMA | {"final_logit_softcapping": 3.0}),
    "gemma3": (
        "Gemma3TextConfig",
        COMMON | GEMMA | {"layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4}),
    "gptj": ("GPTJConfig", {"n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 3,
            "num_heads": 4,
            "intermediate_size": 56,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 4,
            "vocab_size": 97,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", {k: v for k, v in COMMON.items() if "key_value" not in k}),
    "phi3": ("Phi3Config", COMMON),
    "olmo2": ("Olmo2Config", COMMON),
}
GPT = {"vocab_size": 97, "n_positions": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tiny_hf(family: str) -> torch.nn.Module:
    """A random model of a family, with `strong` weights."""
    name, options = FAMILIES[family]
    if "n_embd" in options:
        options = GPT | options
    if family == "gemma3":
        options = options | {"num_hidden_layers": 4}
    config = getattr(transformers, name)(**options)
    torch.manual_seed(sum(map(ord, family)))
    return strong(transformers.AutoModelForCausalLM.from_config(config))


def strong(hf: torch.nn.Module) -> torch.nn.Module:
    """The model with weights so large that every path matters."""
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
            elif "bias" in name:
                parameter.normal_(std=0.1)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return hf


SHARED: list[tuple[Model, str, list[int]]] = []
"""Each model that `tiny` gave, the hash of its weights, and the counts of writes to them."""


@functools.cache
def tiny(family: str) -> Model:
    """A loaded tiny model; shared, so tests must leave it as it was."""
    model = interp.load_model(tiny_hf(family), tokenizer=word_tokenizer())
    SHARED.append((model, model.weights_hash, _writes(model)))
    return model


def _writes(model: Model) -> list[int]:
    return [p._version for p in model.hf.parameters()]


@pytest.fixture(autouse=True)
def _shared_models_stay_as_they_are():
    """A test that changes a shared model fails itself, not whichever test reads the model next."""
    yield
    for i, (model, weights, writes) in enumerate(SHARED):
        if (now := _writes(model)) != writes:
            SHARED[i] = (model, model.weights_hash, now)
            assert model.weights_hash == weights, (
                f"the test changed {model.name}, which others share"
            )


@pytest.fixture(params=list(FAMILIES))
def tiny_model(request: pytest.FixtureRequest) -> Model:
    """Every family in turn."""
    return tiny(request.param)


@pytest.fixture(scope="session")
def smollm() -> Model:
    """SmolLM2-135M with its real weights."""
    return interp.load_model("smollm2-135m", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def gemma() -> Model:
    """Gemma 3 270M with its real weights."""
    return interp.load_model("gemma-3-270m", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def qwen() -> Model:
    """Qwen2.5-Coder-0.5B-Instruct with its real weights; for tests that are marked slow."""
    return interp.load_model("qwen2.5-coder-0.5b", device="cpu", dtype="float32")


def remapped(model: Model, site: str, instead: str) -> Model:
    """The model with a site, in every layer, where another one lies: a wrong map."""
    layers = tuple(
        dataclasses.replace(block, points={**block.points, site: block.points[instead]})
        for block in model.arch.layers
    )
    return dataclasses.replace(model, arch=dataclasses.replace(model.arch, layers=layers))


def hooks_left(model: Model) -> list[object]:
    """Hooks that are still on a model's modules.

    Those of transformers itself do not count: a shared model that was once asked for its
    attention pattern keeps them.
    """
    kept = (h for m in model.hf.modules() for h in (m._forward_hooks, m._forward_pre_hooks))
    hooks = (hook for hooks in kept for hook in hooks.values())
    return [hook for hook in hooks if not hook.__module__.startswith("transformers.")]


def interp_pairs() -> interp.PromptPairs:
    """`word_pairs` in other words."""
    shifted = [
        {
            "clean": p.clean.replace("w1 ", "w60 ").replace("w7 ", "w61 "),
            "corrupt": p.corrupt.replace("w9 ", "w62 ").replace("w7 ", "w61 "),
            "answer": p.answer,
            "wrong_answer": p.wrong_answer,
        }
        for p in word_pairs()
    ]
    return interp.PromptPairs.from_records(shifted)


def word_pairs() -> interp.PromptPairs:
    """Three pairs of unequal length that differ at the first, a middle, and two words."""
    return interp.PromptPairs.from_records(
        [
            {
                "clean": "w1 w2 w3 w4 w5 w6",
                "corrupt": "w9 w2 w3 w4 w5 w6",
                "answer": "w20",
                "wrong_answer": "w21",
                "spans": {"s": ["w1", "w9"]},
            },
            {
                "clean": "w7 w8 w10 w11",
                "corrupt": "w7 w8 w12 w11",
                "answer": "w30",
                "wrong_answer": "w31",
                "spans": {"s": ["w8 w10", "w8 w12"]},
            },
            {
                "clean": "w5 w6 w7 w8 w9 w10 w11 w12",
                "corrupt": "w5 w6 w13 w8 w9 w14 w11 w12",
                "answer": "w40",
                "wrong_answer": "w41",
                "spans": {"s": ["w7 w8 w9 w10", "w13 w8 w9 w14"]},
            },
        ]
    )


def saved(folder: Path, hf: torch.nn.Module) -> str:
    """A model and its tokenizer as the command line takes them."""
    hf.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny model."""
    return saved(tmp_path_factory.mktemp("llama"), tiny_hf("llama"))


@pytest.fixture(scope="module")
def load_once():
    """Each tiny model is really loaded, by the command line, but once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interp, "load_model", functools.cache(interp.load_model))
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """A cache folder of the module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
