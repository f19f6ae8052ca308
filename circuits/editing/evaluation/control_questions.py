"""Control questions of a case, which its edits must leave as they are, and its preservation set.

Both are drawn from the true chains of other cases, of what the model answers rightly before the
edit. What is scored and what an editor may see to preserve share no subject and no bridge.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from circuits.editing.evaluation.answers import Answer, Words, normalised
from circuits.editing.evaluation.cases import Case
from circuits.editing.fact import PreservedQuestion
from interp.brief import brief

T = TypeVar("T")
ControlKind = Literal["same_relation", "same_answer", "neighbour", "control_two_hop"]
PreservedKind = Literal["same_relation", "related", "other_relation", "two_hop"]
CONTROLS: tuple[ControlKind, ...] = ("neighbour", "same_answer", "control_two_hop", "same_relation")
"""In the order in which they are drawn: what is rare first, as no question is drawn twice."""


@brief
@dataclass(frozen=True)
class KnownQuestion:
    """A question answered rightly before any edit; subject and relation of each hop it takes."""

    text: str
    answer: Answer
    subjects: tuple[str, ...]
    relations: tuple[str, ...]

    @cached_property
    def entities(self) -> frozenset[Words]:
        """Its subject and bridges, normalised."""
        return frozenset(map(normalised, self.subjects))


@brief
@dataclass(frozen=True)
class QuestionPool:
    """Known questions: single facts by relation, and composed ones by (relation, its hop)."""

    facts: Mapping[str, tuple[KnownQuestion, ...]]
    chains: Mapping[tuple[str, int], tuple[KnownQuestion, ...]]

    @classmethod
    def of(cls, cases: Iterable[Case], known: Collection[str]) -> "QuestionPool":
        """The known questions of cases' true chains, of the part of the data that is edited."""
        facts: dict[str, dict[str, KnownQuestion]] = defaultdict(dict)
        chains: dict[tuple[str, int], dict[str, KnownQuestion]] = defaultdict(dict)
        for case in cases:
            for hop, *about in zip(case.hops, case.subjects, case.relations, strict=True):
                if hop.question in known:
                    subject, relation = about
                    fact = KnownQuestion(hop.question, hop.answer, (subject,), (relation,))
                    facts[relation].setdefault(fact.text, fact)
            for text in case.questions:
                if text in known:
                    chain = KnownQuestion(text, case.answer, case.subjects, case.relations)
                    for at, relation in enumerate(case.relations):
                        chains[relation, at].setdefault(text, chain)
        return cls(
            {relation: tuple(found.values()) for relation, found in facts.items()},
            {place: tuple(found.values()) for place, found in chains.items()},
        )

    def related(self, case: Case) -> frozenset[str]:
        """Other relations with two subjects of an edited one; one may be a namesake."""
        asked = {r: {s for f in facts for s in f.entities} for r, facts in self.facts.items()}
        edited = _edited(case)
        return frozenset(
            r
            for r, subjects in asked.items()
            if r not in edited and any(len(subjects & asked.get(e, set())) >= 2 for e in edited)
        )

    def parts(self, case: Case) -> tuple[list[KnownQuestion], ...]:
        """Facts of the edited relations, of all others, and chains with them at the same hop."""
        edited = _edited(case)
        return (
            [fact for r in edited for fact in self.facts.get(r, ())],
            [fact for r, facts in self.facts.items() if r not in edited for fact in facts],
            [q for at in case.edited_hops for q in self.chains.get((case.relations[at], at), ())],
        )

    def where(self, usable: Callable[[KnownQuestion], bool]) -> "QuestionPool":
        """The questions for which the function is true."""
        return QuestionPool(
            {relation: tuple(filter(usable, facts)) for relation, facts in self.facts.items()},
            {place: tuple(filter(usable, chains)) for place, chains in self.chains.items()},
        )


def control_questions(
    case: Case, pool: QuestionPool, k: int = 4, seed: int = 0
) -> dict[ControlKind, tuple[KnownQuestion, ...]]:
    """Draw up to `k` control questions of each kind; the draws depend on the case's id, too.

    Returns:
        ``same_relation``: the edited relation of another subject. ``same_answer``: another fact
        whose object is the edited fact's old one. ``neighbour``: other relations of the edited
        subject, half of those there are (rounded up): an editor may know the others.
        ``control_two_hop``: the question of another chain with the edited relation at the same hop.
        None is part of the case's own chains. None but the neighbours names an edited subject (by
        any name that the case knows) or goes through it, and none is answered by a new object or
        the new final answer, which an edit that spreads too far would give too.
    """
    separate, old = Separate(case), _all_keys(case.originals)
    rng = random.Random(f"{seed} {case.id} relations")
    own, other, composed = pool.parts(case)
    hops = (*case.hops, *case.new_hops)
    used = {*case.questions, *(hop.question for hop in hops), *case.paraphrases}
    candidates: dict[ControlKind, list[KnownQuestion]] = {
        "neighbour": _of_half([f for f in other if not separate.names.isdisjoint(f.entities)], rng),
        "same_answer": [f for f in own + other if not old.isdisjoint(f.answer.keys)],
        "control_two_hop": composed,
        "same_relation": own,
    }
    drawn: dict[ControlKind, tuple[KnownQuestion, ...]] = {}
    for kind in CONTROLS:
        fresh = [question for question in candidates[kind] if question.text not in used]
        usable = separate.unambiguous if kind == "neighbour" else separate.control
        drawn[kind] = _draw(fresh, usable, k, random.Random(f"{seed} {case.id} {kind}"))
        used |= {question.text for question in drawn[kind]}
    return drawn


def preservation_set(
    case: Case,
    pool: QuestionPool,
    scored: Mapping[ControlKind, Sequence[KnownQuestion]],
    k: int = 16,
    seed: int = 0,
    besides: Iterable[str] = (),
) -> dict[PreservedKind, tuple[KnownQuestion, ...]]:
    """Draw up to `k` questions of each kind that an editor may be given to leave as they are.

    None is about an entity of the case's own chains, nor has a subject or bridge of its controls
    (`scored`): where Paris is the old object, "Paris is the capital of which country?" asks for
    what is to be forgotten. And the relations of which the edited subject is asked there are none
    of ``related``, for an editor asks these of the edited subject
    (`circuits.editing.fact_prompts.contrasts`). `besides` names further entities.

    Returns:
        ``same_relation``: single facts of the edited relation. ``related``: of relations that are
        asked of the same kind of subjects (`QuestionPool.related`); ``other_relation``: of all
        others; both of as many relations as there are. ``two_hop``: questions of other chains with
        the edited relation at the same hop.

    Source: after the preserved keys K0 of MEMIT (arXiv 2210.07229, equation 8).
    """
    taken = {entity for questions in scored.values() for q in questions for entity in q.entities}
    taken |= set(map(normalised, (*case.subjects, *case.new_subjects, *besides)))
    asked = {r for question in scored.get("neighbour", ()) for r in question.relations}
    near, (own, others, composed) = pool.related(case) - asked, pool.parts(case)
    candidates: dict[PreservedKind, list[KnownQuestion]] = {
        "same_relation": own,
        "related": [fact for fact in others if fact.relations[0] in near],
        "other_relation": [fact for fact in others if fact.relations[0] not in near],
        "two_hop": composed,
    }
    separate = Separate(case)
    objects = _all_keys(hop.answer for hop in (*case.hops, *case.new_hops))

    def usable(question: KnownQuestion) -> bool:
        return separate(question) and objects.isdisjoint(question.entities)

    drawn: dict[PreservedKind, tuple[KnownQuestion, ...]] = {}
    for kind, questions in candidates.items():
        free = [question for question in questions if taken.isdisjoint(question.entities)]
        rng = random.Random(f"{seed} {case.id} keep {kind}")
        if kind in ("related", "other_relation"):
            every = _draw(free, usable, len(free), rng)
            drawn[kind] = tuple(in_turn(every, lambda question: question.relations)[:k])
        else:
            drawn[kind] = _draw(free, usable, k, rng)
    return drawn


def preserved_of(
    known: Mapping[PreservedKind, Sequence[KnownQuestion]],
) -> tuple[PreservedQuestion, ...]:
    """Known questions as an editor takes them: each about its first subject.

    Those whose text lacks the subject have no token to preserve. Chains count as of no relation.
    """
    return tuple(
        PreservedQuestion(
            question.text,
            question.subjects[0],
            question.relations[0] if len(question.relations) == 1 else "",
            kind == "related",
        )
        for kind, questions in known.items()
        for question in questions
        if question.subjects[0] in question.text
    )


def pools_apart(pool: QuestionPool, cases: Sequence[Case]) -> list[QuestionPool]:
    """For each case, the questions that have nothing to do with what the *others* edit."""
    questions = {q for part in (pool.facts, pool.chains) for qs in part.values() for q in qs}
    tests = [Separate(case) for case in cases]
    touched = {q: {i for i, separate in enumerate(tests) if not separate(q)} for q in questions}
    return [pool.where(lambda q, i=i: touched[q] <= {i}) for i in range(len(cases))]


class Separate:
    """Whether a question has nothing to do with a case's edited subjects and new objects."""

    def __init__(self, case: Case) -> None:
        self.subjects = case.edited_subjects
        self.names = _all_keys(self.subjects)
        self.new = _all_keys((*case.targets, case.new_answer))

    def __call__(self, question: KnownQuestion) -> bool:
        """Whether it neither goes through an edited subject nor names one."""
        through = not self.names.isdisjoint(question.entities)
        return not through and not any(s.lenient(question.text) for s in self.subjects)

    def control(self, question: KnownQuestion) -> bool:
        """Whether it is unambiguous, and separate."""
        return self.unambiguous(question) and self(question)

    def unambiguous(self, question: KnownQuestion) -> bool:
        """Whether an edit that spreads to it would change its answer."""
        return self.new.isdisjoint(question.answer.keys)


def _all_keys(answers: Iterable[Answer]) -> frozenset[Words]:
    return frozenset(key for answer in answers for key in answer.keys)


def _edited(case: Case) -> list[str]:
    return list(dict.fromkeys(case.relations[at] for at in case.edited_hops))


def _draw(
    candidates: Sequence[KnownQuestion],
    usable: Callable[[KnownQuestion], bool],
    k: int,
    rng: random.Random,
) -> tuple[KnownQuestion, ...]:
    """Up to k usable questions, one per chain: its other wordings would count it again."""
    drawn: dict[tuple[tuple[str, ...], tuple[str, ...]], KnownQuestion] = {}
    for question in rng.sample(list(candidates), len(candidates)):
        if len(drawn) == k:
            break
        chain = (question.subjects, question.relations)
        if chain not in drawn and usable(question):
            drawn[chain] = question
    return tuple(drawn.values())


def _of_half(questions: Sequence[KnownQuestion], rng: random.Random) -> list[KnownQuestion]:
    """The questions of half of their relations, rounded up."""
    relations = sorted({question.relations for question in questions})
    half = rng.sample(relations, (len(relations) + 1) // 2)
    return [question for question in questions if question.relations in half]


def in_turn(items: Sequence[T], of: Callable[[T], Hashable]) -> list[T]:
    """The first item of every relation (what `of` gives), then the second of each, and so on."""
    seen: Counter[Hashable] = Counter()
    turn: list[int] = []
    for item in items:
        turn.append(seen[of(item)])
        seen[of(item)] += 1
    return [items[i] for i in sorted(range(len(turn)), key=turn.__getitem__)]
