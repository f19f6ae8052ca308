"""Which facts a sequence edits, and what is asked of the model after each number of edits."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.editing.evaluation.answers import Answer, normalised
from circuits.editing.evaluation.case_selection import UNANCHORED, UNUSABLE, anchored
from circuits.editing.evaluation.cases import MULTI_HOP_FORMATS, Cases
from circuits.editing.evaluation.control_questions import (
    QuestionPool,
    preservation_set,
    preserved_of,
)
from circuits.editing.evaluation.demonstrations import Shots
from circuits.editing.evaluation.edited_models import Ask, asking, generations
from circuits.editing.writing import Request
from interp.brief import brief
from interp.errors import DataError
from interp.model.model import Model

N_PRESERVED = 4
"""Preserved questions of a kind for each edit, at most."""
TRIED = 8
"""Questions that are asked before the edits for each control that is wanted, at most."""


@brief
@dataclass(frozen=True)
class SequenceQuestion:
    """What is asked: of the edit of a number, or of none (a control), and its right answer."""

    kind: str
    index: int
    ask: Ask
    expected: Answer


@brief
@dataclass(frozen=True)
class SequencePlan:
    """Edits in order, what is asked about each, and the controls.

    Attributes:
        requests: the edits, with what a method may see to preserve.
        asked: per edit its sentence (``efficacy``) and, if it has one, its question.
        controls: known questions about subjects that no edit of the sequence is about.
        excluded: cases that are not used, by reason.
    """

    requests: tuple[Request, ...]
    asked: tuple[tuple[SequenceQuestion, ...], ...]
    controls: tuple[SequenceQuestion, ...]
    excluded: dict[str, int]

    def questions(self, n: int, n_asked: int) -> list[SequenceQuestion]:
        """After `n` edits: about `n_asked` of them at most, first and last too; and controls."""
        chosen = np.unique(np.linspace(0, n - 1, min(n, n_asked)).round().astype(int))
        return [*(q for i in chosen for q in self.asked[i]), *self.controls]


def sequence_plan(
    model: Model, cases: Cases[Any], n: int, n_controls: int, shots: Shots, seed: int = 0
) -> SequencePlan:
    """Draw up to `n` edits of different subjects, and controls that the model knows.

    Raises:
        DataError: the cases hold no such edit, or no control that the model knows.
    """
    if cases.format in ("ripple_edits", "knowedit"):
        raise DataError(
            f"{cases.format} has no prompts about other subjects; give multi-hop cases, "
            "CounterFact or zsRE."
        )
    chosen, excluded = _chosen(model, cases, n, seed)
    if not chosen:
        raise DataError(f"{model.name} can be given no edit of {cases.source} ({excluded}).")
    subjects = {normalised(case.facts[0].subject) for case in chosen}
    if cases.format in MULTI_HOP_FORMATS:
        pool, controls = _known(model, cases, subjects, n_controls, shots, seed)
        preserved = [
            preserved_of(preservation_set(case, pool, {}, N_PRESERVED, seed)) for case in chosen
        ]
    else:
        controls, preserved = _neighbours(model, chosen, n_controls, seed), [()] * len(chosen)
    if not controls:
        raise DataError(
            f"{model.name} knows no question of {cases.source} about a subject that is not edited; "
            "give more cases or fewer edits."
        )
    firsts = (case.facts[:1] for case in chosen)
    requests = tuple(map(Request, firsts, preserved))
    asked = tuple(tuple(_about(i, case, shots)) for i, case in enumerate(chosen))
    return SequencePlan(requests, asked, tuple(controls), excluded)


def _chosen(model: Model, cases: Cases[Any], n: int, seed: int) -> tuple[list[Any], dict[str, int]]:
    """The first cases, in a seeded order, that edit subjects of their own."""
    chosen: list[Any] = []
    seen: set[tuple[str, ...]] = set()
    why: Counter[str] = Counter({UNUSABLE: len(cases.excluded)} if cases.excluded else {})
    for case in random.Random(seed).sample(list(cases), len(cases)):
        subject = normalised(case.facts[0].subject)
        if len(chosen) == n:
            why["beyond the largest number of edits"] += 1
        elif len(case.facts) > 1:
            why["edits several facts"] += 1
        elif subject in seen:
            why["edits a subject that an earlier one edits"] += 1
        elif not anchored(model, case.facts[0]):
            why[UNANCHORED] += 1
        else:
            chosen.append(case)
            seen.add(subject)
    return chosen, dict(why)


def _about(i: int, case: Any, shots: Shots) -> list[SequenceQuestion]:
    fact, (target, *_) = case.facts[0], case.targets
    out = [SequenceQuestion("efficacy", i, Ask(0, fact.cloze), target)]
    if fact.asked:
        out.append(SequenceQuestion("paraphrase", i, asking(shots, fact.asked), target))
    elif case.paraphrases:
        out.append(SequenceQuestion("paraphrase", i, Ask(0, case.paraphrases[0]), target))
    return out


def _known(
    model: Model, cases: Cases[Any], edited: set[tuple[str, ...]], n: int, shots: Shots, seed: int
) -> tuple[QuestionPool, list[SequenceQuestion]]:
    """Single facts about other subjects that the model knows: controls, and what is preserved.

    The two are about different subjects.
    """
    found: dict[str, Answer] = {}
    for case in cases:
        for hop, subject in zip(case.hops, case.subjects, strict=True):
            if normalised(subject) not in edited:
                found.setdefault(hop.question, hop.answer)
    texts = random.Random(seed).sample(sorted(found), min(len(found), TRIED * n))
    asks = [asking(shots, text) for text in texts]
    replies = [shots.read(reply) for reply in generations(model, asks, [()])]
    known = [i for i, text in enumerate(texts) if found[text].lenient(replies[i])]
    controls = [
        SequenceQuestion("locality", j, asks[i], found[texts[i]]) for j, i in enumerate(known[:n])
    ]
    scored = QuestionPool.of(cases, {texts[i] for i in known[:n]})
    taken = {e for facts in scored.facts.values() for fact in facts for e in fact.entities}
    pool = QuestionPool.of(cases, {texts[i] for i in known[n:]})
    return pool.where(lambda question: taken.isdisjoint(question.entities)), controls


def _neighbours(model: Model, chosen: Sequence[Any], n: int, seed: int) -> list[SequenceQuestion]:
    """Prompts that name no edited subject; the right answer is what the model says by itself."""
    edited = [case.facts[0].subject for case in chosen]
    every = sorted({text for case in chosen for text in case.neighbours})
    texts = [text for text in every if not any(subject in text for subject in edited)]
    drawn = random.Random(seed).sample(texts, min(n, len(texts)))
    asks = [Ask(0, text) for text in drawn]
    replies = [reply.strip() for reply in generations(model, asks, [()])]
    pairs = ((ask, reply) for ask, reply in zip(asks, replies, strict=True) if Answer(reply).keys)
    return [
        SequenceQuestion("locality", i, ask, Answer(reply)) for i, (ask, reply) in enumerate(pairs)
    ]
