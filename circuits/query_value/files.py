"""Questions from JSONL files: one object a line, ``prompt`` and ``answer`` at least."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp.data.prompts import TokenPrompt, prompt
from interp.data.records import ClosedRow, Text, checked, placed_rows
from interp.errors import DataError
from interp.model.model import Model


class Row(ClosedRow):
    """A line of a file.

    Attributes:
        prompt: a text that the answer continues.
        answer: one token of text.
        label: kind of knowledge, or empty.
        cluster: entity, or empty.
        spans: name -> a text that occurs exactly once in the prompt.
        id: for the reader; results number the prompts.
    """

    prompt: Text
    answer: Text
    label: str = ""
    cluster: str = ""
    spans: dict[str, Text] = {}
    id: Any = None


def load_rows(source: str | Path) -> list[Row]:
    """Read a JSONL file, a shipped set such as ``capital_questions``, or a data set of the Hub.

    Raises:
        DataError: it is missing or empty, or a line is malformed; the message names the line.
    """
    rows = [checked(Row, record, where) for where, record in placed_rows(source, "prompts")]
    if not rows:
        raise DataError(f"{source} holds no prompts; write one JSON object per line.")
    return rows


def token_prompts_of(model: Model, rows: Sequence[Row]) -> list[TokenPrompt]:
    """The rows' prompts with their spans.

    Raises:
        DataError: a span does not occur exactly once.
    """
    return [prompt(model, row.prompt, **row.spans) for row in rows]
