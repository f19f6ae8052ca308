"""What makes a run this run and no other: its options by name, data and weights by digest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from interp.brief import brief
from interp.errors import shown
from interp.model.model import Model
from interp.results import folder

SHOWN = 3
"""Options that differ, in a refusal."""


def identity(model: Model) -> dict[str, str]:
    """The options that name a model: its weights as they are now, and its dtype."""
    return {"weights": f"blake2b:{model.hash_now()}", "dtype": str(model.dtype)}


def fingerprint(value: Any) -> str:
    """A short option that stands for data: rows, texts, settings."""
    return f"blake2b:{folder.digest(plain(value))}"


def plain(value: Any) -> Any:
    """A value in JSON's types."""
    return json.loads(json.dumps(value, default=_part))


def _part(value: Any) -> Any:
    if is_dataclass(value):
        return asdict(cast(Any, value))
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    return list(value)


def names_of(rows: Sequence[Any]) -> dict[str, Any]:
    """The options that name data rows: how many, and what they are."""
    return {"pairs": len(rows), "rows": fingerprint(rows)}


@brief
@dataclass(frozen=True)
class Record:
    """What makes a run this run and no other.

    Attributes:
        verb: the command, such as ``"patch"``.
        options: every named value that decides its numbers; data by `fingerprint`.
    """

    verb: str
    options: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Hash of all."""
        return folder.digest([self.verb, self.options])

    def as_json(self) -> dict[str, Any]:
        """As written to a folder; `of` reads it."""
        return {"run": self.key, "verb": self.verb, "options": self.options}

    @classmethod
    def of(cls, said: Any) -> "Record | None":
        """Read what `as_json` gave; ``None`` where there is no such thing."""
        match said:
            case {"verb": str(verb), "options": dict(options)}:
                return cls(verb, options)
            case _:
                return None

    def differs(self, other: "Record") -> str:
        """What sets it apart from another run, for a refusal."""
        if self.verb != other.verb:
            return f"{_a(self.verb)} run, not {_a(other.verb)} run"
        names = [
            name
            for name in dict.fromkeys([*self.options, *other.options])
            if self.options.get(name) != other.options.get(name)
        ]
        said = [_difference(n, self.options.get(n), other.options.get(n)) for n in names[:SHOWN]]
        if len(names) > SHOWN:
            said.append(f"{len(names) - SHOWN} more")
        listed = " and ".join(filter(None, [", ".join(said[:-1]), said[-1]]))
        return f"{_a(self.verb)} run with {listed}"


def _difference(name: str, theirs: Any, ours: Any) -> str:
    if any(isinstance(one, str) and one.startswith("blake2b:") for one in (theirs, ours)):
        return f"other {name}"
    return f"{name}={shown(theirs)} (this one: {shown(ours)})"


def _a(verb: str) -> str:
    return f"{'an' if verb[0] in 'aeiou' else 'a'} {verb}"
