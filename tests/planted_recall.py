"""Models built by hand: one head copies a stated value, another retrieves a stored one.

A prompt states a value and names a land: ``say v3 near l5 copy`` asks for v3, ``… recall`` for what
the land l5 is stored with. In the *joint* model a single head does both.
"""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import interp
from circuits.recall_reasoning.cells import SPLITS, Data, data_of

N = 18
LANDS, VALUES = [f"l{i}" for i in range(N)], [f"v{i}" for i in range(N)]
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "say", "near", "copy", "recall", *LANDS, *VALUES]
ID = {word: i for i, word in enumerate(WORDS)}
D_MODEL, D_HEAD, HEADS, LAYERS = 64, 48, 8, 3
STORED = [(7 * i + 3) % N for i in range(N)]
COPY, RECALL = (0, 2), (1, 4)
"""(layer, head) of the two heads in the separate model."""


def planted(separate: bool = True, noise: float = 0.01, seed: int = 0) -> interp.Model:
    """A Llama-shaped model; every weight that is not planted is small noise."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=D_MODEL,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=D_HEAD,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},  # next to no rotation
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    hf = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, p in hf.named_parameters():
            if p.ndim > 1:
                p.normal_(0, noise)
            elif "norm" in name:
                p.fill_(1.0)
        eye = torch.eye(len(WORDS), D_MODEL)
        hf.model.embed_tokens.weight.copy_(eye)
        hf.lm_head.weight.copy_(8 * eye)
        copy, recall = (COPY, RECALL) if separate else (COPY, COPY)
        for layer, head in {copy, recall}:
            _clear(hf, layer, head)
        _attend(hf, copy, "copy", VALUES, at=23)
        _attend(hf, recall, "recall", LANDS, at=22)
        _write(hf, copy, VALUES, list(range(N)), first=0)
        _write(hf, recall, LANDS, STORED, first=N)
    return interp.load_model(hf, tokenizer=_tokenizer())


def _rows(head: int) -> slice:
    return slice(head * D_HEAD, (head + 1) * D_HEAD)


def _clear(hf, layer: int, head: int) -> None:
    attention = hf.model.layers[layer].self_attn
    for map_ in (attention.q_proj, attention.k_proj, attention.v_proj):
        map_.weight[_rows(head)] = 0
    attention.o_proj.weight[:, _rows(head)] = 0


def _attend(hf, place, query: str, keys: list[str], at: int) -> None:
    """From `query` to any of `keys`; otherwise to the first token, which writes nothing."""
    attention, row = hf.model.layers[place[0]].self_attn, place[1] * D_HEAD
    attention.q_proj.weight[row + at, ID[query]] = 4
    attention.k_proj.weight[row + at, [ID[k] for k in keys]] = 4
    attention.q_proj.weight[row + 21, :] = 1
    attention.k_proj.weight[row + 21, ID["<s>"]] = 2


def _write(hf, place, names: list[str], targets: list[int], first: int) -> None:
    attention, row = hf.model.layers[place[0]].self_attn, place[1] * D_HEAD
    for i, (name, target) in enumerate(zip(names, targets, strict=True)):
        attention.v_proj.weight[row + first + i, ID[name]] = 1
        attention.o_proj.weight[ID[VALUES[target]], row + first + i] = 1


def _tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, padding_side="left", **names)


def planted_data(seed: int = 0, n: int = 40) -> Data:
    """Cells A (recall) and C (copying), one template, split by land and by value."""
    rng = np.random.default_rng(seed)
    lands, values = rng.permutation(N), rng.permutation(N)
    records = []
    for at, split in enumerate(SPLITS):
        own_lands, own_values = lands[at::3], values[at::3]
        for number in range(n):
            a, b = (int(i) for i in rng.choice(own_lands, 2, replace=False))
            v, w = (int(i) for i in rng.choice(own_values, 2, replace=False))
            asked = {
                "A": ([f"say v{v} near l{x} recall" for x in (a, b)], (STORED[a], STORED[b]), a),
                "C": ([f"say v{x} near l{a} copy" for x in (v, w)], (v, w), v),
            }
            for cell, (prompts, answers, bridge) in asked.items():
                row = {"id": f"{split}-{number}-{cell}", "split": split, "cell": cell}
                row |= {"bridge": f"{cell}{bridge}", "clean": prompts[0], "corrupt": prompts[1]}
                row |= {"answer": f"v{answers[0]}", "wrong_answer": f"v{answers[1]}"}
                records.append(row)
    return data_of(records, dict.fromkeys("AC", tuple(VALUES)), (), "planted", seed)


def agreeing_data(model, seed: int = 0, given: Data | None = None, n: int = 24) -> Data:
    """Two cells of random prompts, whose answers are what a random model says anyway.

    With `given`, that data with its answers swapped, so that no prompt is answered right.
    """
    if given is not None:
        records = [
            row | {"answer": row["wrong_answer"], "wrong_answer": row["answer"]}
            for row in given.records()
        ]
        return data_of(records, given.candidates, (), given.source, seed)
    rng = np.random.default_rng(seed)
    records = []
    for split in SPLITS:
        for cell in "AC":
            words = rng.integers(90, size=(4 * n, 6))
            other = words.copy()
            other[:, 2] = rng.integers(90, size=4 * n)
            texts = [[" ".join(f"w{i}" for i in row) for row in side] for side in (words, other)]
            said = interp.forward(model, [*texts[0], *texts[1]]).logits.argmax(-1).tolist()
            answers = [model.token(token) for token in said]
            rows = zip(*texts, answers[: 4 * n], answers[4 * n :], strict=True)
            usable = [r for r in rows if r[2] != r[3] and all(a.startswith("w") for a in r[2:])][:n]
            pairs = [(row[:2], row[2:]) for row in usable]
            for number, (texts, answers) in enumerate(pairs):
                row = {"id": f"{split}-{number}-{cell}", "split": split, "cell": cell}
                row |= {"bridge": f"{split}{cell}{number}", "clean": texts[0], "corrupt": texts[1]}
                records.append(row | {"answer": answers[0], "wrong_answer": answers[1]})
    return data_of(records, {"A": (), "C": ()}, (), "random", seed)
