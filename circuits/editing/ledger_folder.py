"""`LedgerFolder`: the edits that the command line makes, in a folder, in their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from circuits.editing.edit import Edit, facts_table, refuse_needed
from interp.brief import brief
from interp.errors import DataError, RunFolderError
from interp.results.report import Report, Section, Table, excluded_counts


@brief
@dataclass(frozen=True)
class LedgerFolder:
    """The edits that the command line makes, in the order in which they are applied."""

    path: Path
    edits: Sequence[Edit]
    folders: Sequence[Path]

    KIND = "edit ledger"

    @classmethod
    def load(cls, path: Path) -> "LedgerFolder":
        """Read a ledger; `RunFolderError` where it is none, or a file of an edit is damaged."""
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file; a ledger is a folder of edits.")
        if (path / "manifest.json").is_file():
            raise RunFolderError(f"{path} is one run, not a ledger of edits; give {path.parent}.")
        found = path.iterdir() if path.exists() else ()
        folders = sorted(at for at in found if at.name.isdigit())
        return cls(path, [_edit_in(at) for at in folders], folders)

    @classmethod
    def of(cls, path: Path) -> "LedgerFolder":
        """The ledger at a path, or the one that holds the edit there."""
        return cls.load(path.parent if (path / "manifest.json").is_file() else path)

    def up_to(self, path: Path, edit: str | None = None) -> tuple[Edit, Sequence[Edit]]:
        """The edit at a path, of an id, or the last; and those before it.

        `DataError` where there is none.
        """
        if (path / "manifest.json").is_file():
            own = _edit_in(path)
            if edit not in (None, own.id):
                raise DataError(f"{path} holds edit {own.id}, not {edit}.")
            edit = own.id
            if own.id not in [one.id for one in self.edits]:
                return own, ()
        at = self._chosen(edit)
        return self.edits[at], self.edits[:at]

    @property
    def next(self) -> Path:
        """Where the next edit goes."""
        return self.path / f"{max((int(at.name) for at in self.folders), default=0) + 1:04d}"

    def removable(self, edit: str | None = None) -> tuple[Edit, Path]:
        """The edit to take out, by its id or the last, and its folder."""
        at = self._chosen(edit)
        refuse_needed(self.edits[at], self.edits)
        return self.edits[at], self.folders[at]

    def _chosen(self, edit: str | None) -> int:
        chosen = [i for i, one in enumerate(self.edits) if edit in (None, one.id)]
        if not chosen:
            carried = ", ".join(one.id for one in self.edits) or "none"
            what = f"no edit {edit}" if edit else "no edit"
            raise DataError(
                f"{what} in {self.path}, which holds {carried}; give the folder of an edit, or one "
                "that `interp edit apply` wrote to."
            )
        return chosen[-1]

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {"ledger": str(self.path), "edits": [one.summary() for one in self.edits]}

    def report(self) -> Report:
        """The edits of a ledger, in the order in which they are applied."""
        edits, n = self.edits, len(self.edits)
        models = ", ".join(dict.fromkeys(edit.model for edit in edits)) or "none"
        rows = [
            {"edit": edit.id, "method": edit.method, "facts": len(edit.facts)}
            | {"changed matrices": len(edit.changes), "on top of": list(edit.after)}
            | {"made": edit.provenance.get("made"), "seconds": edit.seconds}
            for edit in edits
        ]
        skipped = {f"edit {edit.id}: {note}": 1 for edit in edits for note in edit.skipped}
        return Report(
            title=f"Ledger of {n} edit{'s' * (n != 1)}: {self.path.name}",
            lead=f"Model: {models}. The edits are applied in this order.",
            sections=[
                Section("Edits", [Table("Edits, in order", pd.DataFrame(rows))]),
                Section("Facts", [facts_table(edits)]),
            ],
            method=("Provenance and command are those of the last edit.",),
            excluded=excluded_counts(skipped),
            provenance=edits[-1].provenance if edits else {},
        )


def _edit_in(at: Path) -> Edit:
    try:
        return Edit.load(at)
    except RunFolderError as error:  # nothing can be made in this ledger, so no "run it again"
        raise RunFolderError(f"delete {at} and make its edit again: {error}") from error
