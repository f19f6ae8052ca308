"""Tiny random models of every causal language model class in transformers, for conformance tests.

`tiny_model("qwen3_moe")` is a Hugging Face model of two to five blocks, one of each kind that the
class has, to be loaded with `word_tokenizer()`.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from interp.errors import ModelError, did_you_mean

VOCAB = 97
WORDS = [f"w{i}" for i in range(90)]

_FIELDS = {
    VOCAB: "vocab_size vocab_size_per_layer_input unpadded_vocab_size ngram_vocab_size_base "
    "encoder_hash_byte_group_vocab",
    32: "hidden_size d_model n_embd emb_dim embedding_size embedding_dim input_embedding_size "
    "output_embedding_size word_embed_proj_dim attention_hidden_size dim_model_base lru_width "
    "output_size global_input_size cross_attention_hidden_size ple_embed_dim "
    "pronunciation_embed_dim shape_embed_dim",
    48: "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim d_ff dim_ff ffn_hidden_size "
    "n_inner d_inner feed_forward_size intermediate_size_mlp dense_intermediate_size",
    24: "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
    "moe_shared_expert_intermediate_size shared_experts_intermediate_size "
    "expert_ffn_hidden_size router_hidden_size",
    16: "index_n_heads ssm_state_size q_lora_rank o_lora_rank rel_extent ngram_size_base",
    12: "kv_lora_rank",
    8: "head_dim v_head_dim qk_nope_head_dim kv_channels index_head_dim swa_head_dim dim_head "
    "linear_key_head_dim linear_value_head_dim linear_head_dim state_size mamba_d_state "
    "mamba_head_dim mamba_d_head chunk_size mamba_chunk_size block_size attention_head_size d_head "
    "laurel_rank hidden_size_per_layer_input adapter_rank query_pre_attn_scalar d_rel hc_lowrank "
    "gated_norm_rank d_kv mamba_headdim ffn_round_up_to_multiple_of block_multiple_of",
    4: "num_attention_heads num_heads n_head n_heads decoder_attention_heads attention_heads "
    "encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts moe_num_local_experts sliding_window "
    "sliding_window_size window_size attention_window_size attention_chunk_size local_attention "
    "qk_rope_head_dim rotary_dim linear_num_value_heads linear_num_heads swa_num_attention_heads "
    "n_mamba_heads mamba_n_heads mamba_num_heads time_step_rank mamba_dt_rank zero_expert_num "
    "num_query_groups",
    2: "num_key_value_heads num_kv_heads num_experts_per_tok num_experts_per_token moe_topk moe_k "
    "linear_num_key_heads swa_num_key_value_heads index_topk n_groups "
    "mamba_n_groups o_groups hc_mult hc_count heads_per_ngram num_hidden_layers n_layer n_layers "
    "num_layers decoder_layers encoder_layers num_decoder_layers num_encoder_layers num_blocks",
    1: "n_group topk_group num_expert_group mamba_ngroups first_k_dense_replace "
    "moe_layer_start_index num_kv_shared_layers num_mem_blocks num_dense_layers index_topk_blocks",
    64: "max_position_embeddings n_positions max_seq_len context_length n_ctx",
}
SIZES = {name: size for size, names in _FIELDS.items() for name in names.split()}
"""What a field of a config is set to wherever it exists, is a number; `SETTINGS` comes first."""

_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8}
_SHARED_BLOCKS = {  # of Zamba: attention reads the embeddings beside the stream
    "attention_hidden_size": 64,
    "attention_head_dim": 16,
    "num_key_value_heads": 4,
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
    "num_hidden_layers": 4,
}
_ALL_SHARED = {
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 2,
    "num_hidden_layers": 2,
}
_INDEXER = {
    "indexer_n_heads": 16,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}
_MULTIPLIERS = {
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.5,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_DECODERS = (
    "bert big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta "
    "roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod reformer"
)
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"is_decoder": True} for name in _DECODERS.split()},
    "bamba": _MAMBA,
    "blt": {
        "encoder_config": {"hidden_size_global": 64},
        "decoder_config": {"hidden_size_global": 64},
        "global_config": {"hidden_size": 64},
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "ctrl": {"dff": 48},
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"per_layer_config": {}, "head_dim": 12},
    "dots3_note": {
        "text_config": {"per_layer_config": {}, "head_dim": 12},
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "falcon_h1": _MAMBA
    | {"mamba_d_ssm": 64, "attention_out_multiplier": 0.5, "ssm_out_multiplier": 0.7},
    "gemma3n_text": {"intermediate_size": 48},
    "gemma4": {"text_config": {"global_head_dim": 16}},
    "gemma4_assistant": {"text_config": _ALL_SHARED},
    "gemma4_text": {"global_head_dim": 16},
    "gemma4_unified": {"text_config": {"global_head_dim": 16}},
    "gemma4_unified_text": {"global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite": _MULTIPLIERS,
    "granite_swa": _MULTIPLIERS,
    "granitemoe": _MULTIPLIERS,
    "granitemoe_swa": _MULTIPLIERS,
    "granitemoehybrid": _MAMBA | _MULTIPLIERS,
    "granitemoeshared": _MULTIPLIERS,
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp": {"text_config": _INDEXER},
    "qwen4_exp_text": _INDEXER,
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "attn_layers": ["local", "lsh"],
        "num_buckets": 2,
    },
    "xlstm": {"autocast_kernel_dtype": "float32"},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "zamba": _SHARED_BLOCKS,
    "zamba2": _SHARED_BLOCKS | {"n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
}
"""What else a model type needs."""


def word_tokenizer(padding_side: str = "right") -> PreTrainedTokenizerFast:
    """One token a word, "w0" to "w89", so that lengths are plain to see."""
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {w: i + 4 for i, w in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side=padding_side,
    )


def tiny_config(model_type: str) -> Any:
    """A small config of a model type of transformers' causal-LM mapping; `ModelError` if unknown.

    Where blocks differ there is one of each kind, and one more.
    """
    if model_type not in CLASSES:
        raise ModelError(f"no model type {model_type!r}. {did_you_mean(model_type, CLASSES)}")
    kind = CONFIG_MAPPING[model_type]
    return kind(**_small(kind, SETTINGS.get(model_type, {})))


def _small(kind: Any, own: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a config class: its own fields made small, inner configs among them."""
    try:
        default = kind().to_dict()
    except Exception:  # a default that the class itself refuses
        default = {
            name: 1 for base in kind.__mro__ for name in getattr(base, "__annotations__", {})
        }
    inner = {name: _inner(of, default.get(name)) for name, of in kind.sub_configs.items()}
    given = {
        name: SIZES[name]
        for name, value in default.items()
        if name in SIZES and isinstance(value, int) and not isinstance(value, bool)
    }
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    given |= {name: token for name, token in special.items() if name in default}
    if "kv_lora_rank" in given:  # latent attention: rotary widths, and no groups
        given |= {"num_key_value_heads": 4} | ({"head_dim": 4} if "head_dim" in given else {})
    given |= {name: _small(of, own.get(name, {})) for name, of in inner.items() if of}
    given |= {name: value for name, value in own.items() if not inner.get(name)}
    return given | _kinds_of_blocks(default, given)


def _inner(of: Any, default: Any) -> Any:
    """The class of an inner config; ``None`` where it is absent."""
    if not isinstance(default, dict):
        return None
    return CONFIG_MAPPING[default["model_type"]] if of.__name__ == "AutoConfig" else of


def _kinds_of_blocks(default: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """One block of each kind and another one: attention in turn, MLPs with the last kind again."""
    kinds = {
        name: list(dict.fromkeys(default[name]))
        for name in ("layer_types", "mlp_layer_types", "layers_block_type", "block_types")
        if isinstance(default.get(name), list) and name not in given
    }
    if not kinds:
        return {}
    n = max(2, *(len(each) + (len(each) > 1) for each in kinds.values()))
    last = {"mlp_layer_types"}
    lists = {
        name: [each[min(i, len(each) - 1) if name in last else i % len(each)] for i in range(n)]
        for name, each in kinds.items()
    }
    return lists | ({"num_hidden_layers": n} if "num_hidden_layers" in given else {})


def tiny_model(model_type: str, seed: int = 0) -> nn.Module:
    """A random model of a model type, with weights large enough that every path matters."""
    import transformers

    config = tiny_config(model_type)
    torch.manual_seed(seed)
    if hasattr(config, "decoder"):  # of a composition for sound, what writes tokens
        hf = getattr(transformers, CLASSES[model_type])(config.decoder)
    else:
        hf = transformers.AutoModelForCausalLM.from_config(config)
    hf.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            enlarge(name, parameter)
    return hf.eval()


def enlarge(name: str, parameter: torch.Tensor) -> None:
    """Widen one initial weight, in place: matrices drawn from a narrow normal, norms, biases."""
    if not bool(parameter.isfinite().all()):
        parameter.normal_(std=0.1)
    elif parameter.ndim > 1:
        spread = float(parameter.std())
        if spread < 0.1:
            parameter.mul_(6) if spread > 0 else parameter.normal_(std=0.1)
    elif "bias" in name:
        parameter.normal_(std=0.1)
    else:
        parameter.add_(0.2 * torch.randn_like(parameter))
