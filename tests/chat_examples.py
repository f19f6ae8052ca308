"""Chat templates in the styles of three families, and a tiny model that reads them by character."""

import functools
import string

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from interp.loading.load import load_model
from interp.model.model import Model

CHATML = """\
{%- if tools %}{{ '<|im_start|>system\\n# Tools\\n' }}
{%- if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n' }}{% endif %}
{%- for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '<|im_end|>\\n' }}
{%- elif messages[0]['role'] == 'system' %}
{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages if message['role'] != 'system' %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
{{- raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

LLAMA3 = """\
{%- if not thinking is defined %}{% set thinking = true %}{% endif %}
{{- bos_token }}{% for message in messages %}
{%- set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' %}
{{- content }}{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- if not thinking %}{{ '[direct]' }}{% endif %}{% endif %}"""

TEMPLATES = {"chatml": CHATML, "gemma": GEMMA, "llama3": LLAMA3}
SPECIAL = [
    *("<s>", "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
]


def character_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """One token per character or special token, a BOS before every text but a rendered chat."""
    vocabulary = {text: i for i, text in enumerate([*SPECIAL, *string.printable])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    made.chat_template = template
    return made


@functools.cache
def chat_model(style: str) -> Model:
    """A tiny random Llama that reads chats in a style of `TEMPLATES`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(string.printable),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    tokenizer = character_tokenizer(TEMPLATES[style])
    return load_model(LlamaForCausalLM(config), tokenizer=tokenizer, device="cpu")
