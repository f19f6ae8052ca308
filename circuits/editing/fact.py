"""`Fact`, what an edit writes; `PreservedQuestion`, what it must not change; and files of both."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from interp.brief import brief
from interp.data.chat import Chat, render
from interp.data.records import NO_OTHERS, checked, placed_rows
from interp.errors import DataError, UnusableRow, shown

if TYPE_CHECKING:  # not at run time: help texts are shown without PyTorch
    from interp.model.model import Model

SLOT = "{}"
R = TypeVar("R")


@brief
@dataclass(frozen=True)
class Fact:
    """A subject's new object.

    Attributes:
        prompt: the relation as a cloze with ``{}`` for the subject, followed by the object:
            ``"The capital of {} is"``.
        target: the new object, without a leading space.
        question: the same relation as a question with ``{}``, or empty.
        implicit: noun phrases that mean the subject without naming it, such as ``"the country
            where the Eiffel Tower stands"``; in place of the subject they make two-hop prompts.
        chat: where given, `prompt` and `question` are a user's turns of a chat that is rendered
            like this, and the target begins the reply.
    """

    prompt: str
    subject: str
    target: str
    question: str = ""
    relation: str = ""
    implicit: tuple[str, ...] = ()
    where: str = ""
    chat: Chat | None = None

    __pydantic_config__ = NO_OTHERS

    def __post_init__(self) -> None:
        for name, text in (("prompt", self.prompt), ("question", self.question)):
            if text.count(SLOT) != 1 and (text or name == "prompt"):
                raise UnusableRow(
                    f"{self.at}the {name} {shown(text)} has {text.count(SLOT)} slots; write it "
                    "with one {} where the subject stands."
                )
        if not self.subject.strip() or not self.target.strip():
            raise UnusableRow(
                f"{self.at}a fact needs a subject and a target, but they are "
                f"{shown(self.subject)} and {shown(self.target)}."
            )
        if self.prompt != self.prompt.rstrip() or self.target != self.target.strip():
            raise UnusableRow(
                f"{self.at}one space is set between the prompt {shown(self.prompt)} and the target "
                f"{shown(self.target)}; write them without spaces of their own there."
            )

    @classmethod
    def in_words(cls, sentence: str, chat: Chat | None = None) -> "Fact":
        """A fact in plain words, its subject and then its new object in square brackets.

        ``"The capital of [France] is [Rome]"``. Raises `DataError` for another form.
        """
        form = r"([^\[\]]*)\[([^\[\]]+)\]([^\[\]]+)\[([^\[\]]+)\]\s*\.?\s*"
        found = re.fullmatch(form, sentence)
        if found is None:
            raise DataError(
                f"{shown(sentence)} does not mark its subject and, at the end, its new object; "
                "write them in square brackets: 'The capital of [France] is [Rome]'."
            )
        before, subject, between, target = found.groups()
        return cls(f"{before}{SLOT}{between.rstrip()}", subject, target, chat=chat)

    @property
    def at(self) -> str:
        """Where it came from, as messages begin."""
        return f"{self.where}: " if self.where else ""

    @property
    def cloze(self) -> str:
        """The prompt with its subject."""
        return self.prompt.replace(SLOT, self.subject)

    def written(self, model: "Model") -> str:
        """The cloze as the model reads it: in a chat, as its template writes it."""
        return self.cloze if self.chat is None else render(model, self.chat.wrap(self.cloze))[0]

    @property
    def asked(self) -> str:
        """The question with its subject; empty where the fact has none."""
        return self.question.replace(SLOT, self.subject)


@dataclass(frozen=True)
class PreservedQuestion:
    """A question whose answer an edit must not change.

    Attributes:
        subject: who or what it is about, as it stands in the text; DataError if it does not.
        related: whether it could be asked of the edited subject, too.
    """

    text: str
    subject: str
    relation: str = ""
    related: bool = False
    where: str = field(default="", compare=False)

    __pydantic_config__ = NO_OTHERS

    def __post_init__(self) -> None:
        if not self.subject.strip() or self.subject not in self.text:
            at = f"{self.where}: " if self.where else ""
            raise DataError(
                f"{at}the question {shown(self.text)} does not contain its subject "
                f"{shown(self.subject)}; write it as it stands there."
            )

    def about(self, name: str) -> str:
        """The question about something else: its last mention of the subject replaced."""
        before, _, behind = self.text.rpartition(self.subject)
        return before + name + behind


def refuse_conflicts(facts: Sequence[Fact]) -> None:
    """Raise `UnusableRow` where two facts give one subject two objects for one prompt."""
    seen: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        key = (fact.subject.casefold(), fact.relation or fact.prompt.casefold())
        other = seen.setdefault(key, fact)
        if other.target.casefold() != fact.target.casefold():
            both = f" ({other.where}, {fact.where})" if fact.where else ""
            raise UnusableRow(
                f"{shown(fact.cloze)} is to become both {shown(other.target)} and "
                f"{shown(fact.target)}{both}; keep one of them."
            )


def load_facts(path: str | Path) -> list[Fact]:
    """Facts from a JSON list, JSONL file or Hub data set of objects with the fields of `Fact`.

    Raises `DataError`, naming file and row, where one cannot be edited or two contradict.
    """
    facts = _rows(path, Fact, "facts")
    refuse_conflicts(facts)
    return facts


def load_preserved(path: str | Path) -> list[PreservedQuestion]:
    """Questions to preserve, with the fields of `PreservedQuestion`; as `load_facts` otherwise."""
    return _rows(path, PreservedQuestion, "questions")


def _rows(path: str | Path, kind: type[R], what: str) -> list[R]:
    rows = placed_rows(path, what)
    if not rows:
        raise DataError(f"{path} holds no {what}; give at least one.")
    return [checked(kind, row | {"where": where}, where) for where, row in rows]
