"""`Fact`: one piece of knowledge to write into a model, checked before anything is touched."""

from collections.abc import Sequence
from dataclasses import dataclass

from interp.brief import brief
from interp.errors import UnusableRow, shown

SLOT = "{}"


@brief
@dataclass(frozen=True)
class Fact:
    """A subject's new object.

    Attributes:
        prompt: the relation as a cloze whose last word is followed by the object, with ``{}``
            where the subject stands: ``"The capital of {} is"``.
        subject: what fills the slot.
        target: the new object, without a leading space.
        question: the same relation as a question with ``{}``, or empty.
        relation: its name or identifier, or empty.
        implicit: noun phrases that mean the subject without naming it, such as ``"the country
            where the Eiffel Tower stands"``; in place of the subject they make two-hop prompts.
        where: file and row it came from, for messages.
    """

    prompt: str
    subject: str
    target: str
    question: str = ""
    relation: str = ""
    implicit: tuple[str, ...] = ()
    where: str = ""

    def __post_init__(self) -> None:
        at = f"{self.where}: " if self.where else ""
        if self.prompt.count(SLOT) != 1:
            raise UnusableRow(
                f"{at}the prompt {shown(self.prompt)} has {self.prompt.count(SLOT)} slots; write "
                "it with one {} where the subject stands."
            )
        if self.question and self.question.count(SLOT) != 1:
            raise UnusableRow(
                f"{at}the question {shown(self.question)} has {self.question.count(SLOT)} slots; "
                "write it with one {} where the subject stands."
            )
        if not self.subject.strip() or not self.target.strip():
            raise UnusableRow(
                f"{at}a fact needs a subject and a target, but they are {shown(self.subject)} and "
                f"{shown(self.target)}."
            )
        if self.prompt != self.prompt.rstrip() or self.target != self.target.strip():
            raise UnusableRow(
                f"{at}one space is set between the prompt {shown(self.prompt)} and the target "
                f"{shown(self.target)}; write them without spaces of their own there."
            )

    @property
    def cloze(self) -> str:
        """The prompt with its subject."""
        return self.prompt.replace(SLOT, self.subject)

    @property
    def asked(self) -> str:
        """The question with its subject; empty where the fact has none."""
        return self.question.replace(SLOT, self.subject)

    @property
    def two_hop(self) -> tuple[str, ...]:
        """The question, or where there is none the cloze, about each implicit subject."""
        return tuple((self.question or self.prompt).replace(SLOT, name) for name in self.implicit)


def refuse_conflicts(facts: Sequence[Fact]) -> None:
    """Raise unless no two facts give one subject two objects for one prompt.

    Raises:
        UnusableRow: naming the two facts.
    """
    seen: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        key = (fact.subject.casefold(), fact.relation or fact.prompt.casefold())
        other = seen.setdefault(key, fact)
        if other.target.casefold() != fact.target.casefold():
            raise UnusableRow(
                f"{shown(fact.cloze)} is to become both {shown(other.target)} and "
                f"{shown(fact.target)}"
                f"{f' ({other.where}, {fact.where})' if fact.where else ''}; keep one of them."
            )
