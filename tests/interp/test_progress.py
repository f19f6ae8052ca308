"""Who is told how far a computation is: callbacks, terminals and notebooks; nobody else."""

import io
import sys
import time

import pytest
from conftest import tiny, word_pairs

import interp
from interp.progress import reported


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stderr", "asked", "shown"),
    [(Terminal, True, True), (io.StringIO, True, False), (Terminal, False, False)],
)
def test_a_bar_is_drawn_where_somebody_watches(stderr, asked: bool, shown: bool, monkeypatch):
    seen = stderr()
    monkeypatch.setattr(sys, "stderr", seen)
    with reported(asked, "patching z", 2, note="kept in x") as report:
        time.sleep(1.01)
        report(1, 2)
        report(2, 2)
    assert ("patching z" in seen.getvalue() and "1/2" in seen.getvalue()) == shown
    assert seen.getvalue().count("kept in x\n") == shown
    if not shown:
        assert seen.getvalue() == ""


def test_sweeps_say_their_total_first():
    model, pairs = tiny("llama"), word_pairs()
    said: dict[str, list[tuple[int, int]]] = {name: [] for name in ("patch", "edges", "ablate")}
    interp.patch(model, pairs, progress=lambda *at: said["patch"].append(at))
    interp.attribute_edges(model, pairs, progress=lambda *at: said["edges"].append(at))
    interp.ablate(
        model, pairs, interp.singles(model, "m0"), "zero", n_random=1,
        progress=lambda *at: said["ablate"].append(at),
    )  # fmt: skip
    for name, steps in said.items():
        assert steps[0][0] == 0 and steps[0][1] == steps[-1][0] == steps[-1][1] > 0, name
    steps: list[tuple[int, int]] = []
    interp.generate(model, ["w1 w2", "w3"], max_new_tokens=2, progress=lambda *at: steps.append(at))
    assert steps[0] == (0, 2) and steps[-1] == (2, 2)
