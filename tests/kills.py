"""Kills at a chosen file event: from then on nothing of the process touches a file any more."""

import contextlib
import io
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.results import folder


class Killed(BaseException):
    """What stands for SIGKILL: no clean-up that touches a file succeeds after it."""


EVENTS = [(os, name) for name in ("mkdir", "rename", "replace", "rmdir", "unlink", "chmod")]


@contextlib.contextmanager
def kill_at(n: int) -> Generator[list[str]]:
    """Die at the n-th event: before it, or, where a file is written, with half of it there."""
    events: list[str] = []

    def counted(name: str, work: Callable[..., Any], half: Any = None) -> Callable[..., Any]:
        def event(*args: Any, **options: Any) -> Any:
            events.append(name)
            if len(events) > n:
                if len(events) == n + 1 and half:
                    half(*args)
                raise Killed(name)
            return work(*args, **options)

        return event

    opened = io.open

    def open_to_write(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        made = counted("open", opened) if set(mode) & set("wax") else opened
        return made(file, mode, *args, **options)

    def half_saved(arrays: Any, path: Path) -> None:
        with opened(path, "wb") as file:
            file.write(b"\x40\0\0\0\0\0\0\0half")

    def half_table(self: Any, path: Path) -> None:
        half_saved(None, path)

    with pytest.MonkeyPatch.context() as patch:
        for module, name in EVENTS:
            patch.setattr(module, name, counted(name, getattr(module, name)))
        patch.setattr(io, "open", open_to_write)
        patch.setattr(folder, "save_file", counted("save", folder.save_file, half_saved))
        parquet = counted("parquet", pd.DataFrame.to_parquet, half_table)
        patch.setattr(pd.DataFrame, "to_parquet", lambda self, *a, **o: parquet(self, *a, **o))
        yield events


def killed_at(n: int, work: Callable[[], object]) -> bool:
    """Do some work and die at its n-th file event; whether it got there before it was done."""
    with kill_at(n):
        try:
            work()
        except Killed:
            return True
    return False


def events_of(work: Callable[[], object]) -> int:
    """How many file events some work has."""
    with kill_at(10**9) as events:
        work()
    return len(events)


def names(at: Path) -> list[str]:
    """What lies in a folder, hidden files included."""
    return sorted(one.name for one in at.iterdir())
