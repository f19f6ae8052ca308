"""Steps of a run: each outcome is kept by its type, as a sealed folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd

from interp.results import storage
from interp.results.result import Result

T = TypeVar("T")
ARRAYS = dict[str, np.ndarray]
TABLES = dict[str, pd.DataFrame]
STEP = "step"


@dataclass(frozen=True)
class Codec(Generic[T]):
    """How the outcome of a step is kept where its type does not say it.

    Attributes:
        save: (outcome, path) -> writes it there with `interp.results.folder.write`.
        load: path -> the outcome; `RunFolderError` where it is damaged.
    """

    save: Callable[[T, Path], Any]
    load: Callable[[Path], T]


def save_as(kind: Any, made: Any, path: Path) -> None:
    """Keep the outcome of a step, of a type that `storage` can hold or of a `Result`."""
    if isinstance(kind, Codec):
        kind.save(made, path)
    elif isinstance(made, Result):
        made.save(path)
    else:
        storage.store(made, path, STEP)


def load_as(kind: Any, path: Path) -> Any:
    """Read back what `save_as` kept; errors as in `storage.restore`."""
    if isinstance(kind, Codec) or (isinstance(kind, type) and issubclass(kind, Result)):
        return kind.load(path)
    return storage.restore(path, STEP, kind)


class Steps:
    """Steps that nobody keeps: of a run without a folder."""

    def step(self, name: str, make: Callable[[], T], kind: Any) -> T:
        """The outcome of a step.

        Args:
            name: of the step, unique in its run.
            make: does the work.
            kind: the outcome's type: a `Result`, or what `storage` can hold, such as
                ``dict[str, np.ndarray]`` or ``tuple[pd.DataFrame, float]``.
        """
        return make()

    def count(self, done: int, total: int) -> None:
        """Say how much of the run is there, in its unit."""
