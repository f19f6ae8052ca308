"""Many cases edited into one model: which can stand side by side, and what may control them."""

from collections.abc import Sequence

from circuits.editing.evaluation.answers import Answer, normalised
from circuits.editing.evaluation.cases import Case
from circuits.editing.evaluation.probes import Apart, Known, Pool


def side_by_side(cases: Sequence[Case]) -> list[Case]:
    """Cases of which none edits a subject that another's chains go through, in the order given.

    Edits of one subject can contradict each other, and an edit of a subject that another case's
    chain goes through can change what is right there.
    """
    edited: set[tuple[str, ...]] = set()
    passed: set[tuple[str, ...]] = set()
    kept: list[Case] = []
    for case in cases:
        mine = _names(case.edited_subjects)
        through = mine | set(map(normalised, (*case.subjects, *case.new_subjects)))
        if edited.isdisjoint(through) and passed.isdisjoint(mine):
            kept.append(case)
            edited |= mine
            passed |= through
    return kept


def pools_apart(pool: Pool, cases: Sequence[Case]) -> list[Pool]:
    """For each case, the questions that have nothing to do with what the *others* edit."""
    free = [Apart(case) for case in cases]
    questions = {q for part in (pool.facts, pool.chains) for qs in part.values() for q in qs}
    touched = {q: {i for i, apart in enumerate(free) if not apart(q)} for q in questions}

    def others_spare(i: int, questions: Sequence[Known]) -> tuple[Known, ...]:
        return tuple(q for q in questions if touched[q] <= {i})

    return [
        Pool(
            {relation: others_spare(i, facts) for relation, facts in pool.facts.items()},
            {place: others_spare(i, chains) for place, chains in pool.chains.items()},
        )
        for i in range(len(cases))
    ]


def _names(subjects: Sequence[Answer]) -> set[tuple[str, ...]]:
    return {key for subject in subjects for key in subject.keys}
