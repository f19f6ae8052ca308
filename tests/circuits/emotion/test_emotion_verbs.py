"""`interp emotion` circuit, directions, locate and elicit: keys, run folders, refusals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, tiny_hf
from test_cli import last_json, saved

from circuits.cli.app import run
from circuits.emotion import LABELS, emotion_comparison

DATA = ["--datasets", str(ROOT / "datasets"), "--limit", "8"]


class Flat:
    """A judge that finds all labels alike."""

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        return np.full((len(texts), len(LABELS)), 1 / len(LABELS))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama as a folder."""
    return saved(tmp_path_factory.mktemp("emotion") / "llama", tiny_hf("llama"))


def test_circuit_then_the_others_go_on_from_its_folder(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = str(tmp_path / "d")
    begin = ["--model", model, "--out", out, *DATA]
    assert run(["emotion", "circuit", *begin, "--json"]) == 0
    found = last_json(capsys.readouterr().out)
    assert found["n_groups"] == 24 and found["run"] == out
    assert set(found["sizes"]) == {"centred", "centred-influence", "paper", "paper-influence"}
    assert {"states", "influence", "demonstrations"} <= set(found["seconds"])
    assert run(["emotion", "circuit", *begin]) == 0
    assert "Jaccard" in capsys.readouterr().out

    begin = ["--model", model, "--discovery", out, *DATA[:2]]
    assert run(["emotion", "locate", *begin, "--emotion", "fear", "--top", "3", "--json"]) == 0
    located = last_json(capsys.readouterr().out)
    assert [row["part"] for row in located["components"]] == ["neurons"] * 3 + ["heads"] * 3
    assert len(located["influence"]["mlp"]) == 3
    assert run(["emotion", "locate", *begin, "--score", "paper"]) == 0
    assert "MLP influence is largest in layer" in capsys.readouterr().out

    seen = ["emotion", "directions", *begin, "--events", "emotion_scenarios_discovery"]
    assert run(seen) == 2
    assert "8 of the scenarios were seen in discovery" in capsys.readouterr().err
    sealed = sorted(Path(out).rglob("*"))
    assert run(["emotion", "directions", *begin, "--n", "2", "--json"]) == 0
    read = last_json(capsys.readouterr().out)
    tests = {row["test"]: row for row in read["tests"]}
    assert {"synonyms", "vignettes", "demonstrations", "replies"} <= set(tests)
    assert tests["vignettes"]["n"] == 120 and tests["felt:A→felt:B"]["n"] == 36
    assert [row["layer"] for row in read["all_layers"]] == [0, 1, 2] * len(tests)
    assert all(row in read["all_layers"] for row in read["tests"])
    assert sorted(Path(out).rglob("*")) == sealed  # nothing is put beside what was sealed


def test_what_is_refused(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    located = ["--model", model, "--discovery", str(tmp_path / "d"), *DATA[:2]]
    assert run(["emotion", "locate", *located, "--emotion", "joy"]) == 2
    assert "unknown emotion 'joy'" in capsys.readouterr().err
    begin = ["--model", model, "--out", str(tmp_path / "discovery"), *DATA]
    assert run(["emotion", "circuit", *begin, "--paper", "felt:A", "--styles", "felt:B"]) == 2
    assert "not both" in capsys.readouterr().err
    assert run(["emotion", "circuit", *begin, "--styles", "felt:Z"]) == 2
    assert "unknown style 'felt:Z'" in capsys.readouterr().err
    other = ["--model", model, "--out", str(tmp_path / "e"), *DATA, "--styles", "nowhere:A"]
    assert run(["emotion", "circuit", *other]) == 2
    assert "unknown style 'nowhere:A'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # what was refused left nothing behind
    assert run(["emotion", "circuit", *begin]) == 0
    assert run(["emotion", "circuit", *begin, "--styles", "felt:A"]) == 2
    assert "discovery holds an emotion circuit run with styles=" in capsys.readouterr().err
    chain = ["--model", model, "--recipe", "smollm2-135m", "--out", str(tmp_path), *DATA[:2]]
    assert run(["emotion", "run", *chain]) == 2  # of all scenarios
    assert "discovery holds an emotion circuit run with scenarios=8" in capsys.readouterr().err


def test_elicit_asks_and_judges(
    model: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    # a random model's replies are empty once special tokens are left out: nothing to be read
    monkeypatch.setattr(emotion_comparison, "fitted_judges", lambda model, texts: {"flat": Flat()})
    judge = saved(tmp_path_factory.mktemp("judge") / "qwen2", tiny_hf("qwen2"))
    out = tmp_path / "e"
    begin = ["emotion", "elicit", "--model", model, "--judge-model", judge, "--n", "2"]
    assert run([*begin, "--out", str(out), *DATA[:2], "--json"]) == 0
    found = last_json(capsys.readouterr().out)
    assert set(found["conditions"]) == {"unmodulated", "prompting", "demonstrations"}
    assert found["n"] == 12 and (out / "manifest.json").is_file()
    begin[begin.index(judge)] = saved(tmp_path / "copy", tiny_hf("llama"))
    assert run([*begin, "--out", str(tmp_path / "f"), *DATA[:2]]) == 2
    assert "must not be the model under test" in capsys.readouterr().err
