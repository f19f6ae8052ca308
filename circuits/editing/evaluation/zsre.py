"""zsRE's schema as released with MEND and MEMIT: a question, a rephrasing, an unrelated one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import Question
from circuits.editing.evaluation.reading import Records, parsed, text_of, texts_of
from circuits.editing.fact import SLOT, Fact
from interp.data.records import read_records
from interp.errors import UnusableRow, shown

UNRELATED = "nq question: "


@dataclass(frozen=True)
class ZsRE:
    """One record.

    Attributes:
        id: the number of the row.
        fact: the edit; its prompt is a question.
        true: the answer before it.
        paraphrase: the question rephrased.
        unrelated: a question of Natural Questions and its answer, which must stay.
    """

    id: str
    fact: Fact
    true: str
    paraphrase: str
    unrelated: Question


def load_zsre(source: str | Path, split: str | None = None) -> Records[ZsRE]:
    """Load zsRE (``subject, src, answers, alt, rephrase, loc, loc_ans``) from a file or the Hub.

    Returns:
        The records; excluded are those whose question does not name its subject just once.

    Raises:
        DataError: no such file, or a row is not of this schema (named by number).
    """
    records, name = read_records(source, split, "zsRE records")
    return parsed(records, name, _record)


def _record(row: Mapping[str, Any], id: str, where: str) -> ZsRE:
    text, subject = text_of(row, "src", where), text_of(row, "subject", where)
    if text.count(subject) != 1:
        raise UnusableRow(
            f"{where}: {shown(subject)} stands {text.count(subject)} times in {shown(text)}."
        )
    true = texts_of(row, "answers", where)[0]
    return ZsRE(
        id=id,
        fact=Fact(text.replace(subject, SLOT), subject, text_of(row, "alt", where), where=where),
        true=true,
        paraphrase=text_of(row, "rephrase", where),
        unrelated=Question(
            text_of(row, "loc", where).removeprefix(UNRELATED),
            Answer(text_of(row, "loc_ans", where)),
        ),
    )
