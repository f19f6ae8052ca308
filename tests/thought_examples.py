"""Chains of thought by a planted writer: what it writes depends on the reply so far, or not at all.

A tiny model that reads characters stands for the weights; `planted` writes in its place.
"""

import contextlib
import functools
import importlib
import json
import re
from collections.abc import Generator, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from chat_examples import CHATML, SPECIAL, character_tokenizer
from tokenizers import decoders
from transformers import LlamaConfig, LlamaForCausalLM

import interp
from circuits.recall_reasoning import ThoughtSettings
from circuits.recall_reasoning.chains import Chain, decoded
from interp.model.model import Model

FACTS = {
    "Alvania": ("Moru", ("Mount Tal", "Lake Pim")),
    "Borland": ("Senk", ("the Red Gate",)),
    "Cestria": ("Vold", ("the Old Fort", "Ram Bay")),
    "Doria": ("Quil", ("the Long Wall",)),
}
SETTINGS = ThoughtSettings(template="Seat: {} is in the country of", n=6, resamples=2)
NEUTRAL = "rain falls on hills and rivers carry it down to seas"


@functools.cache
def writer_model(template: str | None = CHATML) -> Model:
    """A tiny random model of characters, whose tokens decode to their text."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    tokenizer = character_tokenizer(CHATML)
    tokenizer.chat_template = template
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    assert len(SPECIAL) < 20
    return interp.load_model(LlamaForCausalLM(config), tokenizer=tokenizer, device="cpu")


def written_folder(at: Path) -> Path:
    """A folder with the facts and a neutral text."""
    at.mkdir(parents=True, exist_ok=True)
    rows = [
        {"country": c, "capital": a, "language": "x", "landmarks": list(marks)}
        for c, (a, marks) in FACTS.items()
    ]
    (at / "recall_facts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (at / "neutral_text.txt").write_text(NEUTRAL, encoding="utf-8")
    return at


def reply_from(text: str, obeys: bool, first: str, sentences: slice) -> str:
    """The rest of a reply: of its three sentences and the answer what is not there yet."""
    asked, _, begun = re.split(r"(\nReply:|<\|im_start\|>assistant\n)", text)[-3:]
    (mark,) = re.findall(r"Seat: (.*?) is in the country of", asked)[-1:]
    own = next(c for c, (_, marks) in FACTS.items() if mark in marks)
    said = [c for c in re.findall("|".join(FACTS), begun)]
    country = said[-1] if said and obeys else first or own
    capital = FACTS[country if obeys else own][0]
    steps = ["The text asks for a name.", f"It is in {country}.", f"Its seat is {capital}."]
    steps = steps[sentences]
    if "Answer:" in begun:
        return f" {capital}"
    joined = " ".join([*steps[begun.count(".") :], f"Answer: {capital}"])
    return joined if not begun and text.endswith("assistant\n") else f" {joined}"


@contextlib.contextmanager
def planted(
    obeys: bool = True, sentences: slice = slice(None)
) -> Generator[list[tuple[float, int, int]]]:
    """Write replies by rule; in those that are sampled the country depends on the seed."""
    calls: list[tuple[float, int, int]] = []

    def continued(
        model: Model, prefixes: Sequence[tuple], n: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Chain]:
        calls.append((temperature, seed, len(prefixes)))
        found = []
        for i, ids in enumerate(prefixes):
            first = list(FACTS)[(seed + i) % len(FACTS)] if temperature else ""
            text = model.tokenizer.decode(list(ids), skip_special_tokens=False)
            text = reply_from(text, obeys, first, sentences)
            own = model.tokenizer.encode(text, add_special_tokens=False)
            found.append(Chain(tuple(ids), tuple(own), decoded(model, own)))
        return found

    module = importlib.import_module("circuits.recall_reasoning.thought")
    with patch.object(module, "continued", continued):
        yield calls
