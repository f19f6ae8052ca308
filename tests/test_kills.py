"""Every verb, killed at file events along its way: run again, it leaves what a whole run leaves."""

import importlib
from pathlib import Path

import pytest
from kills import events_of, killed_at, names
from sample_runs import RUNS, content

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three pairs, two shards."""
    patching = importlib.import_module("interp.patching.patch")  # not the function of that name
    monkeypatch.setattr(patching, "SHARD", 2)
    monkeypatch.setattr("interp.attribution.contrast.PAIRS_AT_ONCE", 2)


def schedule(total: int, times: int) -> list[int]:
    """Events to die at: spread over the run, its end among them, where folders are renamed."""
    spread = [total * (2 * i + 1) // (2 * times) for i in range(times)]
    return sorted({*spread, total - 2, total - 12})


def check(verb: str, tmp_path: Path, times: int) -> None:
    work, whole = RUNS[verb], tmp_path / "whole" / "run"
    whole.parent.mkdir()
    work(whole)  # which fills the caches
    expected = content(whole)
    total = events_of(lambda: work(tmp_path / "counted"))
    for n in schedule(total, times):
        out = tmp_path / f"{n}" / "run"
        out.parent.mkdir()
        assert killed_at(n, lambda out=out: work(out)), n
        work(out)
        assert names(out.parent) == ["run"], n
        assert content(out) == expected, n


LONG = ("circuit stability", "edit sequence", "feasible", "recall", "thought")
"""Verbs whose run takes seconds; they resume by the same run folder as the others."""


@pytest.mark.parametrize(
    "verb", [pytest.param(v, marks=pytest.mark.slow if v in LONG else ()) for v in RUNS]
)
def test_a_killed_verb_goes_on(verb: str, tmp_path: Path):
    check(verb, tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("verb", RUNS)
def test_a_verb_killed_all_along_its_way_goes_on(verb: str, tmp_path: Path):
    check(verb, tmp_path, 40)
