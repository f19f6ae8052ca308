"""Written chains of thought: how a question is asked for one, and how a reply is read.

    Complete the last sentence of the text. …                             (task)
    Text: The capital of the home of the Tiger's Nest is the city of      (two shown questions)
    Reply: The text is about the Tiger's Nest. … Answer: Thimphu

    Text: The capital of the country where the Louvre is located is the city of
    Reply:

In a chat the shown questions are earlier turns. A reply is its sentences up to ``Answer:``, and
the first known name behind that.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from interp.brief import brief
from interp.data.answers import Tokens
from interp.data.chat import Chat
from interp.data.prompts import TokenPrompt, prompt
from interp.interventions.generate import generate
from interp.model.model import Model

TASK = (
    "Complete the last sentence of the text. Write one short sentence per step, then 'Answer:' and "
    "the name."
)
SHOWN = (
    (
        "The capital of the home of the Tiger's Nest is the city of",
        "The text is about the Tiger's Nest. The Tiger's Nest is in Bhutan. The capital of Bhutan "
        "is Thimphu. Answer: Thimphu",
    ),
    (
        "The capital of Ruritania is the city of Zenda. Olga lives in Ruritania. The capital of "
        "the home of Olga is the city of",
        "The text is about Olga. Olga lives in Ruritania. The capital of Ruritania is Zenda. "
        "Answer: Zenda",
    ),
)
"""Texts and replies; of countries and people that no shipped question is about."""
ANSWER = re.compile(r"\banswer\s*:", re.IGNORECASE)
SENTENCE = re.compile(r"\s*\S.*?(?:(?<!\d)[.!?](?=\s|$)|\n|$)", re.DOTALL)


def ask(model: Model, text: str, chat: Chat | None) -> TokenPrompt:
    """The prompt that asks for a chain, up to where the reply begins."""
    if chat is None:
        shown = [f"Text: {one}\nReply: {reply}" for one, reply in SHOWN]
        return prompt(model, "\n\n".join((TASK, *shown, f"Text: {text}\nReply:")))
    first, *later = (one for one, _ in SHOWN)
    users = (f"{TASK}\n\n{first}", *later, text)
    replies = (*(reply for _, reply in SHOWN), None)
    turns = [
        {"role": role, "content": content}
        for both in zip(users, replies, strict=True)
        for role, content in zip(("user", "assistant"), both, strict=True)
        if content is not None
    ]
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


def final_answer(reply: str, names: Sequence[str]) -> str | None:
    """The known name that a reply answers with, ``""`` for any other text, None for no answer."""
    own = reply.partition("\nText:")[0]
    found = ANSWER.search(own)
    line = own[found.end() :].strip().partition("\n")[0] if found else ""
    return (named(line, names) or "") if line else None


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


def continued(
    model: Model, prefixes: Sequence[Tokens], n: int, temperature: float = 0.0, seed: int = 0
) -> list[Chain]:
    """What a model writes behind each prefix, at most `n` tokens."""
    rows = [TokenPrompt(tuple(ids)) for ids in prefixes]
    found = generate(model, rows, (), n, temperature=temperature, seed=seed, progress=False)
    return [Chain(one.prompt, one.ids, one.text) for one in found]
