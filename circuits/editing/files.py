"""Facts, kept questions and ledgers of edits as files: what the command line reads and writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from circuits.editing.edits import Edit
from circuits.editing.facts import Fact, refuse_conflicts
from circuits.editing.prompting import Kept
from interp.brief import brief
from interp.data.records import ClosedRow, checked, placed_rows
from interp.errors import DataError, RunFolderError, shown
from interp.results import folder


class FactRow(ClosedRow):
    """A row of a file of facts; the fields are those of `Fact`."""

    prompt: str
    subject: str
    target: str
    question: str = ""
    relation: str = ""
    implicit: list[str] = []


class KeptRow(ClosedRow):
    """A row of a file of questions to leave alone; the fields are those of `Kept`."""

    text: str
    subject: str
    relation: str = ""
    related: bool = False


R = TypeVar("R", FactRow, KeptRow)


def load_facts(path: str | Path) -> list[Fact]:
    """Facts from a JSON list, JSONL file or Hub data set of objects with the fields of `Fact`.

    Raises:
        DataError: no such file, no list, an unknown or missing field; file and row are named.
        DataError: a fact that cannot be edited, or two that contradict each other.
    """
    out: list[Fact] = []
    for where, row in _rows(path, FactRow, "facts"):
        given = row.model_dump(exclude={"implicit"})
        out.append(Fact(**given, implicit=tuple(row.implicit), where=where))
    refuse_conflicts(out)
    return out


def load_kept(path: str | Path) -> list[Kept]:
    """Questions to leave alone, from objects with the fields of `Kept`; sources as `load_facts`.

    Raises:
        DataError: no such file, no list, an unknown or missing field, or a question without
            its subject; file and row are named.
    """
    out: list[Kept] = []
    for where, row in _rows(path, KeptRow, "questions"):
        if not row.subject.strip() or row.subject not in row.text:
            raise DataError(
                f"{where}: the question {shown(row.text)} does not contain its subject "
                f"{shown(row.subject)}; write it as it stands there."
            )
        out.append(Kept(**row.model_dump()))
    return out


def _rows(path: str | Path, kind: type[R], what: str) -> list[tuple[str, R]]:
    """The rows of a file, each with the place where it stands."""
    rows = placed_rows(path, what)
    if not rows:
        raise DataError(f"{path} holds no {what}; give at least one.")
    return [(where, checked(kind, row, where)) for where, row in rows]


def edits_in(ledger: Path) -> list[Edit]:
    """The edits of a ledger folder, in order; none where there is no folder yet.

    Raises:
        RunFolderError: a file of an edit is missing or damaged.
    """
    return [_edit_in(at) for at in _folders(ledger)]


@brief
@dataclass(frozen=True)
class SavedEdits:
    """A ledger folder.

    Attributes:
        path: the folder.
        edits: in order.
    """

    path: Path
    edits: Sequence[Edit]

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {"ledger": str(self.path), "edits": [one.summary() for one in self.edits]}

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "SavedEdits":
        """Read a ledger; errors as in `edits_in`."""
        return cls(path, edits_in(path))


def _edit_in(at: Path) -> Edit:
    try:
        return Edit.load(at)
    except RunFolderError as error:  # nothing can be made in this ledger, so no "run it again"
        raise RunFolderError(f"delete {at} and make its edit again: {error}") from error


def next_folder(ledger: Path) -> Path:
    """Where the next edit of a ledger goes."""
    last = max((int(at.name) for at in _folders(ledger)), default=0)
    return ledger / f"{last + 1:04d}"


def removed(ledger: Path, edit: str | None) -> tuple[Edit, Path]:
    """The edit to take out of a ledger, and its folder.

    Args:
        ledger: the folder.
        edit: its id; by default the last.

    Raises:
        DataError: no such edit, or another was made on top of it.
    """
    folders = _folders(ledger)
    edits = [_edit_in(at) for at in folders]
    chosen = [i for i, one in enumerate(edits) if edit in (None, one.id)]
    if not chosen:
        carried = ", ".join(one.id for one in edits) or "none"
        raise DataError(f"no edit {edit or ''} in {ledger}, which holds {carried}.")
    i = chosen[-1]
    above = next((one for one in edits if edits[i].id in one.after), None)
    if above is not None:
        raise DataError(f"edit {above.id} was made on top of {edits[i].id}; undo it first.")
    return edits[i], folders[i]


def _folders(ledger: Path) -> list[Path]:
    if not ledger.exists():
        return []
    if not ledger.is_dir():
        raise RunFolderError(f"{ledger} is a file; a ledger is a folder of edits.")
    return sorted(at for at in ledger.iterdir() if at.name.isdigit())
