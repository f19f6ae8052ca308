"""Whole answers, first tokens and metrics of one's own on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import last_json, refused
from whole_answers import RECORDS

import interp
from circuits.cli.app import run

METRIC = "def gap(log_p):\n    return log_p[:, 0] - log_p[:, 1]\n"


@pytest.fixture
def given(tmp_path: Path, llama: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, RECORDS)))
    (tmp_path / "mine.py").write_text(
        "import interp\n\n\n"
        f"@interp.metric(name='answer gap', unit='nats', reads='answers')\n{METRIC}"
    )
    monkeypatch.chdir(tmp_path)
    return ["--model", llama, "--pairs", str(file), "--device", "cpu", "--json"]


def test_patch(given: list[str], capsys: pytest.CaptureFixture, tmp_path: Path):
    site = ["--site", "z", "--over", "layer,head"]
    assert run(["patch", *given, *site, "--out", "whole"]) == 0
    whole = last_json(capsys.readouterr().out)
    assert (whole["n_pairs"], whole["answers"]) == (4, "whole (1 to 6 tokens)")
    assert run(["patch", *given, *site, "--metric", "mine:gap"]) == 0
    mine = last_json(capsys.readouterr().out)
    assert mine["metric"] == "answer gap"
    assert mine["clean_metric"] == pytest.approx(whole["clean_metric"], abs=1e-4)
    assert run(["patch", *given, *site, "--answers", "first"]) == 0
    first = last_json(capsys.readouterr().out)
    assert (first["n_pairs"], first["answers"]) == (3, "first token of each")
    refusal = refused(capsys, "patch", *given, *site, "--answers", "first", "--out", "whole")
    assert "answers" in refusal
    text = interp.PatchResult.load(tmp_path / "whole").report()
    assert "answers: whole (1 to 6 tokens)" in " ".join(text.method)


def test_ablate(given: list[str], capsys: pytest.CaptureFixture):
    options = ["--components", "a1.h2", "--random", "0"]
    assert run(["ablate", *given, *options, "--readouts", "logit_diff,accuracy,mine:gap"]) == 0
    found = last_json(capsys.readouterr().out)
    base = found["baseline"]
    assert base["answer gap"] == pytest.approx(base["logit_diff"], abs=1e-4)
    assert 0 <= base["accuracy"] <= 1
    assert found["answers"] == "whole (1 to 6 tokens)"
    assert np.isfinite(found["top"]["answer gap"][0]["effect"])


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("mine:nothing", "error: cannot load the metric 'mine:nothing'"),
        ("logitdif", "error: unknown metric 'logitdif'. Did you mean 'logit_diff'?"),
    ],
)
def test_metrics_that_are_not_there(
    given: list[str], metric: str, says: str, capsys: pytest.CaptureFixture
):
    assert refused(capsys, "patch", *given, "--metric", metric).startswith(says)
