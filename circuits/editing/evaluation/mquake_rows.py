"""Rows of MQuAKE (arXiv 2305.14795) and of MQuAKE-Remastered to multi-hop cases."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AliasChoices, AliasPath, Field

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import Case, Hop
from circuits.editing.fact import SLOT, Fact, refuse_conflicts
from interp.data.records import Row, Text
from interp.errors import DataError, UnusableRow, shown

Id = str | int
Names = tuple[str, ...] | None
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
Triples = tuple[tuple[str, str, str], ...]
Splits = dict[str, str | tuple[str, ...] | None]
"""Of MQuAKE-Remastered: labels such as ``test_edited`` by how many cases are edited at once."""


class RewriteRow(Row):
    """An edit as ROME, MQuAKE and CounterFact write it."""

    prompt: Text
    subject: Text
    target_new: Text = Field(
        validation_alias=AliasChoices(AliasPath("target_new", "str"), "target_new_str")
    )
    target_true: Text = Field(
        validation_alias=AliasChoices(AliasPath("target_true", "str"), "target_true_str")
    )
    relation_id: str | None = None
    question: Text | None = None
    implicit: tuple[Text, ...] | None = None


class _HopRow(Row):
    question: Text
    cloze: Text
    answer: Text
    answer_alias: Names = None


class MultiHopRow(Row):
    """A chain of facts with edits; MQuAKE-Remastered writes targets and triples flat."""

    case_id: Id = ""
    requested_rewrite: Annotated[tuple[RewriteRow, ...], Field(min_length=1)]
    questions: Texts
    answer: Text
    answer_alias: Names = None
    answer_extended: Names = None
    new_answer: Text
    new_answer_alias: Names = None
    single_hops: Annotated[tuple[_HopRow, ...], Field(min_length=1)]
    new_single_hops: Annotated[tuple[_HopRow, ...], Field(min_length=1)]
    labelled: Triples = Field(
        validation_alias=AliasChoices(AliasPath("orig", "triples_labeled"), "orig_triples_labeled")
    )
    triples: Triples | None = Field(
        None, validation_alias=AliasChoices(AliasPath("orig", "triples"), "orig_triples")
    )
    split: str | Splits | None = None


def multi_hop_case(row: MultiHopRow, id: str, where: str) -> Case:
    """The case of a row.

    Raises:
        UnusableRow: its edits change the chain's length, stand at no hop or contradict each other,
            or an implicit subject names what it is to leave unnamed.
        DataError: there is not one triple per hop.
    """
    hops, new_hops = map(_hops, (row.single_hops, row.new_single_hops))
    if len(hops) != len(new_hops):
        raise UnusableRow(f"{where}: the edits turn {len(hops)} hops into {len(new_hops)}.")
    ids = row.triples or row.labelled  # Wikidata's names of the relations, if there are any
    if not len(row.labelled) == len(ids) == len(hops):
        raise DataError(
            f"{where}: orig.triples_labeled (and orig.triples, if any) must hold {len(hops)} "
            "triples, one per hop."
        )
    subject, relations = row.labelled[0][0], tuple(relation for _, relation, _ in ids)
    edits = [_edit(one, subject, relations, new_hops, where) for one in row.requested_rewrite]
    edited, facts, true = zip(*sorted(edits, key=lambda edit: edit[0]), strict=True)
    refuse_conflicts(facts)
    old = {hop.answer.text: hop.answer for hop in hops}
    objects = [hop.answer.text for hop in hops]
    links = [part for pair in zip(relations, objects, strict=True) for part in pair]
    return Case(
        id=id,
        facts=facts,
        originals=tuple(old.get(name, Answer(name)) for name in true),
        edited_hops=edited,
        questions=row.questions,
        answer=_answer(row.answer, row.answer_alias, row.answer_extended),
        new_answer=_answer(row.new_answer, row.new_answer_alias),
        hops=hops,
        new_hops=new_hops,
        relations=relations,
        subject=subject,
        cluster=" | ".join((subject, *links)),
        split=row.split if isinstance(row.split, str) else None,
        where=where,
    )


def _hops(rows: Sequence[_HopRow]) -> tuple[Hop, ...]:
    return tuple(Hop(h.question, h.cloze, _answer(h.answer, h.answer_alias)) for h in rows)


def _answer(text: str, *aliases: Names) -> Answer:
    return Answer(text, tuple(name for names in aliases for name in names or ()))


def _edit(
    row: RewriteRow, start: str, relations: Sequence[str], new_hops: Sequence[Hop], where: str
) -> tuple[int, Fact, str]:
    """The hop at which an edit stands, the edit, and its object before."""
    cloze, target = row.prompt.replace(SLOT, row.subject), row.target_new
    subjects = (start, *(hop.answer.text for hop in new_hops))
    places = [
        i
        for i, hop in enumerate(new_hops)
        if (hop.cloze == cloze or subjects[i] == row.subject) and hop.answer.text == target
    ]
    if not places:
        raise UnusableRow(
            f"{where}: the edit {shown(cloze)} to {shown(target)} stands at no hop of the new "
            "chain."
        )
    for phrase in row.implicit or ():  # one with the chain's start would show what is scored
        for entity in (start, row.subject):
            if Answer(entity).lenient(phrase):
                raise UnusableRow(
                    f"{where}: the implicit subject {shown(phrase)} names {shown(entity)}."
                )
    at = places[0]
    question = row.question or new_hops[at].question
    templated = question.replace(row.subject, SLOT) if question.count(row.subject) == 1 else ""
    implicit = tuple(row.implicit or ())
    fact = Fact(row.prompt, row.subject, target, templated, relations[at], implicit, where)
    return at, fact, row.target_true
