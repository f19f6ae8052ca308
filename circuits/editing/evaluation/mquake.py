"""MQuAKE's schema (arXiv 2305.14795): CF-3k-v2, CF, T, and files written in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import Case, Cases, Hop, chain_of
from circuits.editing.evaluation.reading import (
    name_of,
    names_of,
    object_of,
    objects_of,
    parsed,
    text_of,
    texts_of,
)
from circuits.editing.fact import SLOT, Fact, refuse_conflicts
from interp.data.records import is_hub_id, read_records
from interp.errors import DataError, UnusableRow, shown


def load_cases(source: str | Path, split: str | None = None) -> Cases:
    """Load multi-hop cases.

    Args:
        source: path of a JSON or JSONL file in MQuAKE's schema, or the Hub id of a data set.
            Beside the official keys a record may name its ``split``, and a rewrite may list
            ``implicit``: noun phrases that mean its subject without naming it.
        split: of a file, the records that name it; of a Hub data set, its split.

    Returns:
        The cases, and the excluded records: an edit that stands at no hop of the new chain, edits
        that contradict each other, a chain whose length the edits change, an implicit subject
        that names the subject, or the chain's start.

    Raises:
        DataError: no such file, or a row is not of this schema (named by number).
    """
    records, name = read_records(source, split, "MQuAKE records")
    if split is not None and not is_hub_id(source):
        records = _of_split(records, split, name)
    return parse_cases(records, name)


def parse_cases(records: Sequence[Mapping[str, Any]], source: str = "records") -> Cases:
    """Cases from records that are already read; otherwise as `load_cases`."""
    found = parsed(records, source, _case, id_key="case_id")
    return Cases(found.records, found.source, found.excluded)


def _of_split(records: list[dict[str, Any]], split: str, name: str) -> list[dict[str, Any]]:
    splits = [name_of(r, "split", f"{name}, row {n}") for n, r in enumerate(records, 1)]
    found = [record for record, own in zip(records, splits, strict=True) if own == split]
    if not found:
        named = shown(", ".join(sorted({own for own in splits if own})) or "none", 120)[1:-1]
        raise DataError(f"no record of {name} is of split {shown(split)}; it has {named}.")
    return found


def _case(record: Mapping[str, Any], id: str, where: str) -> Case:
    hops, new_hops = (_hops(record, key, where) for key in ("single_hops", "new_single_hops"))
    if len(hops) != len(new_hops):
        raise UnusableRow(f"{where}: the edits turn {len(hops)} hops into {len(new_hops)}.")
    subject, relations = _chain(record, len(hops), where)
    facts, originals, edited = _edits(record, (subject, relations), new_hops, where)
    refuse_conflicts(facts)
    objects = [hop.answer.text for hop in hops]
    return Case(
        id=id,
        facts=facts,
        originals=_with_aliases(originals, hops),
        edited_hops=edited,
        questions=texts_of(record, "questions", where),
        answer=_answer(record, "answer", where, extended="answer_extended"),
        new_answer=_answer(record, "new_answer", where),
        hops=hops,
        new_hops=new_hops,
        relations=relations,
        subject=subject,
        bridges=tuple(objects[:-1]),
        cluster=chain_of(subject, relations, objects),
        split=name_of(record, "split", where),
        where=where,
    )


def _hops(record: Mapping[str, Any], key: str, where: str) -> tuple[Hop, ...]:
    rows = objects_of(record, key, where)
    if not rows:
        raise DataError(f"{where}: {key!r} is missing; it must list the hops of a chain.")
    return tuple(
        Hop(
            text_of(row, "question", where),
            text_of(row, "cloze", where),
            _answer(row, "answer", where),
        )
        for row in rows
    )


def _answer(row: Mapping[str, Any], key: str, where: str, extended: str = "") -> Answer:
    aliases = names_of(row, f"{key}_alias", where) + names_of(row, extended, where)
    return Answer(text_of(row, key, where), aliases)


def _chain(record: Mapping[str, Any], n: int, where: str) -> tuple[str, tuple[str, ...]]:
    """Where the chain starts, and its relations: Wikidata's names for them, if it has those."""
    orig = object_of(record, "orig", where)
    labelled: Any = orig.get("triples_labeled")
    ids: Any = orig.get("triples") or labelled
    for triples in (labelled, ids):
        whole = isinstance(triples, list) and all(map(_is_triple, triples))
        if not whole or len(triples) != n:
            raise DataError(
                f"{where}: orig.triples_labeled (and orig.triples, if any) must hold {n} triples "
                "of texts, one per hop."
            )
    return labelled[0][0], tuple(relation for _, relation, _ in ids)


def _is_triple(given: Any) -> bool:
    return isinstance(given, list) and len(given) == 3 and all(isinstance(t, str) for t in given)


def _edits(
    record: Mapping[str, Any],
    chain: tuple[str, tuple[str, ...]],
    new_hops: tuple[Hop, ...],
    where: str,
) -> tuple[tuple[Fact, ...], tuple[Answer, ...], tuple[int, ...]]:
    rewrites = objects_of(record, "requested_rewrite", where)
    if not rewrites:
        raise DataError(f"{where}: 'requested_rewrite' is missing; it must list the edits.")
    start, relations = chain
    subjects = (start, *(hop.answer.text for hop in new_hops))
    placed: list[tuple[int, Fact, Answer]] = []
    for row in rewrites:
        prompt, subject = text_of(row, "prompt", where), text_of(row, "subject", where)
        target = text_of(object_of(row, "target_new", where), "str", where)
        true = text_of(object_of(row, "target_true", where), "str", where)
        at = _hop_of((prompt.replace(SLOT, subject), subject, target), subjects, new_hops)
        if at is None:
            raise UnusableRow(
                f"{where}: the edit {shown(prompt.replace(SLOT, subject))} to {shown(target)} "
                "stands at no hop of the new chain."
            )
        question = text_of({"question": new_hops[at].question, **row}, "question", where)
        templated = question.replace(subject, SLOT) if question.count(subject) == 1 else ""
        implicit = _implicit(row, (start, subject), where)
        fact = Fact(prompt, subject, target, templated, relations[at], implicit, where)
        placed.append((at, fact, Answer(true)))
    placed.sort(key=lambda edit: edit[0])
    edited, facts, originals = zip(*placed, strict=True)
    return facts, originals, edited


def _implicit(row: Mapping[str, Any], named: Sequence[str], where: str) -> tuple[str, ...]:
    """Noun phrases for an edit's subject; one with the chain's start would show what is scored."""
    phrases = names_of(row, "implicit", where)
    for phrase in phrases:
        for entity in named:
            if Answer(entity).lenient(phrase):
                raise UnusableRow(
                    f"{where}: the implicit subject {shown(phrase)} names {shown(entity)}."
                )
    return phrases


def _hop_of(
    edit: tuple[str, str, str], subjects: Sequence[str], new_hops: Sequence[Hop]
) -> int | None:
    cloze, subject, target = edit
    for at, hop in enumerate(new_hops):
        same = hop.cloze == cloze or subjects[at] == subject
        if same and hop.answer.text == target:
            return at
    return None


def _with_aliases(originals: Sequence[Answer], hops: Sequence[Hop]) -> tuple[Answer, ...]:
    named = {hop.answer.text: hop.answer for hop in hops}
    return tuple(named.get(answer.text, answer) for answer in originals)
