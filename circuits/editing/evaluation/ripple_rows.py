"""Rows of RippleEdits (arXiv 2307.12976) to cases.

No key names the subject of an edit; it is read from how the benchmark words its relations.
"""

import re

from pydantic import AliasChoices, AliasPath, Field

from circuits.editing.evaluation.cases import RippleTest, SingleEdit
from circuits.editing.fact import SLOT, Fact
from interp.data.records import Row, Text
from interp.errors import DataError, UnusableRow, shown

PHRASES = (
    r"The name of the [^.]+? which (.+?) (?:is associated with|is a member of|plays in|is part of"
    r"|is the capital of) is",
    r"The names? of the (?:{relation})(?: city)?s? (?:of|in) (.+?) (?:is|are)",
    r"The (?:{relation}|gender|mother tongue) of (.+?) is",
    r"The number of children (.+?) has is",
    r"The name of the award (.+?) won is",
    r"(.+?) (?:is followed by|follows)",
)
"""How the benchmark words its relations; the group is the subject, which no key names."""


Tests = tuple[RippleTest, ...] | None
BEFORE = AliasChoices(
    *(AliasPath("edit", key, "prompt") for key in ("previous_fact", "original_fact"))
)


class RippleRow(Row):
    """An edit, the fact before it, and tests by criterion."""

    edit: Text = Field(validation_alias=AliasPath("edit", "prompt"))
    relation: Text = Field(validation_alias=AliasPath("edit", "relation"))
    before: Text | None = Field(None, validation_alias=BEFORE)
    logical_generalization: Tests = Field(None, alias="Logical_Generalization")
    compositionality_1: Tests = Field(None, alias="Compositionality_I")
    compositionality_2: Tests = Field(None, alias="Compositionality_II")
    subject_aliasing: Tests = Field(None, alias="Subject_Aliasing")
    preservation: Tests = Field(None, alias="Forgetfulness")
    relation_specificity: Tests = Field(
        None, validation_alias=AliasChoices("Relation_Specifity", "Relation_Specificity")
    )


CRITERIA = tuple(RippleRow.model_fields)[-6:]
"""The paper's names of the criteria."""


def ripple_case(row: RippleRow, id: str, where: str) -> SingleEdit:
    """The case of a row; tests without a query, or of which one has no named answer, are counted.

    Raises:
        UnusableRow: subject and object cannot be told apart.
        DataError: it has none of the criteria.
    """
    if not row.model_fields_set & {*CRITERIA}:
        raise DataError(f"{where}: no criterion; RippleEdits has {', '.join(CRITERIA)}.")
    prompt, subject, target = _parts(row.edit, row.relation, where)
    true = _parts(row.before, row.relation, where)[2] if row.before else None
    fact = Fact(prompt, subject, target, relation=row.relation, where=where)
    tests = [(name, test) for name in CRITERIA for test in getattr(row, name) or ()]
    answered = tuple((name, test) for name, test in tests if test.answered)
    return SingleEdit(id, fact, true, tests=answered, n_unanswered=len(tests) - len(answered))


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
        f"{where}: subject and object of {shown(statement)} cannot be told apart as a wording of "
        f"{shown(relation)}."
    )
