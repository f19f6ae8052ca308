"""Benchmark files to cases: MQuAKE, CounterFact, zsRE and RippleEdits, recognised by their keys."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, AliasPath, Field

from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.cases import Case, Cases, Hop, RippleTest, SingleEdit
from circuits.editing.fact import SLOT, Fact, refuse_conflicts
from interp.data.pairs import Excluded
from interp.data.records import Row, Text, checked, is_hub_id, read_records
from interp.errors import DataError, UnusableRow, shown

Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
Names = tuple[str, ...] | None
Id = str | int
Triples = tuple[tuple[str, str, str], ...]


def load_benchmark(
    source: str | Path, split: str | None = None, format: str | None = None
) -> Cases[Any]:
    """Load the cases of any benchmark in `FORMATS`; rows that cannot be used are excluded.

    `source` is a JSON or JSONL file, a shipped set's name or a Hub id; of a file, `split` takes the
    records that name it. Without a `format` the first row's keys decide. `DataError` where there is
    no such file, or a row is not of this format, or has no id of its own.
    """
    records, name = read_records(source, split, "edit cases")
    if split is not None and not is_hub_id(source):
        records = _of_split(records, split, name)
    return _parsed(records, name, format)


def load_cases(source: str | Path, split: str | None = None) -> Cases[Case]:
    """Load multi-hop cases in MQuAKE's schema (CF-3k-v2, CF, T); otherwise as `load_benchmark`.

    Beside the official keys a record may name its ``split``, and a rewrite may list ``implicit``:
    noun phrases that mean its subject without naming it. Excluded are edits that stand at no hop
    of the new chain or contradict each other, chains whose length the edits change, and implicit
    subjects that name the subject or the chain's start.
    """
    return load_benchmark(source, split, "mquake")


def parse_cases(records: Sequence[Mapping[str, Any]], source: str = "records") -> Cases[Case]:
    """Multi-hop cases from records that are already read; otherwise as `load_cases`."""
    return _parsed(records, source, "mquake")


def _of_split(records: list[dict[str, Any]], split: str, source: str) -> list[dict[str, Any]]:
    own = [record.get("split", record.get("example_type")) for record in records]  # RippleEdits'
    found = [record for record, name in zip(records, own, strict=True) if name == split]
    if not found:
        splits = {name for name in own if isinstance(name, str)}
        named = shown(", ".join(sorted(splits)) or "none", 120)[1:-1]
        raise DataError(f"no record of {source} is of split {shown(split)}; it has {named}.")
    return found


def _parsed(records: Sequence[Mapping[str, Any]], source: str, format: str | None) -> Cases[Any]:
    if not records:
        raise DataError(f"{source} holds no rows; give at least one.")
    name = format or _recognised(records[0], source)
    schema, case_of, _ = FORMATS[name]
    cases: list[Any] = []
    excluded: list[Excluded] = []
    seen: dict[str, str] = {}
    for number, record in enumerate(records, 1):
        where = f"{source}, row {number}"
        row: Any = checked(schema, record, where)
        id = str(getattr(row, "case_id", number))
        if not id:
            raise DataError(f"{where}: case_id '' is missing; give every row its own.")
        if id in seen:
            raise DataError(
                f"{where}: case_id {shown(id)} was used before, in {seen[id]}; give every row its "
                "own."
            )
        seen[id] = where
        try:
            cases.append(case_of(row, id, where))
        except UnusableRow as error:
            excluded.append(Excluded(id, where, str(error)))
    return Cases(tuple(cases), name, source, tuple(excluded))


def _recognised(record: Mapping[str, Any], source: str) -> str:
    found = [name for name, (_, _, keys) in FORMATS.items() if keys & record.keys()]
    if len(found) != 1:
        raise DataError(
            f"{source}, row 1: the keys {shown(sorted(record), 120)} are not those of one of "
            f"{', '.join(FORMATS)}; say which format it is."
        )
    return found[0]


# --- MQuAKE, arXiv 2305.14795 ------------------------------------------------------------------


class _Rewrite(Row):
    prompt: Text
    subject: Text
    target_new: Text = Field(validation_alias=AliasPath("target_new", "str"))
    target_true: Text = Field(validation_alias=AliasPath("target_true", "str"))
    relation_id: str | None = None
    question: Text | None = None
    implicit: Names = None


class _Hop(Row):
    question: Text
    cloze: Text
    answer: Text
    answer_alias: Names = None


class _Mquake(Row):
    case_id: Id = ""
    requested_rewrite: Annotated[tuple[_Rewrite, ...], Field(min_length=1)]
    questions: Texts
    answer: Text
    answer_alias: Names = None
    answer_extended: Names = None
    new_answer: Text
    new_answer_alias: Names = None
    single_hops: Annotated[tuple[_Hop, ...], Field(min_length=1)]
    new_single_hops: Annotated[tuple[_Hop, ...], Field(min_length=1)]
    labelled: Triples = Field(validation_alias=AliasPath("orig", "triples_labeled"))
    triples: Triples | None = Field(None, validation_alias=AliasPath("orig", "triples"))
    split: str | None = None


def _mquake(row: _Mquake, id: str, where: str) -> Case:
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
        split=row.split,
        where=where,
    )


def _hops(rows: Sequence[_Hop]) -> tuple[Hop, ...]:
    return tuple(Hop(h.question, h.cloze, _answer(h.answer, h.answer_alias)) for h in rows)


def _answer(text: str, *aliases: Names) -> Answer:
    return Answer(text, tuple(name for names in aliases for name in names or ()))


def _edit(
    row: _Rewrite, start: str, relations: Sequence[str], new_hops: Sequence[Hop], where: str
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


# --- CounterFact, arXiv 2202.05262 -------------------------------------------------------------


class _Prompt(Row):
    prompt: Text


class _CounterFact(Row):
    case_id: Id = ""
    requested_rewrite: _Rewrite
    paraphrase_prompts: Texts
    neighborhood_prompts: Annotated[tuple[Text | _Prompt, ...], Field(min_length=1)]
    generation_prompts: Names = None


def _counterfact(row: _CounterFact, id: str, where: str) -> SingleEdit:
    edit = row.requested_rewrite
    relation = edit.relation_id or ""
    fact = Fact(edit.prompt, edit.subject, edit.target_new, relation=relation, where=where)
    near = (p if isinstance(p, str) else p.prompt for p in row.neighborhood_prompts)
    generations = tuple(filter(str.strip, row.generation_prompts or ()))
    true, prompts = edit.target_true, (row.paraphrase_prompts, tuple(near))
    return SingleEdit(id, fact, true, *prompts, neighbour_answer=true, generations=generations)


# --- zsRE as released with MEND and MEMIT, arXiv 2110.11309 and 2210.07229 ---------------------

UNRELATED = "nq question: "


class _Zsre(Row):
    subject: Text
    src: Text
    answers: Texts
    alt: Text
    rephrase: Text
    loc: Text
    loc_ans: Text


def _zsre(row: _Zsre, id: str, where: str) -> SingleEdit:
    times = row.src.count(row.subject)
    if times != 1:
        raise UnusableRow(
            f"{where}: {shown(row.subject)} stands {times} times in {shown(row.src)}."
        )
    fact = Fact(row.src.replace(row.subject, SLOT), row.subject, row.alt, where=where)
    unrelated = row.loc.removeprefix(UNRELATED)
    return SingleEdit(id, fact, row.answers[0], (row.rephrase,), (unrelated,), row.loc_ans)


# --- RippleEdits, arXiv 2307.12976 -------------------------------------------------------------

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


class _Ripple(Row):
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


CRITERIA = tuple(_Ripple.model_fields)[-6:]
"""The paper's names of the criteria."""


def _ripple(row: _Ripple, id: str, where: str) -> SingleEdit:
    if not row.model_fields_set & {*CRITERIA}:
        raise DataError(f"{where}: no criterion; RippleEdits has {', '.join(CRITERIA)}.")
    prompt, subject, target = _parts(row.edit, row.relation, where)
    true = _parts(row.before, row.relation, where)[2] if row.before else None
    fact = Fact(prompt, subject, target, relation=row.relation, where=where)
    tests = [(name, test) for name in CRITERIA for test in getattr(row, name) or ()]
    answered = tuple((name, test) for name, test in tests if test.answered)
    return SingleEdit(id, fact, true, tests=answered)


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


# -----------------------------------------------------------------------------------------------

FORMATS: Mapping[str, tuple[type[Row], Callable[[Any, str, str], Any], set[str]]] = {
    "mquake": (_Mquake, _mquake, {"single_hops", "new_single_hops"}),
    "counterfact": (_CounterFact, _counterfact, {"paraphrase_prompts", "neighborhood_prompts"}),
    "zsre": (_Zsre, _zsre, {"src", "rephrase", "loc"}),
    "ripple_edits": (_Ripple, _ripple, {"edit", "example_type"}),
}
"""By name of a benchmark: the schema of its rows, what makes a case of one, and its own keys."""
