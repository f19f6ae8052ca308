"""Rows of benchmark files and their fields, with errors that name the file and the row."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from interp.errors import DataFileError


def rows_of(
    records: Sequence[Mapping[str, Any]], source: str, id_key: str | None = None
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each record with its place, as ``file, row 3``.

    Raises:
        DataFileError: there is none; or one lacks `id_key`, or has another's.
    """
    if not records:
        raise DataFileError(f"{source} holds no rows; give at least one.")
    seen: dict[str, str] = {}
    for number, record in enumerate(records, 1):
        where = f"{source}, row {number}"
        if id_key is not None:
            if record.get(id_key) is None:
                raise DataFileError(f"{where}: {id_key!r} is missing.")
            before = seen.setdefault(str(record[id_key]), where)
            if before != where:
                raise DataFileError(
                    f"{where}: {id_key} {record[id_key]!r} was used before, in {before}; give "
                    "every row its own."
                )
        yield record, where


def text_of(row: Any, key: str, where: str) -> str:
    """A field that must be non-empty text."""
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, str) or not value.strip():
        raise DataFileError(f"{where}: {key!r} is {value!r}; it must be non-empty text.")
    return value


def texts_of(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A field that must be a non-empty list of texts."""
    values = row.get(key)
    if not isinstance(values, list) or not values:
        raise DataFileError(f"{where}: {key!r} is {values!r}; it must be a list of texts.")
    return tuple(text_of({key: value}, key, where) for value in values)


def object_of(row: Any, key: str, where: str) -> Mapping[str, Any]:
    """A field that must be an object."""
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, Mapping):
        raise DataFileError(f"{where}: {key!r} is {value!r}; it must be an object.")
    return value
