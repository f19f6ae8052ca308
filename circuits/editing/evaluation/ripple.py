"""RippleEdits' schema (arXiv 2307.12976): an edit and what must, or must not, follow from it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.reading import (
    Records,
    list_of,
    name_of,
    object_of,
    objects_of,
    parsed,
    text_of,
)
from circuits.editing.fact import SLOT, Fact
from interp.brief import brief
from interp.data.records import read_records
from interp.errors import DataError, UnusableRow, shown

CRITERIA: Mapping[str, str] = {
    "Logical_Generalization": "logical_generalization",
    "Compositionality_I": "compositionality_1",
    "Compositionality_II": "compositionality_2",
    "Subject_Aliasing": "subject_aliasing",
    "Forgetfulness": "preservation",
    "Relation_Specificity": "relation_specificity",
    "Relation_Specifity": "relation_specificity",  # its README's spelling, and some files'
}
"""Key of the released files -> the paper's name of the criterion."""

PHRASES = (
    r"The name of the [^.]+? which (.+?) (?:is associated with|is a member of|plays in|is part of"
    r"|is the capital of) is",
    r"The names? of the (?:{relation})(?: city)?s? (?:of|in) (.+?) (?:is|are)",
    r"The (?:{relation}|gender|mother tongue) of (.+?) is",
    r"The number of children (.+?) has is",
    r"The name of the award (.+?) won is",
    r"(.+?) (?:is followed by|follows)",
)
"""How the benchmark words its relations; the group is the subject."""


@brief
@dataclass(frozen=True)
class Query:
    """A prompt and all the answers that its continuation must give, each by any of its names."""

    prompt: str
    answers: tuple[Answer, ...]

    def passed(self, generated: str) -> bool:
        """Whether the generation contains every answer, by any of its names, as whole words.

        Source: arXiv 2307.12976, section 5.1. Its released evaluation accepts parts of words.
        """
        return all(answer.lenient(generated) for answer in self.answers)


@brief
@dataclass(frozen=True)
class Test:
    """Queries of one implication.

    Attributes:
        criterion: the paper's name.
        queries: what is asked after the edit.
        condition: whether one of them or all must pass.
        conditions: what the model must pass before the edit for the test to count.
    """

    criterion: str
    queries: tuple[Query, ...]
    condition: Literal["OR", "AND"]
    conditions: tuple[Query, ...] = ()

    def passed(self, passed: list[bool]) -> bool:
        """The test's outcome, given those of its queries."""
        return any(passed) if self.condition == "OR" else all(passed)


@brief
@dataclass(frozen=True)
class Ripple:
    """One record.

    Attributes:
        id: the number of the row.
        fact: the edit.
        true: the object before it; None for recent facts, which the model did not know.
        subset: ``recent``, ``random`` or ``popular``.
        tests: of all criteria.
        n_unanswered: how many tests the row has beside, in which a query lacks its answer.
    """

    id: str
    fact: Fact
    true: str | None
    subset: str
    tests: tuple[Test, ...]
    n_unanswered: int = 0


def load_ripple(source: str | Path, split: str | None = None) -> Records[Ripple]:
    """Load RippleEdits from a file or the Hub.

    Returns:
        The records; excluded are those whose edit is not worded so that subject and object can
        be told apart, for the files name neither.

    Raises:
        DataError: no such file, or a row is not of this schema (named by number).
    """
    records, name = read_records(source, split, "RippleEdits records")
    return parsed(records, name, _record)


def _record(row: Mapping[str, Any], id: str, where: str) -> Ripple:
    edit = object_of(row, "edit", where)
    relation = text_of(edit, "relation", where)
    prompt, subject, target = _parts(text_of(edit, "prompt", where), relation, where)
    key = next((k for k in ("previous_fact", "original_fact") if edit.get(k) is not None), None)
    before = object_of(edit, key, where) if key else None
    true = _parts(text_of(before, "prompt", where), relation, where)[2] if before else None
    tests = tuple(
        _test(test, name, where)
        for key, name in CRITERIA.items()
        for test in objects_of(row, key, where)
    )
    answered = tuple(t for t in tests if all(q.answers for q in (*t.queries, *t.conditions)))
    if not any(key in row for key in CRITERIA):
        raise DataError(f"{where}: no criterion; RippleEdits has {', '.join(CRITERIA)}.")
    return Ripple(
        id=id,
        fact=Fact(prompt, subject, target, relation=relation, where=where),
        true=true,
        subset=name_of(row, "example_type", where) or "",
        tests=answered,
        n_unanswered=len(tests) - len(answered),
    )


def _parts(statement: str, relation: str, where: str) -> tuple[str, str, str]:
    """Prompt with a slot, subject and object of ``The name of the mother of X is Y.``."""
    named = re.escape(relation.lower().replace("_", " "))
    for phrase in PHRASES:
        form = rf"({phrase.format(relation=named)}) (.+?)\.?"
        first, last = (re.fullmatch(f, statement) for f in (form, form.replace(".+?)", ".+)", 1)))
        if first and last:
            if first.groups() != last.groups():
                break  # "Life is Beautiful is …"
            head, subject, target = first.groups()
            start, end = first.span(2)
            return head[:start] + SLOT + head[end:], subject, target
    raise UnusableRow(
        f"{where}: {shown(statement)} does not tell subject and object apart as a wording of "
        f"{shown(relation)}."
    )


def _test(test: Mapping[str, Any], criterion: str, where: str) -> Test:
    condition = test.get("test_condition", "OR")
    if condition != "OR" and condition != "AND":
        raise DataError(f"{where}: test_condition is {shown(condition)}; it is 'OR' or 'AND'.")
    return Test(
        criterion,
        tuple(_query(query, where) for query in objects_of(test, "test_queries", where)),
        condition,
        tuple(_query(query, where) for query in objects_of(test, "condition_queries", where)),
    )


def _query(query: Mapping[str, Any], where: str) -> Query:
    answers = tuple(
        Answer(value, tuple(_name(one, where) for one in list_of(given, "aliases", where)))
        for given in objects_of(query, "answers", where)
        if (value := _name(given.get("value"), where)).strip()
    )
    return Query(text_of(query, "prompt", where), answers)


def _name(value: Any, where: str) -> str:
    """A name, which may be a number or missing."""
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise DataError(f"{where}: an answer is {shown(value)}; it must be text.")
    return "" if value is None else str(value)
