"""What can be refused without a model is refused before one is loaded, whichever verb it is."""

from pathlib import Path

import pytest
from test_cli import refused

import interp

MODEL = ["--model", "no-such-model"]
FACT = ["--prompt", "The capital of {} is", "--subject", "France", "--target", "Rome"]
NONE = "nowhere.jsonl"
WRONG = {
    "patch": ["patch", *MODEL, "--pairs", NONE],
    "ablate": ["ablate", *MODEL, "--pairs", NONE],
    "ablate --neutral": ["ablate", *MODEL, "--pairs", "ioi", "--neutral", NONE],
    "ablate --reference": ["ablate", *MODEL, "--pairs", "ioi", "--reference", NONE],
    "ablate --components-file": ["ablate", *MODEL, "--pairs", "ioi", "--components-file", NONE],
    "attribute": ["attribute", *MODEL, "--pairs", NONE],
    "circuit discover": [
        "circuit",
        "discover",
        *MODEL,
        "--pairs",
        NONE,
        "--size",
        "9",
        "--out",
        "c",
    ],
    "circuit evaluate": ["circuit", "evaluate", NONE, *MODEL, "--pairs", "ioi"],
    "bench sweep": ["bench", "sweep", *MODEL, "--pairs", NONE],
    "query-value find": ["query-value", "find", *MODEL, "--prompts", NONE],
    "edit apply --facts": ["edit", "apply", *MODEL, "--ledger", "e", "--facts", NONE],
    "edit apply --kept": ["edit", "apply", *MODEL, "--ledger", "e", *FACT, "--kept", NONE],
    "edit evaluate": ["edit", "evaluate", *MODEL, "--cases", NONE],
    "edit place": ["edit", "place", *MODEL, "--cases", NONE, "--out", "p"],
    "emotion circuit": ["emotion", "circuit", *MODEL, "--events", NONE, "--out", "d"],
    "emotion directions": ["emotion", "directions", *MODEL, "--discovery", "d", "--events", NONE],
    "recall-reasoning run": ["recall-reasoning", "run", *MODEL, "--neutral", NONE, "--out", "r"],
    "recall-reasoning replicate": [
        *("recall-reasoning", "replicate", *MODEL, "--published", NONE, "--out", "r"),
    ],
}


@pytest.mark.parametrize("verb", WRONG)
def test_a_missing_file_is_told_before_a_model_is_looked_for(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(interp, "load_model", lambda *a, **k: pytest.fail("a model is loaded"))
    assert NONE in refused(capsys, *WRONG[verb])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["patch", "ablate", "attribute"])
def test_a_folder_of_something_else_is_told_before_data_is_read(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        line = refused(capsys, verb, *MODEL, "--pairs", NONE, "--out", str(out))
        assert f"--out {out} exists and is not a run folder" in line
    assert (tmp_path / "notes.txt").read_text() == "mine"
