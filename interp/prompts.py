"""Prompts in a model's tokens, with named spans, and batches of them padded to one length."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import PairError, PlanError, shown
from interp.model import Model
from interp.pairs import PLACES, Pair, PromptPairs, TokenPair, tokenise


@dataclass(frozen=True)
class TokenPrompt:
    """One prompt.

    Attributes:
        ids: its tokens.
        spans: name -> token positions.
    """

    ids: tuple[int, ...]
    spans: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def positions(self, place: str | Sequence[int]) -> tuple[int, ...]:
        """Positions of the prompt in ``all``, ``prompt``, ``last``, a span, or its ``_last`` token.

        Raises:
            PlanError: no such span, or a number beyond the prompt's end.
        """
        n = len(self.ids)
        if not isinstance(place, str):
            if max(place) >= n:
                raise PlanError(
                    f"position {max(place)} is beyond the end of a prompt of {n} tokens (0 to "
                    f"{n - 1})."
                )
            return tuple(place)
        everything = tuple(range(n))
        named = {"all": everything, "prompt": everything, "last": everything[-1:], "decoded": ()}
        if place in named:
            return named[place]
        if place in self.spans:
            return self.spans[place]
        whole = place.removesuffix("_last")
        if whole == place or whole not in self.spans:
            raise PlanError(
                f"no span {shown(place)}: this prompt has {', '.join(self.spans) or 'none'}; "
                f"choose one of them or {', '.join(map(repr, named))}."
            )
        return self.spans[whole][-1:]


def prompt(model: Model, text: str, /, **spans: str) -> TokenPrompt:
    """A prompt with named spans, such as ``subject="France"``.

    Args:
        model: whose tokens.
        text: the prompt.
        spans: by name, texts that occur exactly once in it.

    Raises:
        PairError: a span does not occur exactly once, or is called as a place of every prompt is.
    """
    taken = next((name for name in spans if name in PLACES), None)
    if taken is not None:
        raise PairError(f"a span cannot be called {taken!r}, which every prompt has.")
    encoded = model.tokenizer(text, return_offsets_mapping=True)
    found = {name: _tokens_of(text, encoded, part, name) for name, part in spans.items()}
    return TokenPrompt(tuple(encoded["input_ids"]), found)


def _tokens_of(text: str, encoded: Any, part: str, name: str) -> tuple[int, ...]:
    if not part.strip() or text.count(part) != 1:
        raise PairError(
            f"span {shown(name)} ({shown(part)}) occurs {text.count(part) if part else 0} times in "
            f"{shown(text)}; "
            "give a text that occurs exactly once."
        )
    start = text.index(part)
    end = start + len(part)
    return tuple(
        i
        for i, (lo, hi) in enumerate(encoded["offset_mapping"])
        # a token that only shares a blank with the span is not in it
        if text[max(lo, start) : min(hi, end)].strip()
    )


Prompts = str | Iterable[str | TokenPrompt | TokenPair | Pair]
"""Texts, tokens, or pairs, of which the clean prompts are meant."""


def as_prompts(model: Model, prompts: Prompts) -> list[TokenPrompt]:
    """Put prompts into a model's tokens.

    Raises:
        PairError: there is none, one is empty, or a pair cannot be used; nothing is left out.
    """
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    if not listed:
        raise PairError("there are no prompts; give at least one.")
    return [_as_prompt(model, one) for one in listed]


def _as_prompt(model: Model, given: Any) -> TokenPrompt:
    if isinstance(given, Pair):
        kept, _ = tokenise(model, PromptPairs((given,), given.where or "pairs"))
        given = kept[0]
    if isinstance(given, TokenPair):
        return prompts_of([given])[0]
    found = given if isinstance(given, TokenPrompt) else TokenPrompt(tuple(model.encode(given)))
    if not found.ids:
        raise PairError(f"the prompt {shown(given)} has no tokens; give at least one.")
    return found


def prompts_of(
    pairs: Sequence[TokenPair], side: Literal["clean", "corrupt"] = "clean"
) -> list[TokenPrompt]:
    """One side of pairs as prompts."""
    return [
        TokenPrompt(pair.clean if side == "clean" else pair.corrupt, pair.spans) for pair in pairs
    ]


def pad(
    model: Model, prompts: Sequence[TokenPrompt]
) -> tuple[Int[Tensor, "prompt pos"], Bool[Tensor, "prompt pos"]]:
    """Pad on the left; token ids, and which tokens are real."""
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), width), model.tokenizer.pad_token_id or 0)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[row, width - len(prompt.ids) :] = True
    return ids.to(model.device), mask.to(model.device)


def batches(prompts: Sequence[TokenPrompt], tokens: int) -> list[list[int]]:
    """Prompt numbers in groups of like length, each at most so many tokens; at least one prompt."""
    groups: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i].ids)):
        # the first of a group is its longest, so the others pad to it
        if groups and (len(groups[-1]) + 1) * len(prompts[groups[-1][0]].ids) <= tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
