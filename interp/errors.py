"""Every error that a user can cause, under one base class, and how values stand in messages.

A message is one sentence or two: what happened, the offending value, what to do. The command line
prints it without a traceback; anything that is not an :class:`InterpError` is a bug of ours.
"""

import difflib
import reprlib
from collections.abc import Iterable
from typing import ClassVar


class InterpError(Exception):
    """Base: the user's mistake in a sentence; the command line exits with `exit_code`."""

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


class InterpWarning(UserWarning):
    """A result that is right in its numbers but easily misread."""


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict = 3, 4
N_NAMED = 40
"""Names in one message, at most."""


def shown(value: object, limit: int = 60) -> str:
    """A value for a message: as Python writes it, in one line and at most `limit` characters."""
    _SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = limit
    try:
        text = " ".join(_SHORT.repr(value).splitlines())
    except (ValueError, RecursionError):  # such as a number of more digits than Python writes
        text = f"<{type(value).__name__}>"
    return _cut(text, limit)


def first_line(error: object, limit: int = 150) -> str:
    """The first line of a foreign error or text, for use inside a message of ours.

    Control characters, which could rewrite the terminal, are escaped.
    """
    name = f"{type(error).__name__}: " if isinstance(error, BaseException) else ""
    line = next((text for text in str(error).splitlines() if text.strip()), "no message").strip()
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line[: limit + 1])
    return name + _cut(line, limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def did_you_mean(word: str, available: Iterable[str]) -> str:
    """The end of a message: "Did you mean …? Available: …"; one or two sentences, never empty."""
    names = sorted(available)
    close = difflib.get_close_matches(word[:100].lower(), names, n=2, cutoff=0.5)
    question = f"Did you mean {' or '.join(map(shown, close))}? " if close else ""
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return f"{question}Available: {', '.join(names[:N_NAMED]) or 'none'}{more}."
