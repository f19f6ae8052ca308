"""Short reprs of what holds tensors, tables or rows: their sizes instead of their numbers."""

import dataclasses
from collections.abc import Mapping, Sized
from typing import Any, TypeVar

LIMIT = 290
"""Characters of a repr, at most."""
WORDS = 40
"""Characters of a text inside one, at most."""
ITEMS = 4
"""Numbers or short texts of a sequence that are still written out, at most."""

T = TypeVar("T")


def brief(cls: type[T]) -> type[T]:
    """Give a dataclass a repr of at most `LIMIT` characters."""
    cls.__repr__ = brief_repr
    return cls


def brief_repr(self: Any) -> str:
    """The class and its fields, each in a few words; fields with ``repr=False`` are left out."""
    head, fields = f"{type(self).__name__}(", [f for f in dataclasses.fields(self) if f.repr]
    shown = ""
    for field in fields:
        part = f"{', ' if shown else ''}{field.name}={in_few_words(getattr(self, field.name))}"
        if len(head) + len(shown) + len(part) + 4 > LIMIT:
            return f"{head}{shown}, …)"
        shown += part
    return f"{head}{shown})"


def in_few_words(value: Any) -> str:
    """A value in at most some sixty characters: numbers and texts as they are, the rest by size."""
    name = type(value).__name__
    if value is None or isinstance(value, float) or (isinstance(value, int) and value < 10**20):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= WORDS else f"{value[: WORDS - 2]} …")
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{name}{list(shape)}"
    if isinstance(value, Mapping):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}" if value else "{}"
    if isinstance(value, tuple | list | set | frozenset | range):
        return _items(value)
    if callable(value) and hasattr(value, "__name__"):
        return f"{value.__name__:.{WORDS}}"
    if isinstance(value, Sized):
        return f"{name}({len(value)})"
    return f"{name:.{WORDS}}"


def _items(value: Any) -> str:
    """A short sequence of scalars as it is, another by its length."""
    if len(value) <= ITEMS and all(isinstance(v, int | float | str) for v in value):
        written = repr(value)
        if len(written) <= 2 * WORDS:
            return written
    return f"{len(value)} {'item' if len(value) == 1 else 'items'}"
