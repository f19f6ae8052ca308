"""Files of benchmarks to cases: the format is recognised from the fields of the first row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.editing.evaluation import mquake_rows, ripple_rows, single_edit_rows
from circuits.editing.evaluation.cases import Case, Cases
from interp.brief import brief
from interp.data.pairs import Excluded
from interp.data.records import Row, checked, is_hub_id, read_records, refuse_repeated
from interp.errors import DataError, UnusableRow, did_you_mean, shown


@brief
@dataclass(frozen=True)
class RowForm:
    """One way in which a format's rows are written.

    Attributes:
        row: the schema that every row is checked against.
        case_of: makes a case of a checked row, its id and its place.
        fields: those that tell this form from others; any of them is enough.
    """

    row: type[Row]
    case_of: Callable[[Any, str, str], Any]
    fields: set[str]


_MULTI_HOP = mquake_rows.MultiHopRow, mquake_rows.multi_hop_case
_REWRITE = single_edit_rows.ZsreRewriteRow, single_edit_rows.zsre_rewrite_case
_COUNTERFACT = single_edit_rows.CounterFactRow, single_edit_rows.counterfact_case
FORMATS: Mapping[str, tuple[RowForm, ...]] = {
    "mquake_remastered": (RowForm(*_MULTI_HOP, {"orig_triples_labeled", "6334_split"}),),
    "mquake": (RowForm(*_MULTI_HOP, {"single_hops", "new_single_hops"}),),
    "zsre_rome": (
        RowForm(*_REWRITE, {"requested_rewrite"}),
        RowForm(single_edit_rows.ZsreRow, single_edit_rows.zsre_rome_case, {"src"}),
    ),
    "counterfact": (RowForm(*_COUNTERFACT, {"paraphrase_prompts", "neighborhood_prompts"}),),
    "zsre": (
        RowForm(single_edit_rows.ZsreRow, single_edit_rows.zsre_case, {"src", "loc", "loc_ans"}),
    ),
    "ripple_edits": (
        RowForm(ripple_rows.RippleRow, ripple_rows.ripple_case, {"edit", "example_type"}),
    ),
    "knowedit": (
        RowForm(
            *(single_edit_rows.KnowEditRow, single_edit_rows.knowedit_case),
            {"portability", "locality", "rephrase_prompt", "locality_prompt"},
        ),
    ),
}
"""By name: the forms of its rows."""
NAMES = ", ".join(FORMATS)
REFUSED = {
    "concept": "KnowEdit's WikiBio edits whole sentences",
    "alternatives": "MEND's own zsRE file names no subject (zsre_mend_eval.json does)",
}
"""By a field of theirs: files of benchmarks that have no fact with a subject to edit."""


def load_benchmark(
    source: str | Path, split: str | None = None, format: str | None = None
) -> Cases[Any]:
    """Load the cases of any benchmark in `FORMATS`; rows that cannot be used are excluded.

    `source` is a JSON or JSONL file, a shipped set's name or a Hub id; of a file, `split` takes the
    records that name it (of MQuAKE-Remastered ``1000/edited``: edited where a thousand are).
    Without a `format` the first row's fields decide. `DataError` where there is no such file, or a
    row is not of this format, or has no id of its own.
    """
    records, name = read_records(source, split, "edit cases")
    rows = list(enumerate(records, 1))
    if split is not None and not is_hub_id(source):
        rows = _of_split(rows, split, name)
    return _parsed(rows, name, format)


def load_cases(source: str | Path, split: str | None = None) -> Cases[Case]:
    """Load multi-hop cases in MQuAKE's schema (CF-3k-v2, CF, T); otherwise as `load_benchmark`.

    Beside the official keys a record may name its ``split``, and a rewrite may list ``implicit``:
    noun phrases that mean its subject without naming it. Excluded are edits that stand at no hop
    of the new chain or contradict each other, chains whose length the edits change, and implicit
    subjects that name the subject or the chain's start.
    """
    return load_benchmark(source, split, "mquake")


Rows = Sequence[tuple[int, Mapping[str, Any]]]
"""Records, each behind its number in the file."""


def _of_split(rows: Rows, split: str, source: str) -> Rows:
    own = [_splits(record) for _, record in rows]
    found = [row for row, names in zip(rows, own, strict=True) if split in names]
    if not found:
        named = shown(", ".join(sorted({n for names in own for n in names})) or "none", 120)[1:-1]
        raise DataError(f"no record of {source} is of split {shown(split)}; it has {named}.")
    return found


def _splits(record: Mapping[str, Any]) -> list[str]:
    """The splits that a record names; ``1000/edited`` for one of several numbers of edits."""
    own = record.get("split", record.get("example_type"))  # the latter is RippleEdits'
    if isinstance(own, Mapping):
        labels = {n: one if isinstance(one, list | tuple) else [one] for n, one in own.items()}
        return [f"{n}/{label}" for n, several in labels.items() for label in several if label]
    return [own] if isinstance(own, str) else []


def _parsed(rows: Rows, source: str, format: str | None) -> Cases[Any]:
    if not rows:
        raise DataError(f"{source} holds no rows; give at least one.")
    name = format or _recognised(rows[0][1], source)
    if name not in FORMATS:
        raise DataError(f"unknown format {shown(name)}. {did_you_mean(name, FORMATS)}")
    cases: list[Any] = []
    excluded: list[Excluded] = []
    ids: list[tuple[str, str]] = []
    for number, record in rows:
        where = f"{source}, row {number}"
        form = next((f for f in FORMATS[name] if f.fields & record.keys()), FORMATS[name][0])
        row: Any = checked(form.row, record, where)
        own = getattr(row, "case_id", None)  # which not every format has
        id = str(number if own is None else own)
        if not id:
            raise DataError(f"{where}: case_id '' is missing; give every row its own.")
        ids.append((where, id))
        try:
            cases.append(form.case_of(row, id, where))
        except UnusableRow as error:
            excluded.append(Excluded(id, where, str(error).removeprefix(f"{where}: ")))
    refuse_repeated(ids, "case_id")
    return Cases(tuple(cases), name, source, tuple(excluded))


def _recognised(record: Mapping[str, Any], source: str) -> str:
    for field, why in REFUSED.items():
        if field in record:
            raise DataError(f"{source}: {why}, so it cannot be used; give one of {NAMES}.")
    if _has_end_of_text(record):
        return "zsre_rome"
    known = {name: forms for name, forms in FORMATS.items() if name != "zsre_rome"}
    found = [n for n, forms in known.items() if any(f.fields & record.keys() for f in forms)]
    if found[:2] == ["mquake_remastered", "mquake"]:
        found = found[:1] + found[2:]
    if len(found) != 1:
        raise DataError(
            f"{source}, row 1: the keys {shown(sorted(record), 120)} are not those of one of "
            f"{NAMES}; say which format it is."
        )
    return found[0]


def _has_end_of_text(record: Mapping[str, Any]) -> bool:
    """Whether the object before the edit is ``<|endoftext|>``, as ROME's loader of zsRE has it."""
    edit = record.get("requested_rewrite")
    true = edit.get("target_true") if isinstance(edit, Mapping) else None
    return isinstance(true, Mapping) and true.get("str") == "<|endoftext|>"
