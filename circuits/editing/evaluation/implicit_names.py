"""Implicit names of cases: as they are, withheld, or found without what is tested."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from circuits.editing.evaluated_chains import EvaluatedChain
from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import Case, SingleEdit
from circuits.editing.implicit import implicit_subjects, named
from circuits.editing.methods import Names
from interp.model.model import Model
from interp.results.run_folder import TABLES, Steps

TRIED = "implicit subjects"
"""The step's name, and what progress says."""


def held_out(case: Case | SingleEdit) -> list[EvaluatedChain]:
    """Per fact of a case, what its implicit subjects must not show.

    Of multi-hop cases: the questions, every entity of both chains but the fact's own subject, and
    the relation that leads to it. Of others, whose chains are not written out, the questions and
    the fact's objects, by which the subject is asked.
    """
    if isinstance(case, SingleEdit):
        queries = (*case.probes, *(q for _, test in case.tests for q in test.queries))
        texts = (*case.paraphrases, *case.neighbours, *(query.prompt for query in queries))
        return [EvaluatedChain(texts, tuple(filter(None, (*case.targets, *case.originals))))]
    hops = (*case.hops, *case.new_hops)
    texts = (*case.questions, *(hop.question for hop in hops))
    entities = [Answer(case.subject), *(hop.answer for hop in hops)]
    out: list[EvaluatedChain] = []
    for subject, at in zip(case.edited_subjects, case.edited_hops, strict=True):
        others = tuple(entity for entity in entities if not entity.overlaps(subject))
        before = case.relations[max(at - 1, 0) : at]
        out.append(EvaluatedChain(texts, others, before, subject.names))
    return out


def with_names(
    model: Model,
    cases: Sequence[Any],
    names: Names,
    steps: Steps | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Any], pd.DataFrame]:
    """Cases whose facts have the implicit names asked for.

    Returns also what was tried, as `ImplicitSubjects.tried`; its ``fact`` counts the facts of all
    cases. `steps` keeps it; `report` is called with (what is done, done, in all).
    """
    facts = [fact for case in cases for fact in case.facts]
    if names in ("found", "none"):
        facts = [replace(fact, implicit=()) for fact in facts]

    def search() -> dict[str, pd.DataFrame]:
        leak = [one for case in cases for one in held_out(case)]
        say = report or (lambda what, done, total: None)
        found = implicit_subjects(
            model, facts, names, leak=leak, progress=lambda done, n: say(TRIED, done, n)
        )
        return {"tried": found.tried}

    tried = (steps or Steps()).step(TRIED, search, TABLES)["tried"]
    filled = iter(named(facts, tried))
    return [_with_facts(case, tuple(next(filled) for _ in case.facts)) for case in cases], tried


def _with_facts(case: Any, facts: tuple[Any, ...]) -> Any:
    if isinstance(case, SingleEdit):
        return replace(case, fact=facts[0])
    return replace(case, facts=facts)
