"""From the rows of benchmark files to records: errors name file and row, exclusions are kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from interp.data.pairs import Excluded
from interp.errors import DataError, UnusableRow, shown

T = TypeVar("T")


@dataclass(frozen=True)
class Records(Sequence[T], Generic[T]):
    """Records in order.

    Attributes:
        records: the usable ones.
        source: file or data set.
        excluded: the others, each with its reason.
    """

    records: tuple[T, ...]
    source: str = "records"
    excluded: tuple[Excluded, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return replace(self, records=self.records[index])
        return self.records[index]

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({len(self)} from {self.source}; {len(self.excluded)} excluded)"


def parsed(
    rows: Sequence[Mapping[str, Any]],
    source: str,
    parse: Callable[[Mapping[str, Any], str, str], T],
    id_key: str | None = None,
) -> Records[T]:
    """Parse every row; those whose fact cannot be edited are excluded, with the reason.

    Args:
        rows: as read.
        source: what to call them in messages.
        parse: makes a record of a row, its id, and where it is, as ``file, row 3``.
        id_key: the field that holds the id; by default the row's number is its id.

    Raises:
        DataError: there is no row, one is malformed, or an id is missing or there twice.
    """
    if not rows:
        raise DataError(f"{source} holds no rows; give at least one.")
    kept: list[T] = []
    excluded: list[Excluded] = []
    seen: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        where = f"{source}, row {number}"
        id = str(number) if id_key is None else _id_of(row, id_key, where)
        if id in seen:
            raise DataError(
                f"{where}: {id_key} {shown(id)} was used before, in {seen[id]}; give every row its "
                "own."
            )
        seen[id] = where
        try:
            kept.append(parse(row, id, where))
        except UnusableRow as error:
            excluded.append(Excluded(id, where, str(error)))
    return Records(tuple(kept), source, tuple(excluded))


def _id_of(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"{where}: {key} is {shown(value)}; it must be text or a whole number.")
    if value == "":
        raise DataError(f"{where}: {key} '' is missing; give every row its own.")
    return str(value)


def text_of(row: Any, key: str, where: str) -> str:
    """A field that must be non-empty text."""
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key!r} is {shown(value)}; it must be non-empty text.")
    return value


def name_of(row: Mapping[str, Any], key: str, where: str) -> str | None:
    """A field that may be missing, or must be text."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {key!r} is {shown(value)}; it must be text.")
    return value


def texts_of(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A field that must be a non-empty list of texts."""
    values = tuple(text_of({key: value}, key, where) for value in list_of(row, key, where))
    if not values:
        raise DataError(
            f"{where}: {key!r} is {shown(row.get(key))}; it must list at least one text."
        )
    return values


def names_of(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A field that may be missing, or must be a list of texts; some may be empty."""
    values = list_of(row, key, where)
    if not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: {key!r} is {shown(values)}; it must be a list of texts.")
    return tuple(values)


def objects_of(row: Mapping[str, Any], key: str, where: str) -> tuple[Mapping[str, Any], ...]:
    """A field that may be missing, or must be a list of objects."""
    return tuple(object_of({key: value}, key, where) for value in list_of(row, key, where))


def list_of(row: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """A field that may be missing, or must be a list."""
    values = row.get(key)
    if values is not None and not isinstance(values, list):
        raise DataError(f"{where}: {key!r} is {shown(values)}; it must be a list.")
    return [] if values is None else values


def object_of(row: Any, key: str, where: str) -> Mapping[str, Any]:
    """A field that must be an object."""
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: {key!r} is {shown(value)}; it must be an object.")
    return value
