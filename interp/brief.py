"""Short reprs of what holds tensors, tables or rows: their sizes instead of their numbers."""

import dataclasses
from collections.abc import Mapping, Sized
from typing import Any, TypeVar

from interp.errors import shown

LIMIT, ITEMS = 290, 4
"""Characters of a repr, and items of a sequence that are still written out, at most."""
T = TypeVar("T")


def brief(cls: type[T]) -> type[T]:
    """Give a dataclass a repr of at most `LIMIT` characters."""
    cls.__repr__ = brief_repr
    return cls


def brief_repr(self: Any) -> str:
    """The class and its fields, each in a few words; fields with ``repr=False`` are left out."""
    text = f"{type(self).__name__}("
    for field in (f for f in dataclasses.fields(self) if f.repr):
        comma = "" if text.endswith("(") else ", "
        part = f"{comma}{field.name}={in_few_words(getattr(self, field.name))}"
        if len(text) + len(part) + 4 > LIMIT:
            return f"{text}, …)"
        text += part
    return f"{text})"


def in_few_words(value: Any) -> str:
    """A value in at most 80 characters: numbers and texts as they are, the rest by size."""
    name = type(value).__name__
    if value is None or isinstance(value, str | int | float):
        return shown(value, 42)
    if getattr(value, "shape", None) is not None:
        return f"{name}{list(value.shape)}"
    if not isinstance(value, Sized):
        return getattr(value, "__name__", name)[:40]
    if isinstance(value, Mapping):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}" if value else "{}"
    if not isinstance(value, tuple | list | set | frozenset | range):
        return f"{name}({len(value)})"
    if len(value) <= ITEMS and all(isinstance(v, int | float | str) for v in value):
        return shown(value, 80)
    return f"{len(value)} {'item' if len(value) == 1 else 'items'}"
