"""`Case`: a chain of facts, the edits of some of them, and the questions that need the chain."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.reading import Records
from circuits.editing.fact import Fact
from interp.brief import brief


@dataclass(frozen=True)
class Question:
    """A question and its answer."""

    text: str
    answer: Answer


@dataclass(frozen=True)
class Hop:
    """One fact of a chain: a question and a cloze with the same answer."""

    question: str
    cloze: str
    answer: Answer


@brief
@dataclass(frozen=True)
class Case:
    """One record of a multi-hop benchmark.

    Attributes:
        id: of the record.
        facts: the edits.
        originals: what each edited fact's object was.
        edited_hops: at which hop of the new chain each edit stands, from 0.
        questions: forms of one question about the end of the chain.
        answer: theirs before the edits.
        new_answer: theirs after.
        hops: the chain before the edits.
        new_hops: the chain after; its length is the same.
        relations: of each hop.
        subject: where the chain starts.
        bridges: the entities between the hops of the old chain.
        cluster: what an interval is to generalise over; by default the old chain.
        split: which part of the benchmark the record belongs to, if it says.
        where: file and row, for messages.
    """

    id: str
    facts: tuple[Fact, ...]
    originals: tuple[Answer, ...]
    edited_hops: tuple[int, ...]
    questions: tuple[str, ...]
    answer: Answer
    new_answer: Answer
    hops: tuple[Hop, ...]
    new_hops: tuple[Hop, ...]
    relations: tuple[str, ...]
    subject: str
    bridges: tuple[str, ...]
    cluster: str
    split: str | None = None
    where: str = ""

    @property
    def n_hops(self) -> int:
        """Length of the chain."""
        return len(self.hops)

    @property
    def n_edits(self) -> int:
        """How many facts are edited."""
        return len(self.facts)

    @property
    def position(self) -> str:
        """Where the edited hop stands: ``first``, ``middle``, ``last``, or ``several``."""
        if self.n_edits > 1:
            return "several"
        (at,) = self.edited_hops
        return "first" if at == 0 else "last" if at == self.n_hops - 1 else "middle"

    @property
    def targets(self) -> tuple[Answer, ...]:
        """The new object of each edited fact, with its other names."""
        return tuple(self.new_hops[at].answer for at in self.edited_hops)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subject of each hop of the old chain."""
        return (self.subject, *self.bridges)

    @property
    def new_subjects(self) -> tuple[str, ...]:
        """The subject of each hop of the new chain."""
        return (self.subject, *(hop.answer.text for hop in self.new_hops[:-1]))

    @property
    def edited_subjects(self) -> tuple[Answer, ...]:
        """The subject of each edited fact, with its other names where the chain gives them."""
        named = [hop.answer for hops in (self.hops, self.new_hops) for hop in hops[:-1]]
        return tuple(
            next((a for a in named if a.text == fact.subject), Answer(fact.subject))
            for fact in self.facts
        )

    @property
    def paraphrases(self) -> tuple[Question, ...]:
        """Each edited fact asked as a question, with its new object."""
        return tuple(
            Question(fact.asked or self.new_hops[at].question, target)
            for fact, at, target in zip(self.facts, self.edited_hops, self.targets, strict=True)
        )


@dataclass(frozen=True, repr=False)
class Cases(Records[Case]):
    """Cases in order, their source, and the excluded rows, each with its reason."""

    def where(self, keep: Callable[[Case], bool]) -> "Cases":
        """The cases for which the function is true."""
        return replace(self, records=tuple(filter(keep, self.records)))

    def clustered(self, by: Callable[[Case], str]) -> "Cases":
        """The same cases in other clusters, such as ``lambda case: case.bridges[0]``."""
        return replace(self, records=tuple(replace(c, cluster=by(c)) for c in self.records))


def chain_of(subject: str, relations: Iterable[str], objects: Iterable[str]) -> str:
    """The identity of a chain, for clusters: ``Misery | P50 | Stephen King | P27 | …``."""
    links = (part for pair in zip(relations, objects, strict=True) for part in pair)
    return " | ".join((subject, *links))
