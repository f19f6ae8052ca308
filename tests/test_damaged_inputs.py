"""Damaged input files end in one sentence, soon: never in a foreign exception, never in a hang."""

import contextlib
import json
import os
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from damage import damaged
from input_examples import FACT, QUESTION, Kind, dumped, first, kinds, shipped

from circuits.cli.app import run
from circuits.editing.files import load_facts
from circuits.emotion.data import load_scenarios
from circuits.emotion.doses import CircuitDose
from circuits.emotion.frames import load_frames
from circuits.emotion.recipe import Recipe
from circuits.recall_reasoning.cells import load_data
from circuits.recall_reasoning.facts import load_facts as load_countries
from circuits.recall_reasoning.settings import Settings, load_recipe
from interp.errors import DataFileError, InterpError, PairError, shown
from interp.pairs import PromptPairs
from interp.prompts import prompt
from interp.records import MOST_NESTED, parse_json, read_json, read_jsonl, read_text
from interp.schema import Row, Text, checked

KINDS = kinds()
LONGEST, SECONDS = 400, 2


class TooSlowError(BaseException):
    """No `Exception`, which a loader might catch."""


@contextlib.contextmanager
def limited(seconds: float) -> Generator[None]:
    def stop(*_: Any) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault(load: Callable[[Path], Any], path: Path) -> str | None:
    """What is wrong with how a file is loaded or refused; ``""`` where it is refused well."""
    try:
        with limited(SECONDS):
            load(path)
    except InterpError as error:
        said = str(error)
        if "\n" in said or not said.isprintable():
            return f"not one line: {said!r}"
        return f"{len(said)} characters: {said}" if len(said) > LONGEST else ""
    except TooSlowError:
        return f"took longer than {SECONDS} s"
    except BaseException:
        return traceback.format_exc(limit=-3)
    return None


def faults(name: str, kind: Kind, folder: Path, n: int) -> tuple[list[str], int]:
    """The faults of `n` damaged files, and how many files were refused."""
    for beside, content in kind.beside.items():
        (folder / beside).write_bytes(content)
    found, refused = [], 0
    for i in range(n):
        path = folder / kind.file
        path.write_bytes(damaged(kind, random.Random(f"{name} {i}")))
        said = fault(kind.load, path)
        refused += said is not None
        if said:
            found.append(f"case {i} of {name}: {said}\n{path.read_bytes()[:300]!r}")
    return found, refused


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_load(name: str, tmp_path: Path):
    kind = KINDS[name]
    for file, content in kind.beside.items():
        (tmp_path / file).write_bytes(content)
    (tmp_path / kind.file).write_bytes(kind.text())
    assert kind.load(tmp_path / kind.file)
    if kind.file.endswith((".json", ".jsonl", ".txt")):  # as an editor on Windows saves it
        changed = b"\xef\xbb\xbf" + kind.text().replace(b"\n", b"\r\n")
        (tmp_path / kind.file).write_bytes(changed)
        assert kind.load(tmp_path / kind.file)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_in_a_sentence(name: str, tmp_path: Path):
    found, refused = faults(name, KINDS[name], tmp_path, 70)
    assert not found, "\n\n".join([f"{len(found)} faults", *found[:5]])
    assert refused > (0 if KINDS[name].file.endswith(".txt") else 25)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_damaged_files_are_refused_in_a_sentence(name: str, tmp_path: Path):
    found, _ = faults(name, KINDS[name], tmp_path, 700)
    assert not found, "\n\n".join([f"{len(found)} faults", *found[:8]])


def test_the_damage_is_as_much_as_it_should_be():
    assert 70 * len(KINDS) >= 2_000 and 700 * len(KINDS) >= 20_000
    kind = KINDS["pairs"]
    same = damaged(kind, random.Random("x")), damaged(kind, random.Random("x"))
    assert same[0] == same[1]
    made = Counter(damaged(kind, random.Random(i)) for i in range(300))
    assert len(made) > 250
