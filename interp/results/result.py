"""`Result`: the base of everything that a run folder holds. Its fields say how it is stored."""

import dataclasses
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_type_hints

from interp.errors import InterpWarning, RunFolderError, shown
from interp.results import folder, storage

if TYPE_CHECKING:
    from interp.results.report import Report


@dataclass(frozen=True)
class Result:
    """A frozen dataclass that saves, loads and shows itself.

    A subclass gives `KIND`, fields with types that exist at run time (see `storage`), and may
    override `summary` and `report`. `provenance` is filled when saved.
    """

    KIND: ClassVar[str]
    provenance: dict[str, Any] = field(default_factory=dict, repr=False, kw_only=True)

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write a run folder: manifest.json, Parquet tables, arrays.safetensors.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        fields = {f.name: getattr(self, f.name) for f in _stored(self)}
        note = self.provenance | (provenance or {})
        return storage.store(fields, Path(path), self.KIND, note)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a run folder back, exactly; a class with subclasses reads theirs, too.

        Raises:
            RunFolderError: missing, incomplete or damaged folder, or one of another kind.
        """
        path = Path(path)
        manifest = folder.read_manifest(path)
        found = str(manifest.get("kind"))
        kinds = {one.KIND: one for one in _with_kind(cls)}
        if found not in kinds:
            raise RunFolderError(f"{path} holds a {shown(found)} run, not {' or '.join(kinds)}.")
        own: Any = kinds[found]
        with folder.reading(path):
            hints = get_type_hints(own)
            stored: dict[str, Any] = storage.restore(path, found, dict[str, Any])
            parts = {f.name: storage.checked(stored[f.name], hints[f.name]) for f in _stored(own)}
            note = storage.checked(manifest["provenance"], dict[str, Any])
            return own(**parts, provenance=note)

    def named(self, *names: str) -> dict[str, Any]:
        """Some of its values by name."""
        return {name: getattr(self, name) for name in names}

    def summary(self) -> dict[str, Any]:
        """What the command line prints as JSON: by default every field that JSON holds."""
        plain = {f.name: getattr(self, f.name) for f in _stored(self) if f.repr}
        return {"kind": self.KIND, **plain}

    def report(self) -> "Report":
        """Its page: text, tables, figures, what was left out, and how to make it again."""
        raise NotImplementedError(f"{type(self).__name__} has no page")

    def warned(self, depth: int = 2) -> Self:
        """The same, once `warnings` are given at the line so many calls above."""
        for text in getattr(self, "warnings", ()):
            warnings.warn(text, InterpWarning, stacklevel=depth + 1)
        return self

    def _repr_html_(self) -> str:
        return self.report().fragment()


def _stored(result: Any) -> Iterator[dataclasses.Field[Any]]:
    return (f for f in dataclasses.fields(result) if f.init and f.name != "provenance")


def _with_kind(cls: type[Result]) -> Iterator[type[Result]]:
    if "KIND" in vars(cls):
        yield cls
    for one in cls.__subclasses__():
        yield from _with_kind(one)
