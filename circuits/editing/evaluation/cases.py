"""What is edited and asked: multi-hop cases, and the single edits of other benchmarks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from circuits.editing.evaluation.answers import Answer, normalised
from circuits.editing.fact import Fact
from interp.brief import brief
from interp.data.pairs import Excluded
from interp.data.records import Row, Text


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
        facts, originals: the edits, and the object of each edited fact before.
        edited_hops: at which hop of the new chain each edit stands, from 0.
        questions: wordings of one question about the end of the chain.
        hops, new_hops: the chain before and after the edits, of the same length.
        subject: where the chain starts.
        cluster: what an interval is to generalise over; by default the old chain.
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
    def bridges(self) -> tuple[str, ...]:
        """The entities between the hops of the old chain."""
        return tuple(hop.answer.text for hop in self.hops[:-1])

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
    def paraphrases(self) -> tuple[str, ...]:
        """Each edited fact asked as a question."""
        edits = zip(self.facts, self.edited_hops, strict=True)
        return tuple(fact.asked or self.new_hops[at].question for fact, at in edits)

    @property
    def continued(self) -> tuple[str, ...]:
        """What an edited model continues, for its fluency."""
        return (self.facts[0].cloze,)


class RippleAnswer(Row):
    """An answer of RippleEdits, which may be a number or missing."""

    value: str | int | None = None
    aliases: tuple[str | int | None, ...] | None = None

    @property
    def answer(self) -> Answer:
        """With its names as texts."""
        names = ("" if n is None else str(n) for n in (self.value, *(self.aliases or ())))
        return Answer(next(names), tuple(names))


class RippleQuery(Row):
    """A prompt and all the answers that its continuation must give, each by any of its names."""

    prompt: Text
    answers: tuple[RippleAnswer, ...] | None = None

    @property
    def named(self) -> tuple[Answer, ...]:
        """The answers that have a name."""
        answers = (one.answer for one in self.answers or ())
        return tuple(answer for answer in answers if answer.text.strip())

    def passed(self, generated: str) -> bool:
        """Whether the generation contains every answer, by any of its names, as whole words.

        Source: arXiv 2307.12976, section 5.1. Its released evaluation accepts parts of words.
        """
        return all(answer.lenient(generated) for answer in self.named)


Queries = tuple[RippleQuery, ...] | None


class RippleTest(Row):
    """Queries of one implication, and what a model must pass before the edit for it to count."""

    test_queries: Queries = None
    test_condition: Literal["OR", "AND"] = "OR"
    condition_queries: Queries = None

    @property
    def queries(self) -> tuple[RippleQuery, ...]:
        """The test queries."""
        return self.test_queries or ()

    @property
    def answered(self) -> bool:
        """Whether there is a test query, and no query lacks its answer."""
        every = (*self.queries, *(self.condition_queries or ()))
        return bool(self.queries) and all(query.named for query in every)

    def passed(self, passed: Sequence[bool]) -> bool:
        """The test's outcome, given those of its queries."""
        return any(passed) if self.test_condition == "OR" else all(passed)


@dataclass(frozen=True)
class NamedPrompt:
    """A prompt with its answer, of a type of KnowEdit such as ``portability/reasoning``."""

    kind: str
    prompt: str
    answer: Answer


@brief
@dataclass(frozen=True)
class SingleEdit:
    """A record of CounterFact, zsRE, RippleEdits or KnowEdit: one fact, and what to ask after it.

    Attributes:
        true: its object before the edit; None where the model is not to have known it.
        paraphrases: prompts after which the new object must follow.
        neighbours, neighbour_answer: prompts about other subjects, and what must still follow.
        generations: prompts to continue, for fluency; by default the edited cloze.
        tests: of RippleEdits, each with its criterion.
        n_unanswered: tests and probes left out, as they have no query or a query no named answer.
        probes: of KnowEdit.
    """

    id: str
    fact: Fact
    true: str | None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    neighbour_answer: str = ""
    generations: tuple[str, ...] = ()
    tests: tuple[tuple[str, RippleTest], ...] = ()
    n_unanswered: int = 0
    probes: tuple[NamedPrompt, ...] = ()

    facts = property(lambda self: (self.fact,))
    targets = property(lambda self: (Answer(self.fact.target),))
    originals = property(lambda self: (Answer(self.true) if self.true else None,))
    subjects = new_subjects = property(lambda self: (self.fact.subject,))
    edited_subjects = property(lambda self: (Answer(self.fact.subject),))
    cluster = property(lambda self: self.fact.subject)
    continued = property(lambda self: self.generations or (self.fact.cloze,))


MULTI_HOP_FORMATS = ("mquake", "mquake_remastered")
"""Formats whose cases are chains (`Case`); those of the others are a `SingleEdit`."""
C = TypeVar("C")


@dataclass(frozen=True)
class Cases(Sequence[C], Generic[C]):
    """Usable cases in order, of a format and a source, and the excluded rows with their reasons."""

    records: tuple[C, ...]
    format: str
    source: str = "records"
    excluded: tuple[Excluded, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return replace(self, records=self.records[index])
        return self.records[index]

    def __repr__(self) -> str:
        return f"Cases({len(self)} from {self.source}; {len(self.excluded)} excluded)"

    def where(self, keep: Callable[[C], bool]) -> "Cases[C]":
        """The cases for which the function is true."""
        return replace(self, records=tuple(filter(keep, self.records)))


def side_by_side(cases: Iterable[C]) -> list[C]:
    """The first cases of which none edits a subject that another's chains go through.

    Edits of one subject can contradict each other, or change what is right in another chain.
    """
    edited: set[tuple[str, ...]] = set()
    passed: set[tuple[str, ...]] = set()
    chosen: list[C] = []
    for case in cases:
        one: Any = case
        mine = {key for subject in one.edited_subjects for key in subject.keys}
        through = mine | set(map(normalised, (*one.subjects, *one.new_subjects)))
        if edited.isdisjoint(through) and passed.isdisjoint(mine):
            chosen.append(case)
            edited |= mine
            passed |= through
    return chosen
