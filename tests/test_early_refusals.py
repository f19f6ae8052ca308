"""What can be refused without a model is refused before one is loaded, whichever verb it is."""

import errno
from pathlib import Path
from unittest.mock import Mock

import pytest
from test_cli import refused

import interp

MODEL = ["--model", "no-such-model"]
FACT = ["--prompt", "The capital of {} is", "--subject", "France", "--target", "Rome"]
NONE = "nowhere.jsonl"
EFFECTS = ["emotion", "test", *MODEL, "--discovery", "d", "--out", "e"]
COMPARED = ["emotion", "run", "--recipe", "smollm2-135m", "--out", "e"]
EXPLAINED = ["explain", *MODEL, "--prompt", "a"]
CHOICES = ["emotion", "choices", "v", *MODEL, "--emotions", "joy"]
WRONG = {
    "patch": ["patch", *MODEL, "--pairs", NONE],
    "ablate": ["ablate", *MODEL, "--pairs", NONE],
    "ablate --neutral": ["ablate", *MODEL, "--pairs", "ioi", "--neutral", NONE],
    "ablate --reference": [
        *("ablate", *MODEL, "--pairs", "ioi", "--kind", "mean", "--reference", NONE)
    ],
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
    "circuit stability": ["circuit", "stability", *MODEL, "--pairs", NONE],
    "bench sweep": ["bench", "sweep", *MODEL, "--pairs", NONE],
    "steer make": ["steer", "make", *MODEL, "--pairs", NONE],
    "steer generate": ["steer", "generate", NONE, *MODEL, "--prompt", "Hi"],
    "query-value find": ["query-value", "find", *MODEL, "--prompts", NONE],
    "edit apply --facts": ["edit", "apply", *MODEL, "--ledger", "e", "--facts", NONE],
    "edit apply --kept": ["edit", "apply", *MODEL, "--ledger", "e", *FACT, "--kept", NONE],
    "edit evaluate": ["edit", "evaluate", *MODEL, "--cases", NONE],
    "edit sequence": ["edit", "sequence", *MODEL, "--cases", NONE],
    "edit sequence --neutral": [
        *("edit", "sequence", *MODEL, "--cases", "multihop_chains", "--neutral", NONE)
    ],
    "edit place": ["edit", "place", *MODEL, "--cases", NONE, "--out", "p"],
    "emotion circuit": ["emotion", "circuit", *MODEL, "--events", NONE, "--out", "d"],
    "emotion directions": ["emotion", "directions", *MODEL, "--discovery", "d", "--events", NONE],
    "emotion vectors": ["emotion", "vectors", *MODEL, "--words", NONE, "--out", "v"],
    "emotion vectors --texts": ["emotion", "vectors", *MODEL, "--texts", NONE, "--out", "v"],
    "emotion map": ["emotion", "map", "v", "--norms", NONE],
    "emotion choices": [*CHOICES, "--questions", NONE],
    "emotion tokens": ["emotion", "tokens", "v", *MODEL, "--emotions", "joy", "--chat", NONE],
    "recall-reasoning run": ["recall-reasoning", "run", *MODEL, "--neutral", NONE, "--out", "r"],
    "recall-reasoning replicate": [
        *("recall-reasoning", "replicate", *MODEL, "--published", NONE, "--out", "r")
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


GRAMMAR = {
    "patch --site pattern": (["patch", "--site", "pattern"], "attention pattern cannot be"),
    "patch --over": (["patch", "--over", "layer,posn"], "unknown axis 'posn'. Did you mean 'pos'"),
    "patch, no heads": (["patch", "--over", "layer,head"], "'resid_pre' has no heads"),
    "patch, twice": (["patch", "--over", "pos,pos"], "name each axis once"),
    "attribute --of": (["attribute", "--of", "edge"], "unknown site 'edge'. Did you mean 'edges'"),
    "attribute --over": (
        ["attribute", "--of", "z", "--over", "layer,haed"],
        "unknown axis 'haed'. Did you mean 'head'",
    ),
    "attribute, no neurons": (
        ["attribute", "--of", "z", "--over", "layer,neuron"],
        "cannot attribute to 'z' over ['layer', 'neuron']",
    ),
    "attribute, axes of edges": (["attribute", "--over", "layer"], "edges have no axes"),
    "attribute --method": (["attribute", "--of", "nodes", "--method", "eap-qk"], "scores nodes"),
    "ablate --components": (["ablate", "--components", "a1.h1,x7"], "no component 'x7'"),
}


@pytest.mark.parametrize("case", GRAMMAR)
def test_what_no_model_has_is_told_before_one_is_loaded(
    case: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(interp, "load_model", lambda *a, **k: pytest.fail("a model is loaded"))
    (verb, *options), told = GRAMMAR[case]
    assert told in refused(capsys, verb, *MODEL, "--pairs", "ioi", *options)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["top-tokens", "L1X2", *MODEL], "no component 'L1X2'"),
        (["generate", *MODEL, "--prompt", "a", "--ablate", "a1.q2"], "no component 'a1.q2'"),
        (["edit", "apply", *MODEL, "--ledger", "e", *FACT, "--method", "rom"], "mean 'rome'"),
        (["edit", "evaluate", *MODEL, "--cases", "c", "--methods", "ace,memmit"], "mean 'memit'"),
        ([*EFFECTS, "--n", "0"], "settings: 'n' is 0"),
        ([*EFFECTS, "--strength", "nan"], "settings: 'strength' is nan"),
        ([*EXPLAINED, "--nodes", "10", "--share", "0.5"], "nodes or a share, not both"),
        ([*EXPLAINED, "--edges", "2"], "edges=2.0 is not a share of in-flow"),
        ([*EXPLAINED, "--share", "0"], "share=0.0 is not a share of attributions"),
        ([*CHOICES, "--n-random", "5"], "5 random directions and dose 0.1: give 10 directions"),
        ([*CHOICES, "--dose", "nan"], "dose nan: give 10 directions or more, and a positive dose"),
        (["emotion", "circuit", *MODEL, "--out", "d", "--styles", ","], "settings: 'styles' "),
        (
            ["emotion", "circuit", *MODEL, "--out", "d", "--paper", " "],
            "settings: 'styles[0]' is ' '",
        ),
        (["emotion", "elicit", *MODEL, "--judge-model", "", "--out", "e"], "'judge_model' is ''"),
        ([*COMPARED, "--judge-model", ""], "'judge_model' is ''"),
    ],
)
def test_other_options_are_told_before_a_model_is_loaded(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(interp, "load_model", lambda *a, **k: pytest.fail("a model is loaded"))
    assert told in refused(capsys, *arguments)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 245, "x/" * 5000])
def test_a_folder_of_too_long_a_name_is_told_in_a_sentence(name: str, capsys):
    line = refused(capsys, "patch", *MODEL, "--pairs", NONE, "--out", name)
    assert "--out 'x" in line and "longer than 240 bytes" in line or "name too long" in line
    assert line.startswith("error: ") and len(line) < 160


def test_any_path_of_too_long_a_name_is_told_in_a_sentence(capsys):
    for arguments in (
        ["circuit", "discover", "--scores", "y" * 300, "--size", "9", "--out", "c.json"],
        ["show", "y" * 300],
        ["edit", "place", *MODEL, "--cases", NONE, "--out", "y" * 300],
        ["recall-reasoning", "run", *MODEL, "--out", "y" * 300],
    ):
        line = refused(capsys, *arguments)
        assert "yyy...yyy" in line and len(line) < 160


def test_a_path_that_may_not_be_read_is_told_in_a_sentence(capsys, monkeypatch):
    error = PermissionError(errno.EACCES, "Permission denied", "locked")
    monkeypatch.setattr(Path, "is_dir", Mock(side_effect=error))
    assert refused(capsys, "show", "locked") == "error: 'locked': Permission denied"


@pytest.mark.parametrize("verb", ["patch", "ablate", "attribute"])
def test_a_folder_of_something_else_is_told_before_data_is_read(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        line = refused(capsys, verb, *MODEL, "--pairs", NONE, "--out", str(out))
        assert f"{out} exists and is not a run folder" in line
    assert (tmp_path / "notes.txt").read_text() == "mine"
