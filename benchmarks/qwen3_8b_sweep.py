"""Layer x position sweep at the shape of Qwen3-8B, random weights, on one GPU.

    python benchmarks/qwen3_8b_sweep.py [--hooks]

Prints one JSON object: seconds of `interp.patch` on one pair of 32 tokens that differ from the
first token on (median of five), the matrix products alone, peak memory, and, with ``--hooks``, one
plain forward pass a cell. Agreement with those is checked on a small model in fp32.
"""

import json
import sys
import time
from statistics import median

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

import interp
from interp.bench.baselines import sweep_with_hooks
from interp.bench.bound import bound_seconds
from interp.data.pairs import tokenise

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}
SMALL = SHAPE | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}


def word_tokenizer(n: int = 1000) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel({f"w{i}": i for i in range(n)}, unk_token="w0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="w0", unk_token="w0")


def random_model(shape: dict, dtype: torch.dtype) -> interp.Model:
    torch.manual_seed(0)
    with torch.device("cuda"):
        torch.set_default_dtype(dtype)
        hf = AutoModelForCausalLM.from_config(Qwen3Config(**shape), dtype=dtype)
        torch.set_default_dtype(torch.float32)
    return interp.load_model(hf, tokenizer=word_tokenizer())


def one_pair(n_tokens: int) -> interp.PromptPairs:
    clean = " ".join(f"w{i}" for i in range(10, 10 + n_tokens))
    corrupt = " ".join(f"w{i}" for i in range(500, 500 + n_tokens))
    row = {"clean": clean, "corrupt": corrupt, "answer": "w900", "wrong_answer": "w901"}
    return interp.PromptPairs.from_records([row])


def timed(run) -> tuple[float, object]:
    torch.cuda.synchronize()
    start = time.perf_counter()
    out = run()
    torch.cuda.synchronize()
    return time.perf_counter() - start, out


def main() -> None:
    pairs = one_pair(32)
    small = random_model(SMALL, torch.float32)
    ours = torch.from_numpy(interp.patch(small, pairs).values.values[0]).float()
    naive = sweep_with_hooks(small, tokenise(small, pairs, "single")[0][0], "resid_pre")
    report = {"fp32_max_abs_error": float((ours - naive).abs().max())}
    del small
    model = random_model(SHAPE, torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    interp.patch(model, pairs)
    seconds = [timed(lambda: interp.patch(model, pairs))[0] for _ in range(5)]
    report |= {
        "gpu": torch.cuda.get_device_name(),
        "cells": 36 * 32,
        "seconds": median(seconds),
        "all_seconds": seconds,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }
    pair = tokenise(model, pairs, "single")[0][0]
    bound_seconds(model, pair)
    report["bound_seconds"] = bound_seconds(model, pair).wall
    if "--hooks" in sys.argv:
        report["hooks_seconds"] = timed(lambda: sweep_with_hooks(model, pair, "resid_pre"))[0]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
