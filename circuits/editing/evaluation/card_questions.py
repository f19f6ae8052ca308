"""Multi-hop and control questions of any fact, drawn from `multihop_chains`.

The data's facts that mention the subject, the old and the new object make the questions. A fact of
a relation that the data lacks has its own words composed with the data's questions instead. What
cannot be formed is counted.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from circuits.editing.evaluation.answers import Answer, Words, normalised
from circuits.editing.evaluation.cases import Case, Hop
from circuits.editing.evaluation.control_questions import (
    ControlKind,
    KnownQuestion,
    QuestionPool,
    control_questions,
)
from circuits.editing.evaluation.fact_questions import EditedFact
from circuits.editing.evaluation.formats import load_cases
from circuits.editing.evaluation.statements import phrase
from circuits.editing.fact import SLOT
from interp.brief import brief

SHIPPED = "multihop_chains"
INVERSE = 0.8
"""Share of its facts that another relation must turn round to imply it."""


@brief
@dataclass(frozen=True)
class ComposedQuestion:
    """A multi-hop question with its answers before and after the edit.

    `about` is the other hop: where it starts, or its relation. `needs` are the questions that must
    be answered rightly for the new answer to follow, with their answers.
    """

    kind: str
    about: str
    text: str
    old: Answer
    new: Answer
    needs: tuple[tuple[str, Answer], ...] = ()


@brief
@dataclass(frozen=True)
class ChainFacts:
    """What the chains of a data set say: single facts, and chains by their hops."""

    pool: QuestionPool
    chains: tuple[Case, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)
    prompts: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, cases: Sequence[Case]) -> "ChainFacts":
        """All facts and questions of cases, whatever a model knows."""
        asked = {hop.question for case in cases for hop in case.hops}
        asked |= {question for case in cases for question in case.questions}
        templates = {f.relation: f.question for case in cases for f in case.facts if f.question}
        prompts: dict[str, frozenset[str]] = defaultdict(frozenset)
        for fact in (fact for case in cases for fact in case.facts):
            prompts[fact.prompt] |= {fact.relation}
        unique = {(case.cluster, case.questions): case for case in cases}
        return cls(QuestionPool.of(cases, asked), tuple(unique.values()), templates, prompts)

    @cached_property
    def objects(self) -> Mapping[tuple[str, Words], KnownQuestion]:
        """The fact of each relation and subject."""
        facts = (fact for facts in self.pool.facts.values() for fact in facts)
        return {(fact.relations[0], normalised(fact.subjects[0])): fact for fact in facts}

    def relation(self, one: EditedFact) -> str:
        """The data's relation of a fact; or nothing.

        It is the fact's own, that of the same prompt, or that of the same subject and old object;
        where several have both, the one whose question shares most words with the prompt.
        """
        if one.fact.relation in self.pool.facts:
            return one.fact.relation
        same = self.prompts.get(one.fact.prompt, frozenset())
        if len(same) == 1:
            return next(iter(same))
        fits = [
            name
            for (name, subject), fact in self.objects.items()
            if subject in one.subject.keys and one.old is not None and fact.answer.overlaps(one.old)
        ]
        words = set(normalised(one.fact.prompt))
        shared = {name: len(words & set(normalised(self.templates.get(name, "")))) for name in fits}
        best = [name for name in fits if shared[name] == max(shared.values())]
        return best[0] if len(best) == 1 else ""

    def implying(self, relation: str, one: EditedFact) -> tuple[KnownQuestion, ...]:
        """Facts about the old object whose answer is the subject, from which the old fact follows.

        They are of relations of which at least `INVERSE` of the facts turn one of this round.
        """
        found: list[KnownQuestion] = []
        for name, facts in self.pool.facts.items():
            about = [
                fact
                for fact in facts
                if name != relation
                and one.old is not None
                and normalised(fact.subjects[0]) in one.old.keys
                and fact.answer.overlaps(one.subject)
            ]
            found += about if about and self._implies(name, relation) else []
        return tuple(found)

    def _implies(self, name: str, relation: str) -> bool:
        held = [
            normalised(fact.subjects[0]) in back.answer.keys
            for fact in self.pool.facts[name]
            for key in fact.answer.keys
            if (back := self.objects.get((relation, key))) is not None
        ]
        return len(held) >= 3 and sum(held) >= INVERSE * len(held)

    def composed(
        self, one: EditedFact, relation: str
    ) -> tuple[list[ComposedQuestion], Counter[str]]:
        """Multi-hop questions with the edited fact as their first and as their last hop.

        Those about an entity that the fact's implicit names mention, from which an edit may have
        learned, are left out and counted, as is each kind of which none could be formed.
        """
        found, missing = self._of_chains(one, relation) if relation else [], Counter[str]()
        if not any(question.kind == FIRST for question in found):
            found += self._behind(one)
        if not any(question.kind == LAST for question in found):
            found += self._described(one)
        fresh = [q for q in found if not _learned(one, q)]
        if len(fresh) < len(found):
            missing["multi-hop: about what the fact's implicit names mention"] += len(found) - len(
                fresh
            )
        for kind in (FIRST, LAST):
            if not any(question.kind == kind for question in fresh):
                missing[f"{kind}: {SHIPPED} has no chain through this fact"] += 1
        return fresh, missing

    def _of_chains(self, one: EditedFact, relation: str) -> list[ComposedQuestion]:
        found: list[ComposedQuestion] = []
        for case in (case for case in self.chains if case.n_hops == 2):
            first, last = (
                normalised(subject) in one.subject.keys and name == relation
                for subject, name in zip(case.subjects, case.relations, strict=True)
            )
            if last:
                about = (case.subject, case.questions[0], case.answer, one.new)
                found.append(ComposedQuestion(LAST, *about))
            elif first and (then := self._object(case.relations[1], one.new)):
                about = (case.relations[1], case.questions[0], case.answer, then.answer)
                found.append(ComposedQuestion(FIRST, *about, ((then.text, then.answer),)))
        return [question for question in found if not question.old.overlaps(question.new)]

    def _behind(self, one: EditedFact) -> list[ComposedQuestion]:
        """What is known of both objects, asked of the phrase that the fact's prompt makes of it."""
        name, found = phrase(one.fact), list[ComposedQuestion]()
        for relation, form in self.templates.items() if name and one.old else ():
            old, new = (self._object(relation, end) for end in (one.old, one.new) if end)
            if old and new and not old.answer.overlaps(new.answer):
                about = (relation, form.replace(SLOT, name), old.answer, new.answer)
                needs = ((new.text, new.answer),)
                found.append(ComposedQuestion(FIRST, *about, needs))
        return found

    def _described(self, one: EditedFact) -> list[ComposedQuestion]:
        """The fact asked of phrases that mean its subject."""
        if one.old is None:
            return []
        form = one.fact.question or f"Complete the sentence: {one.fact.prompt}"
        phrases = {p: None for key in one.subject.keys for p in self.phrases.get(key, ())}
        return [ComposedQuestion(LAST, p, form.replace(SLOT, p), one.old, one.new) for p in phrases]

    @cached_property
    def phrases(self) -> Mapping[Words, tuple[str, ...]]:
        """Noun phrases that mean a subject without its name."""
        found: dict[Words, dict[str, None]] = defaultdict(dict)
        for fact in (fact for case in self.chains for fact in case.facts):
            found[normalised(fact.subject)] |= dict.fromkeys(fact.implicit)
        return {key: tuple(names) for key, names in found.items()}

    def _object(self, relation: str, subject: Answer) -> KnownQuestion | None:
        known = (self.objects.get((relation, key)) for key in sorted(subject.keys))
        return next(filter(None, known), None)

    def controls(
        self, one: EditedFact, relation: str, k: int, seed: int
    ) -> Mapping[ControlKind, Sequence[KnownQuestion]]:
        """Up to `k` control questions of each kind (`control_questions`), known or not.

        Two-hop questions are of chains with the edited relation at any hop; of a relation that the
        data lacks, of all chains.
        """
        old = one.old or Answer("")

        def usable(question: KnownQuestion) -> bool:
            about = not question.entities.isdisjoint(one.subject.keys)
            return bool(relation) or not (about and question.answer.overlaps(old))

        at = [found for (name, _), found in self.pool.chains.items() if relation in ("", name)]
        chains = dict.fromkeys(question for found in at for question in found)
        pool = QuestionPool(self.pool.facts, {(relation, 0): tuple(chains)}).where(usable)
        before, after = (
            (Hop(one.fact.asked or one.fact.cloze, one.fact.cloze, end),) for end in (old, one.new)
        )
        case = Case(
            id=one.fact.cloze,
            facts=(one.fact,),
            originals=(old,),
            edited_hops=(0,),
            questions=(),
            answer=old,
            new_answer=one.new,
            hops=before,
            new_hops=after,
            relations=(relation,),
            subject=one.fact.subject,
            cluster=one.fact.subject,
        )
        return control_questions(case, pool, k, seed)


FIRST, LAST = "multi_hop_first", "multi_hop_last"


def _learned(one: EditedFact, question: ComposedQuestion) -> bool:
    """Whether the fact's implicit names mention what a question starts from."""
    start = Answer(question.about)
    return any(start.lenient(name) or name == question.about for name in one.fact.implicit)


@cache
def shipped_facts() -> ChainFacts:
    """Those of `multihop_chains`."""
    return ChainFacts.of(load_cases(SHIPPED))


def sampled(
    questions: Sequence[ComposedQuestion], kind: str, k: int, seed: int
) -> list[ComposedQuestion]:
    """Up to `k` questions of a kind."""
    own = [question for question in questions if question.kind == kind]
    return random.Random(f"{seed} {kind}").sample(own, min(k, len(own)))
