"""Rows of data as they were published: a JSON or JSONL file, or a data set of the Hub."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from interp.errors import DataFileError


def read_records(
    source: str | Path, split: str | None = None, expected: str = "rows"
) -> tuple[list[dict[str, Any]], str]:
    """The rows of a ``.json`` (a list of objects) or ``.jsonl`` file, or of a Hub data set.

    Args:
        source: path of a file, or the Hub id of a data set.
        split: which split of a Hub data set; by default ``train``.
        expected: what the rows are, for messages.

    Returns:
        The rows, and the name of where they came from, for messages.

    Raises:
        DataFileError: no such file or data set, or it is malformed (named by line or row).
    """
    path = Path(source)
    if path.is_file():
        if path.suffix == ".jsonl":
            return [row for _, row in read_jsonl(path)], path.name
        return read_json(path), path.name
    named = str(source)
    if path.suffix in (".jsonl", ".json") or isinstance(source, Path) or "/" not in named:
        raise DataFileError(
            f"no such file: {path}; give a JSON or JSONL file of {expected}, or a Hub id."
        )
    return [dict(row) for row in from_hub(named, split or "train")], named


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
