"""Greedy decoding under a modulation: one configuration for every arm, each prompt read once.

A modulation acts on a prompt's last token and on what follows, so the keys and values of all
tokens before are the same in every arm that shares the prompt: they are computed once a text and
copied for each emotion. Rows that have ended leave the batch.
"""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from circuits.emotion.modulation import Modulation, Rows
from interp.brief import brief
from interp.data.prompts import TokenPrompt, pad
from interp.data.records import NO_OTHERS, Count, Dose, Index
from interp.errors import PlanError
from interp.forward.hooks import hooked
from interp.forward.layer_calls import positions_and_mask
from interp.forward.prefix_cache import attention_window, cache_argument
from interp.model.model import Model

CLOSING = ('"', "”", "\n")
"""What ends a reply: the quote that its prompt opened, or a new line."""


@brief
@dataclass(frozen=True)
class Decoding:
    """How every arm is decoded: greedily, with the same penalties.

    Attributes:
        new_tokens: at most so many.
        min_tokens: no reply ends before so many.
        repetition_penalty: by which the logits of tokens that occurred are divided.
        no_repeat: no run of so many tokens occurs twice, prompt included.
        closing: marks that end a reply, beside the model's own end; none for chats.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NO_OTHERS

    new_tokens: Count = 30
    min_tokens: Index = 5
    repetition_penalty: Dose = 1.05
    no_repeat: Count = 3
    closing: tuple[str, ...] = CLOSING

    def processors(self, width: int, ends: Sequence[int], device: Any) -> LogitsProcessorList:
        """Hugging Face's processors, in the order in which its own loop applies them."""
        return LogitsProcessorList(
            [
                RepetitionPenaltyLogitsProcessor(self.repetition_penalty),
                NoRepeatNGramLogitsProcessor(self.no_repeat),
                MinNewTokensLengthLogitsProcessor(width, self.min_tokens, list(ends), str(device)),
            ]
        )


@brief
@dataclass(frozen=True)
class ReadPrompts:
    """Prompts whose keys and values are computed, but for the last token of each.

    Attributes:
        ids: padded on the left, or between what all share and the rest.
        mask: which tokens are real.
        cache: keys and values of all columns but the last.
    """

    ids: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]
    cache: DynamicCache

    def rows(self, which: Int[Tensor, " row"]) -> DynamicCache:
        """A copy of the cache with a row for each of `which`."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(which)  # new tensors, so the original stays
        return cache


@torch.no_grad()
def read_prompts(model: Model, prompts: Sequence[TokenPrompt]) -> ReadPrompts:
    """Compute the keys and values of prompts, what all of them begin with only once.

    Args:
        model: the model.
        prompts: of two tokens or more.

    Raises:
        PlanError: a prompt has fewer than two tokens.
    """
    short = min(len(prompt.ids) for prompt in prompts)
    if short < 2:
        raise PlanError(f"a prompt has {short} tokens; replies need prompts of two or more.")
    shared = _shared(model, prompts)
    rest = [TokenPrompt(prompt.ids[shared:]) for prompt in prompts]
    ids, mask = pad(model, rest)
    cache = DynamicCache(config=model.hf.config)
    if shared:
        first = torch.tensor([prompts[0].ids[:shared]], device=model.device)
        step(model, first, torch.ones_like(first, dtype=torch.bool), cache, 0)
        cache.batch_repeat_interleave(len(prompts))
        ids = torch.cat([first.expand(len(prompts), -1), ids], 1)
        mask = torch.cat([torch.ones_like(ids[:, :shared], dtype=torch.bool), mask], 1)
    if ids.shape[1] - 1 > shared:
        step(model, ids[:, shared:-1], mask[:, :-1], cache, shared)
    return ReadPrompts(ids, mask, cache)


def _shared(model: Model, prompts: Sequence[TokenPrompt]) -> int:
    """How many first tokens to read once: what all share, if padding may follow it.

    Sliding windows count columns and would count the padding, so no prompt may outgrow one.
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    window = attention_window(model.hf.config)
    if len(prompts) == 1 or (window and longest + 64 > window):
        return 0
    least = min(len(prompt.ids) for prompt in prompts) - 2
    first = prompts[0].ids
    same = (all(p.ids[i] == first[i] for p in prompts) for i in range(least))
    return next((i for i, equal in enumerate(same) if not equal), max(least, 0))


def step(
    model: Model,
    ids: Int[Tensor, "row new"],
    mask: Bool[Tensor, "row pos"],
    cache: DynamicCache,
    start: int,
) -> Float[Tensor, "row new d_model"]:
    """Run new tokens, which the cache takes in; their final states."""
    said = positions_and_mask(model, mask)
    if "position_ids" in said:
        said["position_ids"] = said["position_ids"][:, start:]
    said |= cache_argument(model.hf.base_model, cache)
    return model.hf.base_model(input_ids=ids, use_cache=True, **said).last_hidden_state


@torch.no_grad()
def decode(
    model: Model,
    read: ReadPrompts,
    which: Sequence[int],
    emotions: Sequence[int],
    modulation: Modulation,
    decoding: Decoding,
) -> list[tuple[int, ...]]:
    """Write a reply for each row; with an empty modulation, ``model.hf.generate`` of each alone.

    Args:
        model: the model.
        read: prompts.
        which: the prompt of each row.
        emotions: the emotion of each row, as its place in `EMOTIONS`.
        modulation: what is added, at the last prompt token and each decoded one.
        decoding: the decoder's settings.

    Returns:
        Each row's new tokens, up to and with the one that ended it.
    """
    chosen = torch.tensor(which, device=model.device)
    ids, mask, cache = read.ids[chosen], read.mask[chosen], read.rows(chosen)
    seen, ends = _on_the_right(ids, mask), ending_tokens(model, decoding.closing)
    processors = decoding.processors(ids.shape[1], ends, model.device)
    stop = torch.zeros(model.unembed.weight.shape[0], dtype=torch.bool, device=model.device)
    stop[list(ends)] = True
    rows, live = Rows.of(emotions, model.device), torch.arange(len(which), device=model.device)
    replies: list[list[int]] = [[] for _ in which]
    with hooked(model, modulation.edits(model, rows)):
        for number in range(decoding.new_tokens):
            if number == decoding.min_tokens:
                processors.pop()  # the last one bans endings, which are many, at a price
            hidden = step(model, ids[:, -1:], mask, cache, ids.shape[1] - 1)
            logits = model.arch.logits_transform(model.unembed(hidden[:, -1]).float())
            new = processors(seen, logits).argmax(-1)  # pyright: ignore[reportArgumentType]
            for row, token in zip(live.tolist(), new.tolist(), strict=True):
                replies[row].append(token)
            kept = (~stop[new]).nonzero()[:, 0]
            if not len(kept):
                break
            ids, seen = (torch.cat([one, new[:, None]], 1)[kept] for one in (ids, seen))
            mask = torch.cat([mask, mask.new_ones(len(new), 1)], 1)[kept]
            rows.advance(kept)
            if len(kept) < len(live):
                live = live[kept]
                cache.batch_select_indices(kept)
    return [tuple(reply) for reply in replies]


def _on_the_right(
    ids: Int[Tensor, "row pos"], mask: Bool[Tensor, "row pos"]
) -> Int[Tensor, "row pos"]:
    """What penalties see of prompts: the real tokens on the right, the first of them before.

    So padding is never counted as a token that occurred, wherever it stands.
    """
    order = torch.sort(mask.long(), dim=1, stable=True).indices
    real = ids.gather(1, order)
    start = (~mask).sum(1, keepdim=True)
    return torch.where(torch.arange(ids.shape[1]) < start, real.gather(1, start), real)


@functools.lru_cache(maxsize=8)
def _closing(tokenizer: Any, size: int, marks: tuple[str, ...]) -> tuple[int, ...]:
    known = min(size, len(tokenizer))
    texts = tokenizer.batch_decode([[i] for i in range(known)])
    return tuple(i for i, text in enumerate(texts) if any(mark in text for mark in marks))


def ending_tokens(model: Model, closing: tuple[str, ...] = CLOSING) -> tuple[int, ...]:
    """The tokens that end a reply: the model's own, and all that hold a closing mark."""
    own = model.hf.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    marks = _closing(model.tokenizer, model.unembed.weight.shape[0], closing) if closing else ()
    return tuple(sorted({t for t in own if t is not None} | set(marks)))


def reply_text(model: Model, ids: Sequence[int], closing: tuple[str, ...] = CLOSING) -> str:
    """New tokens as text, cut at the mark that ended the reply."""
    text: str = model.tokenizer.decode(ids, skip_special_tokens=True)
    cut = min((at for mark in closing if (at := text.find(mark)) >= 0), default=len(text))
    return text[:cut].strip()
