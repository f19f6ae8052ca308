"""Tiny random mixtures of experts, and their forwards written out by hand, token by token."""

import contextlib
import functools

import torch
import transformers
from conftest import COMMON, strong, word_tokenizer
from torch import Tensor, nn

import interp
from interp.model.model import Model

GROUPS = {"n_group": 2, "topk_group": 1, "n_shared_experts": 2, "routed_scaling_factor": 1.7}
SIGMOID = GROUPS | {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 12}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
MIXTURES = {
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "head_dim": 8},
    ),
    "gpt_oss": (
        "GptOssConfig",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 4},
    ),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "granitemoe": ("GraniteMoeConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "glm4_moe": ("Glm4MoeConfig", SIGMOID | {"first_k_dense_replace": 1, "head_dim": 8}),
    "deepseek_v3": (
        "DeepseekV3Config",
        SIGMOID | LATENT | {"first_k_dense_replace": 1, "v_head_dim": 8, "num_key_value_heads": 4},
    ),
}
OTHERS = {
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 12,
            "shared_expert_intermediate_size": 10,
        },
    ),
    "llama4": (
        "Llama4TextConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "head_dim": 8,
            "intermediate_size_mlp": 40,
        },
    ),
    "lfm2_moe": (
        "Lfm2MoeConfig",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 12,
            "num_dense_layers": 1,
            "layer_types": ["conv", "full_attention", "conv"],
        },
    ),
}


@functools.cache
def tiny_mixture(family: str) -> Model:
    """A loaded tiny mixture of experts; shared, so tests must leave it as it was."""
    name, options = (MIXTURES | OTHERS)[family]
    config = getattr(transformers, name)(**(COMMON | options))
    torch.manual_seed(sum(map(ord, family)))
    hf = strong(transformers.AutoModelForCausalLM.from_config(config))
    with torch.no_grad():
        for path, buffer in hf.named_buffers():
            if "correction_bias" in path:
                buffer.normal_(std=0.3)
    return interp.load_model(hf, tokenizer=word_tokenizer())


def mixture_of(model: Model, layer: int) -> nn.Module:
    """The module that holds a layer's router and experts."""
    return model.blocks[layer].get_submodule(model.mixtures[layer].experts.rpartition(".")[0])


def routing_by_hand(family: str, moe: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(router's logits, dense routing weights) of flat tokens."""
    router = getattr(moe, "gate", None) or moe.router
    logits = x @ router.weight.T + getattr(router, "bias", 0)
    return logits, torch.stack([_weights_by_hand(family, router, row) for row in logits])


def _weights_by_hand(family: str, router: nn.Module, logits: Tensor) -> Tensor:
    weights = torch.zeros_like(logits)
    if family in ("glm4_moe", "deepseek_v3"):
        scores = logits.sigmoid()
        choice = (scores + router.e_score_correction_bias).tolist()
        halves = (range(0, 4), range(4, 8))
        group = max(halves, key=lambda half: sum(sorted(choice[i] for i in half)[-2:]))
        chosen = sorted(group, key=lambda i: -choice[i])[:3]
        total = sum(scores[i] for i in chosen)
        for i in chosen:
            weights[i] = scores[i] / total * 1.7
        return weights
    chosen = sorted(range(len(logits)), key=lambda i: -logits[i].item())[:2]
    exps = logits.exp()
    # Qwen3-MoE takes a softmax over all experts, the others one over those chosen
    total = exps.sum() if family == "qwen3_moe" else sum(exps[i] for i in chosen)
    for i in chosen:
        weights[i] = exps[i] / total
    return weights


def neurons_by_hand(family: str, moe: nn.Module, x: Tensor, expert: int) -> Tensor:
    """The neurons of one expert, of every flat token."""
    both = moe.experts.gate_up_proj[expert]
    if family == "gpt_oss":
        out = x @ both + moe.experts.gate_up_proj_bias[expert]
        gate, up = out[:, 0::2].clamp(max=7), out[:, 1::2].clamp(-7, 7)
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)
    gate, up = both.split(len(both) // 2)
    return nn.functional.silu(x @ gate.T) * (x @ up.T)


def output_by_hand(family: str, moe: nn.Module, neurons: Tensor, expert: int) -> Tensor:
    """What one expert makes of its neurons, before its routing weight."""
    if family == "gpt_oss":
        return neurons @ moe.experts.down_proj[expert] + moe.experts.down_proj_bias[expert]
    return neurons @ moe.experts.down_proj[expert].T


def shared_by_hand(moe: nn.Module, x: Tensor) -> Tensor:
    """What the shared experts add; 0 without."""
    s = getattr(moe, "shared_experts", None)
    if s is None:
        return torch.zeros_like(x)
    neurons = nn.functional.silu(x @ s.gate_proj.weight.T) * (x @ s.up_proj.weight.T)
    return neurons @ s.down_proj.weight.T


@contextlib.contextmanager
def by_hand(model: Model, family: str, layer: int, change):
    """Run a layer's mixture as written out by hand: change(logits, weights, neurons, outputs)."""
    moe = mixture_of(model, layer)

    def forward(hidden: Tensor):
        x = hidden.flatten(0, -2)
        logits, weights = routing_by_hand(family, moe, x)
        each = range(weights.shape[1])
        neurons = torch.stack([neurons_by_hand(family, moe, x, e) for e in each], 1)
        outputs = [output_by_hand(family, moe, neurons[:, e], e) for e in each]
        total = change(logits, weights, neurons, torch.stack(outputs, 1))
        out = (total + shared_by_hand(moe, x)).view_as(hidden)
        return (out, weights) if family == "gpt_oss" else out

    moe.forward = forward
    try:
        yield
    finally:
        del moe.forward


def mixed(logits: Tensor, weights: Tensor, neurons: Tensor, outputs: Tensor) -> Tensor:
    return (weights[:, :, None] * outputs).sum(1)
