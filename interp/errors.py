"""Every error a user can cause, under one base class.

A message is one sentence or two: what happened, the offending value, what to do. The command line
prints it without a traceback; anything that is not an :class:`InterpError` is a bug of ours.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import ClassVar


class InterpError(Exception):
    """Base: the user's mistake, told in a sentence; the command line exits with `exit_code`."""

    exit_code: ClassVar[int] = 2


class DataError(InterpError):
    """A file, row, prompt or table that is missing, malformed or unfit; the message says where."""


class UnusableRow(DataError):
    """A well-formed row that a model or method cannot use; it is excluded and counted."""


class ModelError(InterpError):
    """A model that is not found, not what it claims to be, or lacks what is asked of it."""


class PlanError(InterpError):
    """A site, component, metric, intervention or setting that cannot be carried out."""


class StatisticsError(DataError):
    """Too little data, or a degenerate design, for a statistic."""


class DegenerateGap(StatisticsError):
    """Clean and corrupt runs score alike, so a normalised effect would divide by nothing."""


class RunFolderError(InterpError):
    """A run folder that is missing, incomplete, or written by another configuration."""


class OutOfMemory(InterpError):
    """The work does not fit the device, even in its smallest pieces."""


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxdict, _BRIEF.maxlist, _BRIEF.maxtuple = 3, 4, 6, 6
N_NAMED = 40
"""Names in one message, at most."""


def shown(value: object, limit: int = 60) -> str:
    """A value for a message: as Python writes it, in one line and at most `limit` characters."""
    _BRIEF.maxstring = _BRIEF.maxlong = _BRIEF.maxother = limit
    try:
        text = " ".join(_BRIEF.repr(value).splitlines())
    except (ValueError, RecursionError):  # such as a number of more digits than Python writes
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class InterpWarning(UserWarning):
    """A result that is right in its numbers but easily misread."""


def did_you_mean(word: str, available: Iterable[str]) -> str:
    """Return "Did you mean …? Available: …" for the end of an error message.

    Args:
        word: What the user wrote.
        available: What would have been accepted.

    Returns:
        One or two sentences without a leading space; never empty.
    """
    names = sorted(available)
    close = difflib.get_close_matches(word[:100].lower(), names, n=2, cutoff=0.5)
    question = f"Did you mean {' or '.join(map(shown, close))}? " if close else ""
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return f"{question}Available: {', '.join(names[:N_NAMED]) or 'none'}{more}."


def first_line(error: object, most: int = 150) -> str:
    """The first line of a foreign error or text, cut, for use inside a message of ours.

    Control characters, which could rewrite the terminal, are escaped.
    """
    name = f"{type(error).__name__}: " if isinstance(error, BaseException) else ""
    line = next((text for text in str(error).splitlines() if text.strip()), "no message").strip()
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line[: most + 1])
    return name + (line if len(line) <= most else line[: most - 1] + "…")
