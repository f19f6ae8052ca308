"""Written chains of thought: how a question is asked for one, and how a reply is read.

    Complete the last sentence of the text. …                             (task)
    Text: The currency of the country where Table Mountain is located is the     (demonstrations)
    Reply: The text is about Table Mountain. … Answer: rand

    Text: The capital of the country where the Louvre is located is the city of
    Reply:

In a chat the demonstrations are earlier turns. A reply is its sentences up to ``Answer:``, and
the first known name behind that.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from interp.brief import brief
from interp.data.answers import Tokens
from interp.data.chat import Chat
from interp.data.prompts import TokenPrompt, batches, prompt
from interp.data.records import read_jsonl
from interp.forward.budget import default_budget
from interp.forward.prefix_cache import PrefixCache, common_prefix
from interp.interventions.generate import decode, seeded
from interp.model.model import Model

TASK = (
    "Complete the last sentence of the text. Write one short sentence per step, then 'Answer:' and "
    "the name."
)


AT_ONCE = 32
"""Replies written at once, at least: every step reads all weights, however few they are."""
ANSWER = re.compile(r"\banswer\s*:", re.IGNORECASE)
SENTENCE = re.compile(r"\s*\S.*?(?:(?<!\d)[.!?](?=\s|$)|\n|$)", re.DOTALL)


@cache
def demonstrations(n: int) -> list[dict[str, str]]:
    """The last `n` worked questions: a ``text``, the ``bridge`` that it describes, a ``reply``.

    Bridges and relations are those of no shipped question. The last is answered from what its text
    states: a model that does not know a landmark tends to repeat the bridge that it saw last.
    """
    rows = read_jsonl(Path(__file__).with_suffix(".jsonl"), "demonstrations")
    return [row for _, row in rows[len(rows) - n :]]


def ask(model: Model, text: str, chat: Chat | None, n: int) -> TokenPrompt:
    """The prompt that asks for a chain behind `n` demonstrations, up to where the reply begins."""
    shown = demonstrations(n)
    if chat is None:
        worked = [f"Text: {one['text']}\nReply: {one['reply']}" for one in shown]
        return prompt(model, "\n\n".join((TASK, *worked, f"Text: {text}\nReply:")))
    said = [one[part] for one in shown for part in ("text", "reply")] + [text]
    said[0] = f"{TASK}\n\n{said[0]}"
    roles = cycle(("user", "assistant"))
    turns = [{"role": role, "content": part} for part, role in zip(said, roles, strict=False)]
    return prompt(model, replace(chat, prefill=None).wrap(turns))


def named(text: str, names: Sequence[str]) -> str | None:
    """Which of the names occurs first in a text, as a whole word in any case."""
    found = _pattern(tuple(names)).search(text)
    by_case = {name.casefold(): name for name in reversed(names)}
    return found and by_case[found[0].casefold()]


@cache
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    longest = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)


def name_is_read(text: str, names: Sequence[str]) -> bool:
    """Whether more text cannot change which of the names occurs first."""
    found = _pattern(tuple(names)).search(text)
    return found is not None and len(text) - found.start() > max(map(len, names))


def final_answer(reply: str, names: Sequence[str]) -> str | None:
    """The known name that a reply answers with, ``""`` for any other text, None for no answer."""
    line = _answer_line(reply)[0]
    return (named(line, names) or "") if line else None


def is_answered(reply: str) -> bool:
    """Whether the line of a reply's answer has ended, or another text begun."""
    return "\nText:" in reply or all(_answer_line(reply))


def _answer_line(reply: str) -> tuple[str, str]:
    """The first line behind ``Answer:``, and the line break that ends it."""
    own = reply.partition("\nText:")[0]
    found = ANSWER.search(own)
    return own[found.end() :].lstrip().partition("\n")[:2] if found else ("", "")


@brief
@dataclass(frozen=True)
class Chain:
    """A reply in tokens: the prompt's, its own, and the text of these."""

    prompt: Tokens
    ids: Tokens
    text: str

    @property
    def sentences(self) -> list[tuple[int, int]]:
        """Where each sentence before the answer starts, with the blanks before it, and ends."""
        end = ANSWER.search(self.text)
        spans = (m.span() for m in SENTENCE.finditer(self.text[: end.start() if end else None]))
        return [(a, b) for a, b in spans if any(map(str.isalpha, self.text[a:b]))]

    def cut(self, model: Model, at: int, new: str = "") -> Tokens:
        """The prompt and the reply up to a character, then other text.

        Tokens that end before the character stay as they were written.
        """
        kept, end = 0, 0
        for n in range(1, len(self.ids) + 1):
            text = decoded(model, self.ids[:n])
            if len(text) > at:
                break
            if self.text.startswith(text):  # not within a character of several tokens
                kept, end = n, len(text)
        tail = self.text[end:at] + new
        behind = model.tokenizer.encode(tail, add_special_tokens=False) if tail else []
        return (*self.prompt, *self.ids[:kept], *behind)


def decoded(model: Model, ids: Sequence[int]) -> str:
    """Tokens as text, without special ones."""
    return model.tokenizer.decode(list(ids), skip_special_tokens=True)


@torch.no_grad()
def continued(
    model: Model,
    prefixes: Sequence[Tokens],
    n: int,
    temperature: float = 0.0,
    seed: int = 0,
    *,
    until: Callable[[str], bool] = is_answered,
) -> list[Chain]:
    """What a model writes behind each prefix: at most `n` tokens, `until` its text is enough.

    What prefixes begin alike with is read once for a batch.
    """
    rows = [TokenPrompt(tuple(ids)) for ids in prefixes]
    sampling: Any = {"do_sample": True, "temperature": temperature} if temperature else {}
    found: dict[int, Chain] = {}
    longest = max((len(row.ids) for row in rows), default=0)
    with seeded(seed):
        for group in batches(model, rows, max(default_budget(model), AT_ONCE * longest)):
            part = [rows[i] for i in group]
            kv = PrefixCache.sharing(model, part, [common_prefix(part)] * len(part), room=n)
            new = decode(model, kv, (), n, until=lambda ids: until(decoded(model, ids)), **sampling)
            for i, ids in zip(group, new, strict=True):
                found[i] = Chain(rows[i].ids, ids, decoded(model, ids))
    return [found[i] for i in range(len(rows))]
