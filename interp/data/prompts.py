"""Prompts in a model's tokens, with named spans, and batches of them padded to one length."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Bool, Int
from torch import Tensor

from interp.brief import brief
from interp.data.chat import Conversation, Messages, is_messages, render
from interp.data.pair_records import PLACES
from interp.data.pairs import Pair, PromptPairs, TokenPair, overlapping, tokenise
from interp.data.token_batch import padded
from interp.errors import DataError, PlanError, shown
from interp.model.model import Model

Positions = str | int | Sequence[int]
"""Which tokens: ``"all"``, ``"prompt"``, ``"last"`` (the prompt's last token), ``"decoded"``
(the tokens generated so far, as they are read back), ``"generating"`` (these two: every token from
which a new one is predicted), a span's name, a span's name with ``_last``, or token numbers."""


def whole_numbers(value: Any, name: str) -> tuple[int, ...]:
    """One number or several as plain integers from 0; `PlanError` where they are not."""
    try:
        numbers = tuple(map(operator.index, value if isinstance(value, Iterable) else (value,)))
    except TypeError:
        raise PlanError(f"{name} is {shown(value)}; give whole numbers, counted from 0.") from None
    if not numbers:
        raise PlanError(f"{name} is empty, so nothing would change; name at least one.")
    if min(numbers) < 0:
        raise PlanError(f"{name}: {min(numbers)} is negative; count from 0 (or 'last').")
    return numbers


@brief
@dataclass(frozen=True)
class TokenPrompt:
    """One prompt: its tokens, named spans of token positions, and its text where that is known."""

    ids: tuple[int, ...]
    spans: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    text: str = field(default="", compare=False)

    def positions(self, place: Positions) -> tuple[int, ...]:
        """Positions of the prompt in a place; `PlanError` for a span or number it does not have."""
        n = len(self.ids)
        if not isinstance(place, str):
            numbers = whole_numbers(place, "positions")
            if max(numbers) >= n:
                raise PlanError(
                    f"position {max(numbers)} is beyond the end of a prompt of {n} tokens (0 to "
                    f"{n - 1})."
                )
            return numbers
        every = tuple(range(n))
        places = dict(zip(PLACES, (every, every, every[-1:], (), every[-1:]), strict=True))
        if place in places or place in self.spans:
            return {**self.spans, **places}[place]
        span = place.removesuffix("_last")
        if span == place or span not in self.spans:
            raise PlanError(
                f"no span {shown(place)}: this prompt has {', '.join(self.spans) or 'none'}; "
                f"choose one of them or {', '.join(map(repr, PLACES))}."
            )
        return self.spans[span][-1:]


def prompt(model: Model, text: str | Messages | Conversation, /, **spans: str) -> TokenPrompt:
    """A prompt with named spans, such as ``subject="France"``: texts that occur once in it.

    Chat messages are put into the tokenizer's chat template up to where the model's reply begins,
    or continues (:func:`interp.data.chat.render`); `Chat.wrap` gives them options. Their spans
    occur once in the contents of the messages.

    Raises:
        DataError: a span does not occur exactly once, or is called as a place of every prompt is;
            neither a text nor messages, or messages that cannot be rendered.
    """
    taken = next((name for name in spans if name in PLACES), None)
    if taken is not None:
        raise DataError(f"a span cannot be called {taken!r}, which every prompt has.")
    chat = text if isinstance(text, str | Conversation) else Conversation(text)
    plain = chat if isinstance(chat, str) else chat.text
    ranges: dict[str, tuple[int, int]] = {}
    for name, part in spans.items():
        if not part.strip() or plain.count(part) != 1:
            n = plain.count(part) if part else 0
            raise DataError(
                f"span {shown(name)} ({shown(part)}) occurs {n} times in {shown(plain)}; "
                "give a text that occurs exactly once."
            )
        ranges[name] = plain.index(part), plain.index(part) + len(part)
    if isinstance(chat, Conversation):
        plain, ranges = render(model, chat, ranges)
    offsets = model.offsets(plain)
    found = {name: overlapping(offsets, plain, span) for name, span in ranges.items()}
    return TokenPrompt(tuple(model.encode(plain)), found, plain)


Prompt = str | Messages | Conversation | TokenPrompt | TokenPair | Pair
Prompts = Prompt | Iterable[Prompt]
"""Texts, chats, tokens, or pairs, of which the clean prompts are meant.

A single text, chat, token prompt or pair is one prompt."""


def listed(prompts: Prompts) -> list[Any]:
    """Prompts as a list; one text, chat, token prompt or pair is a list of one."""
    if not isinstance(prompts, Iterable) or isinstance(prompts, str | Mapping):
        return [prompts]
    several: list[Any] = list(prompts)
    return [several] if is_messages(several) else several


def as_prompts(model: Model, prompts: Prompts) -> list[TokenPrompt]:
    """Prompts in a model's tokens; `DataError` where there is none or one cannot be used."""
    given = listed(prompts)
    if not given:
        raise DataError("there are no prompts; give at least one.")
    return [_as_prompt(model, one) for one in given]


def _as_prompt(model: Model, given: Any) -> TokenPrompt:
    if isinstance(given, Conversation) or is_messages(given):
        return prompt(model, given)
    pairs = pairs_of(model, [given])
    if pairs:
        return prompts_of(pairs)[0]
    if not isinstance(given, str | TokenPrompt):
        raise DataError(
            f"a prompt is {shown(given)}; give texts, chats (lists of mappings with 'role' and "
            "'content'), token prompts or pairs."
        )
    found = given if isinstance(given, TokenPrompt) else TokenPrompt(tuple(model.encode(given)))
    if not found.ids:
        raise DataError(f"the prompt {shown(given)} has no tokens; give at least one.")
    model.embedded(found.ids)
    return found


def pairs_of(
    model: Model, given: Sequence[Any], answers: Literal["whole", "first", "single"] = "whole"
) -> list[TokenPair] | None:
    """Prompts that are all pairs, in tokens, with `answers` as in `tokenise`; else ``None``."""
    if not all(isinstance(one, Pair | TokenPair) for one in given):
        return None
    return [
        tokenise(model, PromptPairs((one,), one.where or "pairs"), answers)[0][0]
        if isinstance(one, Pair)
        else one
        for one in given
    ]


def prompts_of(
    pairs: Sequence[TokenPair], side: Literal["clean", "corrupt"] = "clean"
) -> list[TokenPrompt]:
    """One side of pairs as prompts."""
    if side == "clean":
        return [TokenPrompt(pair.clean, pair.spans) for pair in pairs]
    return [TokenPrompt(pair.corrupt, pair.corrupt_spans) for pair in pairs]


def pad(
    model: Model, prompts: Sequence[TokenPrompt]
) -> tuple[Int[Tensor, "prompt pos"], Bool[Tensor, "prompt pos"]]:
    """Pad on the left; token ids, and which tokens are real."""
    return padded(model, [prompt.ids for prompt in prompts])


def batches(model: Model, prompts: Sequence[TokenPrompt], tokens: int) -> list[list[int]]:
    """Prompt numbers in groups of like length, each at most so many tokens; at least one prompt.

    Of equal length where the model reads padding.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i].ids)):
        # the first of a group is its longest, so the others pad to it
        longest = len(prompts[groups[-1][0]].ids) if groups else 0
        fits = groups and (len(groups[-1]) + 1) * longest <= tokens
        if fits and (model.arch.left_padding or len(prompts[i].ids) == longest):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def mixed_positions(tokens: Sequence[Sequence[Any]], roles: Sequence[tuple[str, ...]]) -> str:
    """Why a mean over prompts at one position mixes different things; empty where it does not.

    `roles` has for each of a prompt's `tokens` the span it belongs to, or ``""``.
    """
    lengths = sorted({len(row) for row in tokens})
    mixes = "so a mean over pairs at one position mixes tokens of different roles"
    if len(lengths) > 1:
        return f"The prompts have {lengths[0]} to {lengths[-1]} tokens, {mixes}"
    shared = set[str].intersection(*map(set, roles)) if roles else set[str]()
    for name in sorted(shared - {""}):
        places = {tuple(i for i, role in enumerate(row) if role == name) for row in roles}
        if len(places) > 1:
            return f"The span {name!r} is at different positions in different prompts, {mixes}"
    return ""


def unpaired_tokens(unpaired: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """A warning of how many tokens of how many pairs have no partner; none where all have.

    `unpaired` has the numbers of each pair's clean and corrupt prompt.
    """
    n_pairs = sum(any(both) for both in unpaired)
    if not n_pairs:
        return ()
    clean, corrupt = (sum(side) for side in zip(*unpaired, strict=True))
    said = (
        f"{clean} tokens of clean and {corrupt} of corrupt prompts, in {n_pairs} of "
        f"{len(unpaired)} pairs, have no partner in the other prompt; nothing is patched there."
    )
    return (said,)
