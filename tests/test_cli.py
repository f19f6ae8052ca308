"""The command line: what it prints, where, and which exit code it leaves."""

import importlib
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from conftest import ROOT, saved, tiny_hf

import interp
from circuits.cli.app import main, run
from interp.model.model import Model
from interp.patching.result import PatchResult

pytestmark = pytest.mark.usefixtures("load_once")
SWEEPS = importlib.import_module("interp.patching.patch")  # whose name is also a function's

CAPITALS = str(ROOT / "datasets" / "country_capitals.jsonl")
ROW = {
    "clean": "w1 w2 w3",
    "corrupt": "w4 w2 w3",
    "answer": "w5",
    "wrong_answer": "w6",
    "subject": ["w1", "w4"],
}


def write(folder: Path, *rows: dict | str) -> str:
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return str(file)


def last_json(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


def report(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    """Run what must work, and return its one line of JSON."""
    assert run([*arguments, "--json"]) == 0
    text, messages = capsys.readouterr()
    assert len(text.splitlines()) == 1
    assert "Traceback" not in messages
    return json.loads(text)


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """Run what must be refused, and return the one line that says why."""
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert err.splitlines()[-1] == errors[0]
    assert "Traceback" not in err
    assert out == ""
    return errors[0]


# --- what works --------------------------------------------------------------------------------


def test_models_are_listed(capsys: pytest.CaptureFixture):
    assert run(["models", "--json"]) == 0
    listed = last_json(capsys.readouterr().out)
    names = {model["name"]: model for model in listed["models"]}
    assert set(names) >= {"smollm2-135m", "gemma-3-270m"}
    assert names["smollm2-135m"]["license"] == "Apache-2.0"
    assert listed["cache"]
    for command in (["models"], ["models", "list"]):
        assert run(command) == 0
        assert "smollm2-135m" in capsys.readouterr().out
    assert run(["models", "list", "--json"]) == 0
    assert last_json(capsys.readouterr().out) == listed


def test_a_sweep_of_real_weights_from_pairs_to_page(
    tmp_path: Path, smollm: Model, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(interp, "load_model", lambda name, **options: {smollm.name: smollm}[name])
    out = tmp_path / "runs" / "first"
    # fmt: off
    arguments = ["patch", "--model", "smollm2-135m", "--pairs", CAPITALS, "--layers", "14-15,29",
                 "--limit", "2", "--device", "cpu", "--out", str(out)]
    # fmt: on
    said = report(capsys, *arguments)
    assert said["run"] == str(out)
    assert said["model"] == "smollm2-135m"
    assert (said["site"], said["metric"]) == ("resid_pre", "logit_diff")
    assert (said["dims"], said["n_pairs"], said["excluded"]) == (["layer", "pos"], 2, [])
    assert said["clean_metric"] > 1 > -1 > said["corrupt_metric"]
    assert said["seconds"] > 0
    assert len(said["top"]) == 10
    assert set(said["top"][0]) == {
        "layer", "pos", "token", "effect", "low", "high", "normalised"
    }  # fmt: skip
    strongest = [(cell["layer"], cell["pos"]) for cell in said["top"][:4]]
    assert (29, PatchResult.load(out).values.sizes["pos"] - 1) in strongest

    monkeypatch.setattr(SWEEPS, "run_sweep", lambda *a: pytest.fail("measured again"))
    assert report(capsys, *arguments) == said
    assert run([*arguments, "--site", "z", "--over", "layer,head"]) == 2
    assert "first holds a patch run with site=" in capsys.readouterr().err

    shown = report(capsys, "show", str(out))
    assert shown["page"] == str(out / "index.html")
    assert shown["top"] == said["top"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "plotly.js v" in (out / "plotly.min.js").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=\s*[\"']?https?:", page)
    assert "<h1>resid_pre on smollm2-135m, country_capitals.jsonl</h1>" in page
    assert "logit_diff" in page
    elsewhere = tmp_path / "site" / "page.html"
    assert run(["show", str(out), "--out", str(elsewhere)]) == 0
    assert elsewhere.is_file()


def test_a_sweep_without_a_folder_prints_a_table(
    tmp_path: Path, llama: str, capsys: pytest.CaptureFixture
):
    bad = ROW | {"answer": ROW["wrong_answer"]}
    command = ["patch", "--model", llama, "--pairs", write(tmp_path, ROW, bad), "--site", "z"]
    assert run([*command, "--over", "layer,head", "--direction", "noise"]) == 0
    text = capsys.readouterr().out
    assert "1 pairs of pairs.jsonl (1 excluded), noise" in " ".join(text.split())
    assert "strongest cells" in text
    assert "excluded 2: answer and wrong_answer are the same token" in " ".join(text.split())
    said = report(capsys, *command, "--over", "layer", "--at", "subject")
    assert said["run"] is None
    assert said["excluded"][0]["where"] == "pairs.jsonl, row 2"
    # one pair has an infinite interval, which JSON cannot say
    assert said["top"][0]["low"] is None
    assert not list(tmp_path.glob("*.partial"))


def test_tokens_that_look_like_markup_are_printed(
    tmp_path: Path, llama: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Model, "token", lambda self, token_id: "[/INST]")
    assert run(["patch", "--model", llama, "--pairs", write(tmp_path, ROW)]) == 0
    assert "[/INST]" in capsys.readouterr().out


def test_validate_says_what_holds(llama: str, capsys: pytest.CaptureFixture):
    said = report(capsys, "validate", llama)
    assert said["holds"] is True
    assert all(check["holds"] for check in said["checks"])


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in ("patch", "show", "validate", "models", "bench"))


def test_a_process_that_is_asked_to_end_says_so(llama: str, tmp_path: Path, capsys, monkeypatch):
    def ended(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(SWEEPS, "run_sweep", ended)
    before = signal.getsignal(signal.SIGTERM)
    command = ["patch", "--model", llama, "--pairs", write(tmp_path, ROW), "--site", "z"]
    try:
        with pytest.raises(SystemExit) as done:
            main([*command, "--over", "layer,head", "--out", str(tmp_path / "run")])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"  # nothing was finished
    assert not list(tmp_path.glob("run*"))


# --- what is refused ---------------------------------------------------------------------------

BAD_OPTIONS = [
    (["--site", "resid_per"], "Did you mean 'resid_pre'"),
    (["--layers", "99"], "layer 99 is out of range"),
    (["--layers", "x"], "--layers 'x': write numbers"),
    (["--direction", "back"], "unknown direction 'back'"),
    (["--dtype", "float33"], "unknown dtype 'float33'. Did you mean 'float32'"),
]


@pytest.mark.parametrize(("options", "says"), BAD_OPTIONS)
def test_bad_options_are_named(
    tmp_path: Path, llama: str, capsys: pytest.CaptureFixture, options: list, says: str
):
    out = tmp_path / "run"
    pairs = write(tmp_path, ROW)
    command = ["patch", "--model", llama, "--pairs", pairs, "--out", str(out), *options]
    assert says in refused(capsys, *command)
    assert not out.exists()


def test_prompts_that_score_alike_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    hf = tiny_hf("llama")
    with torch.no_grad():
        hf.get_output_embeddings().weight.zero_()
    dead, pairs = saved(tmp_path / "dead", hf), write(tmp_path, ROW)
    for options in ([], ["--out", str(tmp_path / "run")]):
        line = refused(capsys, "patch", "--model", dead, "--pairs", pairs, *options)
        assert "degenerate clean/corrupt gap: mean logit_diff is 0 on clean and 0 on" in line
    assert not (tmp_path / "run").exists()


def test_an_unknown_model_gets_a_suggestion(capsys: pytest.CaptureFixture):
    line = refused(capsys, "patch", "--model", "smollm2-135", "--pairs", CAPITALS)
    assert "unknown model 'smollm2-135'" in line
    assert "Did you mean 'smollm2-135m'" in line
    line = refused(capsys, "models", "pull", "smollm")
    assert "smollm2-135m" in line


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert f"cannot load '{tmp_path}'" in refused(capsys, "validate", str(tmp_path))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert "manifest.json is missing" in refused(capsys, "show", str(tmp_path))
    assert "no run folder at" in refused(capsys, "show", str(tmp_path / "none"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["patch", "--bogus"],
        ["patch", "--model", "smollm2-135m"],
        ["patch", "--model", "x", "--pairs", "y", "--limit", "0"],
        ["patch", "--model", "x", "--pairs", "y", "--seed", "z"],
        ["ablate", "--model", "x", "--pairs", "y", "--random", "-1"],
        ["bogus"],
        ["show"],
    ],
)
def test_a_bad_command_line_exits_2(arguments: list[str], capsys: pytest.CaptureFixture):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.strip()


def test_bytes_that_are_no_text_are_refused(llama: str, capsys: pytest.CaptureFixture):
    line = refused(capsys, "lens", "--model", llama, "--prompt", "w1 \udcff")
    assert "'w1 \\udcff' is not a text" in line


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt, 130, ""),
        (RuntimeError("boom"), 1, "RuntimeError: boom\nthis is a bug in interp"),
        (BrokenPipeError, 0, ""),
    ],
)
def test_other_ends_have_their_own_code(
    error: BaseException,
    code: int,
    says: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(interp, "load_model", fail)
    assert run(["patch", "--model", "smollm2-135m", "--pairs", CAPITALS]) == code
    err = capsys.readouterr().err
    assert says in err
    assert ("Traceback" in err) == (code == 1)
