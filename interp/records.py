"""Rows of data as they were published: a JSON or JSONL file, or a data set of the Hub."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from interp.errors import DataFileError
from interp.shipped import locate


def read_records(
    source: str | Path, split: str | None = None, expected: str = "rows"
) -> tuple[list[dict[str, Any]], str]:
    """The rows of a data set: a ``.json`` (a list of objects) or ``.jsonl`` file, ours, the Hub's.

    Args:
        source: path of a file, name of a shipped data set, or Hub id of another.
        split: which split of a Hub data set; by default ``train``.
        expected: what the rows are, for messages.

    Returns:
        The rows, and the name of where they came from, for messages.

    Raises:
        DataFileError: no such file or data set, or it is malformed (named by line or row).
    """
    rows, name = _rows(source, split, expected)
    return [row for _, row in rows], name


def read_rows(
    source: str | Path, split: str | None = None, expected: str = "rows"
) -> list[tuple[str, dict[str, Any]]]:
    """As `read_records`, each row behind the place where it stands: ``facts.jsonl, line 3``."""
    return _rows(source, split, expected)[0]


def is_hub_id(source: str | Path) -> bool:
    """Whether ``owner/name`` means a data set of the Hub: it is no file, nor named like one."""
    path = Path(source)
    return (
        isinstance(source, str)
        and source.count("/") == 1
        and not source.startswith((".", "/", "~"))
        and path.suffix not in (".jsonl", ".json", ".txt")
        and not path.exists()
    )


def _rows(
    source: str | Path, split: str | None, expected: str
) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    if is_hub_id(source):
        name = str(source)
        found = enumerate(from_hub(name, split or "train"), 1)
        return [(f"{name}, row {number}", dict(row)) for number, row in found], name
    path = locate(source, f"a JSON or JSONL file of {expected}, a Hub id")
    if path.suffix == ".json":
        listed = enumerate(read_json(path), 1)
        return [(f"{path}, row {number}", row) for number, row in listed], path.name
    return [(f"{path}, line {number}", row) for number, row in read_jsonl(path)], path.name


def read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """One object a line, with the line's number from 1; blank lines are passed over.

    Raises:
        DataFileError: no such file, not UTF-8, or a line is not a JSON object.
    """
    records: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataFileError(
                f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno})."
            ) from error
        if not isinstance(record, dict):
            raise DataFileError(
                f"{path}, line {number}: a {type(record).__name__}, not a JSON object."
            )
        records.append((number, record))
    return records


def read_json(path: Path) -> list[dict[str, Any]]:
    """A list of objects.

    Raises:
        DataFileError: not UTF-8, not JSON, or not a list of objects.
    """
    try:
        records = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataFileError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg} at column {error.colno})."
        ) from error
    if not isinstance(records, list):
        raise DataFileError(f"{path} holds a {type(records).__name__}, not a list of rows.")
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise DataFileError(
                f"{path}, row {number}: a {type(record).__name__}, not a JSON object."
            )
    return records


def from_hub(name: str, split: str) -> Iterable[Mapping[str, Any]]:
    """A split of a data set of the Hugging Face Hub.

    Raises:
        DataFileError: it cannot be loaded.
    """
    from datasets import load_dataset

    try:
        return load_dataset(name, split=split)  # pyright: ignore[reportReturnType]
    except Exception as error:
        raise DataFileError(
            f"cannot load data set {name!r} from the Hugging Face Hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); "
            "check the id and the connection, or give a JSONL file."
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataFileError(f"cannot read {path} ({error.strerror}); give a JSONL file.") from error
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path} is not UTF-8 text ({error.reason}); re-save it.") from error
