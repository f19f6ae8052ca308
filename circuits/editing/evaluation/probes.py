"""Control questions of a case, which its edits must leave as they are, and preservation keys.

Both are drawn from the true chains of other cases, and only from questions that the model is
known to answer rightly before the edit. What is scored and what an editor may see to preserve
share no subject and no bridge.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from circuits.editing.evaluation.answers import Answer, normalised
from circuits.editing.evaluation.cases import Case
from interp.brief import brief

ProbeKind = Literal["same_relation", "same_answer", "neighbour", "control_two_hop"]
KeyKind = Literal["same_relation", "related", "other_relation", "two_hop"]
KINDS: tuple[ProbeKind, ...] = ("neighbour", "same_answer", "control_two_hop", "same_relation")
"""In the order in which they are drawn: what is rare first, as no question is drawn twice."""


@brief
@dataclass(frozen=True)
class Known:
    """A question that the model answers rightly before any edit.

    Attributes:
        text: the question.
        answer: its true answer.
        subjects: the subject of each hop that it takes; one for a single fact.
        relations: the relation of each.
    """

    text: str
    answer: Answer
    subjects: tuple[str, ...]
    relations: tuple[str, ...]

    @cached_property
    def entities(self) -> frozenset[tuple[str, ...]]:
        """Its subject and bridges, normalised."""
        return frozenset(map(normalised, self.subjects))


@brief
@dataclass(frozen=True)
class Pool:
    """Known questions by what they are about.

    Attributes:
        facts: single facts by relation.
        chains: composed questions by (relation, the hop at which it stands).
    """

    facts: Mapping[str, tuple[Known, ...]]
    chains: Mapping[tuple[str, int], tuple[Known, ...]]

    @classmethod
    def of(cls, cases: Iterable[Case], known: Collection[str]) -> "Pool":
        """The known questions of cases.

        Args:
            cases: whose true chains to use; of the same part of the data as what is edited.
            known: texts of the questions that the model answered rightly before the edit.
        """
        facts: dict[str, dict[str, Known]] = defaultdict(dict)
        chains: dict[tuple[str, int], dict[str, Known]] = defaultdict(dict)
        for case in cases:
            for hop, subject, relation in zip(
                case.hops, case.subjects, case.relations, strict=True
            ):
                if hop.question in known:
                    fact = Known(hop.question, hop.answer, (subject,), (relation,))
                    facts[relation].setdefault(fact.text, fact)
            for text in case.questions:
                if text in known:
                    chain = Known(text, case.answer, case.subjects, case.relations)
                    for at, relation in enumerate(case.relations):
                        chains[relation, at].setdefault(text, chain)
        return cls(
            {relation: tuple(found.values()) for relation, found in facts.items()},
            {place: tuple(found.values()) for place, found in chains.items()},
        )

    def of_relations(self, case: Case) -> list[Known]:
        """The single facts of a case's edited relations."""
        return [fact for r in _edited(case) for fact in self.facts.get(r, ())]

    def of_other_relations(self, case: Case) -> list[Known]:
        """The single facts of all other relations."""
        return [f for r, facts in self.facts.items() if r not in _edited(case) for f in facts]

    def related(self, case: Case) -> frozenset[str]:
        """Other relations that are asked of the same kind of subjects as an edited one.

        These have two subjects in common, as one may be a namesake.
        """
        asked = {r: {s for f in facts for s in f.entities} for r, facts in self.facts.items()}
        edited = [asked.get(relation, set()) for relation in _edited(case)]
        return frozenset(
            r
            for r, subjects in asked.items()
            if r not in _edited(case) and any(len(subjects & mine) >= 2 for mine in edited)
        )

    def composed(self, case: Case) -> list[Known]:
        """The composed questions whose chain has an edited relation where the case has it."""
        places = [(case.relations[at], at) for at in case.edited_hops]
        return [chain for place in places for chain in self.chains.get(place, ())]


def draw_probes(
    case: Case, pool: Pool, k: int = 4, seed: int = 0
) -> dict[ProbeKind, tuple[Known, ...]]:
    """Control questions of a case.

    Args:
        case: what is edited.
        pool: the questions to draw from.
        k: most questions of a kind; fewer where the pool has no more.
        seed: of the draws, which depend on the case's id too.

    Returns:
        ``same_relation``: the edited relation of another subject. ``same_answer``: another fact
        whose object is the edited fact's old one. ``neighbour``: another relation of the edited
        subject. ``control_two_hop``: the question of another chain with the edited relation at
        the same hop. None is part of the case's own chains. None but the neighbours names an
        edited subject (by any name that the case knows) or goes through it, and none is answered
        by a new object or the new final answer, which an edit that spreads too far would give too.
    """
    apart, used = Apart(case), _own_questions(case)
    one_hop, other = pool.of_relations(case), pool.of_other_relations(case)
    old = frozenset[tuple[str, ...]]().union(*(answer.keys for answer in case.originals))
    candidates: dict[ProbeKind, list[Known]] = {
        "neighbour": [f for f in other if not apart.names.isdisjoint(f.entities)],
        "same_answer": [f for f in one_hop + other if not old.isdisjoint(f.answer.keys)],
        "control_two_hop": pool.composed(case),
        "same_relation": one_hop,
    }
    drawn: dict[ProbeKind, tuple[Known, ...]] = {}
    for kind in KINDS:
        fresh = [question for question in candidates[kind] if question.text not in used]
        usable = apart.unambiguous if kind == "neighbour" else apart.control
        drawn[kind] = _draw(fresh, usable, k, random.Random(f"{seed} {case.id} {kind}"))
        used |= {question.text for question in drawn[kind]}
    return drawn


def preservation(
    case: Case,
    pool: Pool,
    scored: Mapping[ProbeKind, Sequence[Known]],
    k: int = 16,
    seed: int = 0,
) -> dict[KeyKind, tuple[Known, ...]]:
    """Questions that an editor may be given to leave as they are.

    Args:
        case: what is edited.
        pool: the questions to draw from.
        scored: the case's probes; no key shares a subject or bridge with them, or is one.
        k: most questions of a kind.
        seed: of the draws.

    Returns:
        ``same_relation``: single facts of the edited relation. ``related``: of relations that are
        asked of the same kind of subjects (`Pool.related`), ``other_relation``: of all others,
        both of as many relations as there are.
        ``two_hop``: questions of other chains with the edited relation at the same hop. None has
        an entity of the case's own chains.

    Source: zero-residual keys of the pilot; after the preserved keys K0 of MEMIT
    (arXiv 2210.07229, equation 8).
    """
    taken = {entity for questions in scored.values() for q in questions for entity in q.entities}
    taken |= set(map(normalised, (*case.subjects, *case.new_subjects)))
    near, others = pool.related(case), pool.of_other_relations(case)
    candidates: dict[KeyKind, list[Known]] = {
        "same_relation": pool.of_relations(case),
        "related": [fact for fact in others if fact.relations[0] in near],
        "other_relation": [fact for fact in others if fact.relations[0] not in near],
        "two_hop": pool.composed(case),
    }
    apart = Apart(case)
    drawn: dict[KeyKind, tuple[Known, ...]] = {}
    for kind, questions in candidates.items():
        free = [question for question in questions if taken.isdisjoint(question.entities)]
        rng = random.Random(f"{seed} {case.id} keep {kind}")
        if kind in ("related", "other_relation"):
            drawn[kind] = _one_a_relation(_draw(free, apart, len(free), rng))[:k]
        else:
            drawn[kind] = _draw(free, apart, k, rng)
    return drawn


def _one_a_relation(questions: Sequence[Known]) -> tuple[Known, ...]:
    """The first question of every relation, then the second of each, and so on."""
    seen: dict[tuple[str, ...], int] = defaultdict(int)
    turn: list[tuple[int, int]] = []
    for i, question in enumerate(questions):
        turn.append((seen[question.relations], i))
        seen[question.relations] += 1
    return tuple(questions[i] for _, i in sorted(turn))


class Apart:
    """Whether a question has nothing to do with a case's edited subjects and new objects."""

    def __init__(self, case: Case) -> None:
        self.subjects = case.edited_subjects
        self.names = frozenset[tuple[str, ...]]().union(*(s.keys for s in self.subjects))
        new = (*case.targets, case.new_answer)
        self.new = frozenset[tuple[str, ...]]().union(*(answer.keys for answer in new))

    def __call__(self, question: Known) -> bool:
        """Whether it neither goes through an edited subject nor names one."""
        through = not self.names.isdisjoint(question.entities)
        return not through and not any(s.lenient(question.text) for s in self.subjects)

    def control(self, question: Known) -> bool:
        """Whether it is unambiguous, and apart."""
        return self.unambiguous(question) and self(question)

    def unambiguous(self, question: Known) -> bool:
        """Whether an edit that spreads to it would change its answer."""
        return self.new.isdisjoint(question.answer.keys)


def _edited(case: Case) -> list[str]:
    return list(dict.fromkeys(case.relations[at] for at in case.edited_hops))


def _own_questions(case: Case) -> set[str]:
    hops = (*case.hops, *case.new_hops)
    return {*case.questions, *(hop.question for hop in hops), *(q.text for q in case.paraphrases)}


def _draw(
    candidates: Sequence[Known], usable: Callable[[Known], bool], k: int, rng: random.Random
) -> tuple[Known, ...]:
    """Up to k usable questions, one a chain: its other wordings would count it again."""
    drawn: dict[tuple[tuple[str, ...], tuple[str, ...]], Known] = {}
    for question in rng.sample(list(candidates), len(candidates)):
        if len(drawn) == k:
            break
        chain = (question.subjects, question.relations)
        if chain not in drawn and usable(question):
            drawn[chain] = question
    return tuple(drawn.values())
