"""Latents of latent attention, and gates on a mixer's output."""

from functools import partial

import pytest
import torch
from conformance.tiny_models import tiny_model
from conftest import tiny, word_pairs, word_tokenizer
from moe_models import tiny_mixture

import interp
from interp.model.architecture import USUAL
from interp.model.model import Model


def attention_of(model: Model, layer: int) -> torch.nn.Module:
    return model.blocks[layer].self_attn


def _write(_: torch.nn.Module, args: tuple[torch.Tensor], value: torch.Tensor) -> None:
    args[0].copy_(value)


def test_latents_make_the_heads_queries_keys_and_values():
    """Written from another prompt, they equal a plain hook on the maps that read them."""
    model, layer = tiny_mixture("deepseek_v3"), 1
    prompts = ["w1 w2 w3 w4", "w9 w2 w5 w4"]
    for site, name in (("q_latent", "q_b_proj"), ("kv_latent", "kv_b_proj")):
        module = getattr(attention_of(model, layer), name)
        found = interp.activations(model, prompts, site, layer)
        assert found[layer].shape == (2, 4, module.in_features)
        plan = interp.Patch(site, found[layer][1:].expand(2, -1, -1), layers=layer)
        got = interp.forward(model, prompts, plan).logits
        write = partial(_write, value=found[layer][1])
        hook = module.register_forward_pre_hook(write)
        try:
            ids = torch.tensor([model.encode(prompt) for prompt in prompts])
            want = model.hf(ids, use_cache=False).logits[:, -1]
        finally:
            hook.remove()
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    sweep = interp.patch(model, word_pairs(), "kv_latent", over="layer,pos")
    assert sweep.values.layer.values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind, name", [("laguna", "g_proj"), ("afmoe", "gate_proj")])
def test_a_gate_of_its_own_is_a_site(kind: str, name: str):
    model = interp.load_model(tiny_model(kind), tokenizer=word_tokenizer())
    module = getattr(attention_of(model, 1), name)
    seen: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _, __, out: seen.append(out))
    model.hf(torch.tensor([model.encode("w1 w2 w3")]), use_cache=False)
    handle.remove()
    found = interp.activations(model, ["w1 w2 w3"], "mixer_gate", 1)[1]
    torch.testing.assert_close(found.flatten(), seen[0].flatten())


def test_most_blocks_have_neither():
    missing = tiny("llama").arch.missing
    assert {missing[site] for site in ("q_latent", "kv_latent", "mixer_gate")} <= set(USUAL)
