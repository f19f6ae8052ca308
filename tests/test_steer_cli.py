"""`interp steer`: the same as in Python, from a file of pairs to a GGUF file."""

import json
from pathlib import Path

import pytest
import torch
from conftest import tiny
from test_cli import refused, report

import interp
from circuits.cli.app import run
from interp import SteeringVector
from interp.errors import PlanError

PAIRS = [(f"w1 w{i} w2", f"w3 w{i} w4 w5") for i in range(5, 12)]


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch):
    model = tiny("llama")
    monkeypatch.setattr(interp, "load_model", lambda name, **options: model)


@pytest.fixture
def vector(tmp_path: Path, capsys) -> Path:
    file, out = tmp_path / "pairs.jsonl", tmp_path / "vector"
    rows = [{"positive": one, "negative": other} for one, other in PAIRS]
    file.write_text("\n".join(map(json.dumps, rows)))
    command = ["steer", "make", "--model", "m", "--pairs", str(file), "--layers", "1-2"]
    said = report(capsys, *command, "--out", str(out))
    assert [row["layer"] for row in said["layers"]] == [1, 2] and said["n_pairs"] == 7
    assert report(capsys, *command, "--out", str(out)) == said
    assert "another" in refused(capsys, *command, "--method", "pca_center", "--out", str(out))
    assert (out / "index.html").is_file()
    return out


def test_text_is_steered_as_in_python(vector: Path, tmp_path: Path, capsys):
    model = tiny("llama")
    made = interp.steering_vector(model, PAIRS, layers=(1, 2))
    assert torch.equal(SteeringVector.load(vector).vectors, made.vectors)
    ask = ["steer", "generate", str(vector), "--model", "m", "--prompt", "w7 w8 w9"]
    ask += ["--max-new-tokens", "6"]
    always = {"positions": "generating"}
    for options, plan in (
        (["--dose", "2", "--layers", "1"], made.plan(2.0, 1, **always)),
        (["--dose", "-3", "--arrive"], (-made).plan(3.0, arrive=True, **always)),
        (
            ["--dose", "0.5", "--norm", "--hold", "2", "--half-life", "1.5"],
            made.plan(0.5, relative="norm", hold=2, half_life=1.5, **always),
        ),
        (["--hold", "sentence"], made.plan(1.0, hold="sentence", **always)),
    ):
        told = report(capsys, *ask, *options)
        for kind, steps in (("plain", ()), ("steered", plan)):
            (text,) = interp.generate(model, ["w7 w8 w9"], steps, 6)
            assert told[kind] == text.text
    file = tmp_path / "made.gguf"
    export = ["steer", "export", str(vector), "--out", str(file), "--layers", "2", "--dose", "0.5"]
    assert run(export) == 0
    assert "wrote" in capsys.readouterr().out
    read = SteeringVector.import_gguf(file)
    assert read.layers == (2,) and torch.equal(read[2], made[2] * 0.5)
    told = report(capsys, "steer", "generate", str(file), *ask[3:], "--dose", "4")
    assert (
        told["steered"] == interp.generate(model, ["w7 w8 w9"], read.plan(4, **always), 6)[0].text
    )


def test_a_vector_of_all_layers_is_exported_without_layer_0_which_is_said(tmp_path: Path, capsys):
    made = interp.steering_vector(tiny("llama"), PAIRS)
    vector, file = str(made.save(tmp_path / "all")), tmp_path / "all.gguf"
    told = report(capsys, "steer", "export", vector, "--out", str(file))
    assert told == {"file": str(file), "layers": [1, 2], "left_out": [0]}
    assert SteeringVector.import_gguf(file).layers == (1, 2)
    assert run(["steer", "export", vector, "--out", str(file)]) == 0
    assert "layer 0 is left out: llama.cpp's format has no place" in capsys.readouterr().out
    one, none = str(made.only(0).save(tmp_path / "one")), tmp_path / "x.gguf"
    for given in ([vector, "--layers", "0-2"], [one]):
        line = refused(capsys, "steer", "export", *given, "--out", str(none))
        assert "no control vector for layer 0; choose others: --layers" in line
    assert not none.exists()


def test_what_cannot_be_done_is_refused(vector: Path, capsys):
    ask = ["steer", "generate", str(vector), "--model", "m", "--prompt", "w7"]
    assert "give a number of tokens, or 'sentence'" in refused(capsys, *ask, "--hold", "line")
    export = ["steer", "export", str(vector), "--out", str(vector.with_name("v.gguf"))]
    assert "hold NaN or infinity" in refused(capsys, *export, "--dose", "nan")
    assert not vector.with_name("v.gguf").exists()
    with pytest.raises(PlanError, match="steers in no layer"):
        SteeringVector.load(vector).plan({})
    assert "no vector for layer 0" in refused(capsys, *ask, "--layers", "0")
