"""Reading JSONL files, with the line of every row for messages."""

import json
from pathlib import Path
from typing import Any

from interp.errors import DataFileError


def read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their line numbers, from 1; blank lines are passed over.

    Raises:
        DataFileError: the file is missing, is not UTF-8, or a line is not a JSON object (named
            by number).
    """
    if not path.is_file():
        raise DataFileError(f"no such file: {path}; give a JSONL file.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path} is not UTF-8 text ({error.reason}); re-save it.") from error
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
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
        rows.append((number, record))
    return rows
