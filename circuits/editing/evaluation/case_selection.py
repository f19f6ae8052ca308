"""Which cases of a file are edited, and how many are not, by reason."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from circuits.editing.evaluation.cases import MULTI_HOP_FORMATS, Case, Cases, side_by_side
from circuits.editing.evaluation.comparison_settings import ComparisonSettings
from circuits.editing.evaluation.control_questions import QuestionPool
from circuits.editing.evaluation.prior_knowledge import knowledge_of_enough, usable_cases
from circuits.editing.fact import Fact
from circuits.editing.fact_prompts import refuse_unanchored
from interp.errors import DataError
from interp.model.model import Model

UNASKED = "not asked, as enough before them were usable"
UNUSABLE = "the row cannot be used as an edit"
UNANCHORED = "subject or target has no tokens of its own"
CONTAMINATED = "contaminated by another case's edit"
TOUCHED = "its edit touches an earlier one's"
UNANSWERED = "tests (not cases) without a query or a named answer"


def selected_cases(
    model: Model,
    cases: Cases[Any],
    settings: ComparisonSettings,
    report: Callable[[str, int, int], None],
) -> tuple[list[Any], dict[str, int], QuestionPool]:
    """The cases to edit, how many are left out and why, and the questions for controls.

    Raises:
        DataError: no case is left.
    """
    limit, chosen = settings.limit, side_by_side if settings.sequential else list
    pool, unasked = QuestionPool({}, {}), 0
    excluded = Counter({UNUSABLE: len(cases.excluded)})
    if cases.format in MULTI_HOP_FORMATS:
        known, n_asked = knowledge_of_enough(
            model,
            cases,
            settings.demonstrations(),
            lambda usable: limit is not None and len(chosen(usable)) >= limit,
            lambda done, n: report("asking before the edit", done, n),
            settings.filter,
        )
        usable, unknown = usable_cases(cases[:n_asked], known, settings.filter)
        excluded.update(unknown)
        pool, unasked = QuestionPool.of(cases[:n_asked], known.right), len(cases) - n_asked
    else:
        usable = [case for case in cases if anchored(model, case.fact)]
        excluded[UNANCHORED] = len(cases) - len(usable)
    kept = chosen(usable)
    excluded.update(_in_the_way(usable, kept))
    if not kept:
        raise DataError(
            f"{model.name} can use none of the {len(cases)} cases of {cases.source} "
            f"({dict(+excluded)}); give more cases or a stronger model."
        )
    if limit is not None and len(kept) > limit:
        excluded["beyond the limit"] = len(kept) - limit
    excluded[UNASKED] = unasked
    used = kept[:limit]
    excluded[UNANSWERED] = sum(getattr(case, "n_unanswered", 0) for case in used)
    return used, dict(+excluded), pool


def contaminates(fact: Fact, case: Case) -> bool:
    """Whether an edit gives a hop on the right path of another case another object.

    Source: MQuAKE-Remastered (ICLR 2025), get_edits_without_contamination of its evaluation.
    """
    path = zip(case.new_subjects, case.relations, case.new_hops, strict=True)
    return any(
        (fact.subject, fact.relation) == (subject, relation) and fact.target != hop.answer.text
        for subject, relation, hop in path
    )


def _in_the_way(usable: list[Any], kept: list[Any]) -> dict[str, int]:
    """How many cases cannot be edited beside those kept, by reason."""
    ids = {case.id for case in kept}
    out = [case for case in usable if case.id not in ids]
    mixed = [
        case
        for case in out
        if isinstance(case, Case)
        and any(
            contaminates(fact, b)
            for other in kept
            for a, b in ((case, other), (other, case))
            for fact in a.facts
        )
    ]
    return {CONTAMINATED: len(mixed), TOUCHED: len(out) - len(mixed)}


def anchored(model: Model, fact: Fact) -> bool:
    """Whether subject and target have tokens of their own."""
    try:
        refuse_unanchored(model, fact)
    except DataError:
        return False
    return True
