"""Steps of a run, and how the outcome of each is kept as a sealed folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd

from interp.results import folder
from interp.results.files import write_text

T = TypeVar("T")


@dataclass(frozen=True)
class Codec(Generic[T]):
    """How the outcome of a step is kept as a sealed folder.

    Attributes:
        save: (outcome, path) -> writes it there with `interp.results.folder.write`.
        load: path -> the outcome; `RunFolderError` where it is damaged.
    """

    save: Callable[[T, Path], Any]
    load: Callable[[Path], T]


def _load_tables(path: Path) -> dict[str, pd.DataFrame]:
    names = folder.read_manifest(path).get("tables", [])
    return folder.read(path, "tables", names)[1]


ARRAYS: Codec[dict[str, np.ndarray]] = Codec(
    lambda arrays, path: folder.write(path, {"kind": "arrays"}, {}, arrays),
    lambda path: folder.read(path, "arrays", ())[2],
)
TABLES: Codec[dict[str, pd.DataFrame]] = Codec(
    lambda tables, path: folder.write(path, {"kind": "tables", "tables": list(tables)}, tables, {}),
    _load_tables,
)


def timed(codec: Codec[T]) -> Codec[tuple[T, float]]:
    """The same with the seconds that the outcome took."""

    def save(made: tuple[T, float], path: Path) -> None:
        codec.save(made[0], path)
        write_text(path / "seconds.json", json.dumps(made[1]))

    def load(path: Path) -> tuple[T, float]:
        with folder.reading(path):
            return codec.load(path), float(json.loads((path / "seconds.json").read_text("utf-8")))

    return Codec(save, load)


class Steps:
    """Steps that nobody keeps: of a run without a folder."""

    def step(self, name: str, make: Callable[[], T], codec: Codec[T]) -> T:
        """The outcome of a step.

        Args:
            name: of the step, unique in its run.
            make: does the work.
            codec: how the outcome is kept.
        """
        return make()

    def count(self, done: int, total: int) -> None:
        """Say how much of the run is there, in its unit."""
