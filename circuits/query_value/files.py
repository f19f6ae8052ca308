"""Questions from JSONL files: one object a line, ``prompt`` and ``answer`` at least."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import DataFileError
from interp.model import Model
from interp.prompts import TokenPrompt, prompt
from interp.records import read_rows

KNOWN = ("prompt", "answer", "label", "cluster", "spans", "id")


@dataclass(frozen=True)
class Row:
    """A line of a file.

    Attributes:
        prompt: a text that the answer continues.
        answer: one token of text.
        label: kind of knowledge, or empty.
        cluster: entity, or empty.
        spans: name -> a text that occurs exactly once in the prompt.
    """

    prompt: str
    answer: str
    label: str = ""
    cluster: str = ""
    spans: dict[str, str] = field(default_factory=dict)


def load_rows(source: str | Path) -> list[Row]:
    """Read a JSONL file, a shipped set such as ``capital_questions``, or a data set of the Hub.

    Raises:
        DataFileError: it is missing or empty, or a line is malformed; the message names the line.
    """
    rows = [_row(where, record) for where, record in read_rows(source, expected="questions")]
    if not rows:
        raise DataFileError(f"{source} holds no prompts; write one JSON object a line.")
    return rows


def _row(where: str, record: dict[str, Any]) -> Row:
    texts = ("prompt", "answer", "label", "cluster")
    if not {"prompt", "answer"} <= set(record):
        raise DataFileError(f"{where} lacks 'prompt' or 'answer'; give both.")
    unknown = set(record) - set(KNOWN)
    spans: Any = record.get("spans", {})
    values = [record.get(name, "") for name in texts]
    if unknown or not isinstance(spans, dict) or not all(isinstance(v, str) for v in values):
        raise DataFileError(
            f"{where} has fields {', '.join(map(str, record))}; known are {', '.join(KNOWN)}: "
            "texts, but for spans, an object of name and text."
        )
    return Row(*values, spans={str(k): str(v) for k, v in spans.items()})


def token_prompts_of(model: Model, rows: Sequence[Row]) -> list[TokenPrompt]:
    """The rows' prompts with their spans.

    Raises:
        PairError: a span does not occur exactly once.
    """
    return [prompt(model, row.prompt, **row.spans) for row in rows]
