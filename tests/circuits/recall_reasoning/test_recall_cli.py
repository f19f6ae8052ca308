"""`interp recall-reasoning` from the command line: keys, files, refusals, recipes."""

import importlib

import pytest
from conftest import ROOT, tiny
from planted_recall import agreeing_data, planted, planted_data
from test_cli import last_json

from circuits.cli.app import run
from circuits.recall_reasoning import study
from circuits.recall_reasoning.settings import load_recipe

RECIPES = sorted((ROOT / "circuits/recall_reasoning/recipes").glob("*.json"))
OPTIONS = ["--sizes", "1", "--seeds", "0", "--ablations", "resample", "--n-random", "5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The planted model as a folder."""
    model = planted()
    path = tmp_path_factory.mktemp("model") / "planted"
    model.hf.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return str(path)


def test_run_prints_the_verdict_and_writes_a_page(folder, tmp_path, capsys, monkeypatch):
    # the planted model has a world of its own, which no design's data speak of
    module = importlib.import_module("circuits.recall_reasoning.study")
    monkeypatch.setattr(module, "build", lambda m, design, files, n, seed, chat: planted_data(seed))
    out = tmp_path / "run"
    command = ["recall-reasoning", "run", "--model", folder, "--design", "A-C", "--out", str(out)]
    assert run([*command, *OPTIONS, "--json"]) == 0
    found = last_json(capsys.readouterr().out)
    for key in ("model", "cells", "circuits", "single_dissociations", "double_dissociation"):
        assert found[key]
    assert found["double_dissociation"][0]["holds"] is True
    assert found["random_control"][0]["n_random"] == 5
    assert found["verdict"][0].startswith("There is a double dissociation")
    assert "There is a double dissociation" in (out / "index.html").read_text("utf-8")
    assert run([*command, *OPTIONS]) == 0  # read back
    assert "There is a double dissociation" in capsys.readouterr().out
    shown = tmp_path / "shown.html"
    assert run(["show", str(out), "--out", str(shown)]) == 0
    assert shown.read_text("utf-8") == (out / "index.html").read_text("utf-8")


def test_build_writes_the_cells(folder, tmp_path, capsys):
    out = tmp_path / "cells.jsonl"
    command = ["recall-reasoning", "build", "--model", folder, "--design", "puzzles", "--n", "2"]
    # in the planted model's words a puzzle is all unknown, so every pair is refused
    code = run([*command, "--datasets", str(ROOT / "datasets"), "--out", str(out), "--json"])
    assert code == 2 and "can be used with" in capsys.readouterr().err


def test_unknown_design_is_the_users_mistake(folder, tmp_path, capsys):
    command = ["recall-reasoning", "run", "--model", folder, "--design", "A-coflict"]
    assert run([*command, "--out", str(tmp_path / "x")]) == 2
    assert "Did you mean 'A-conflict'" in capsys.readouterr().err
    assert run(["recall-reasoning", "run", "--out", str(tmp_path / "x")]) == 2
    assert "give --model" in capsys.readouterr().err


@pytest.mark.parametrize("design", ["A-ioi", "puzzles"])
def test_prompts_of_other_lengths_are_not_called_matched(design, folder, tmp_path, capsys):
    command = ["recall-reasoning", "replicate", "--model", folder, "--design", design]
    assert run([*command, "--out", str(tmp_path / "x")]) == 2
    assert f"--design {design}: its prompts are not matched in length" in capsys.readouterr().err


def test_recipes_name_the_format_of_their_model():
    for recipe in map(load_recipe, RECIPES):
        assert recipe.dtype == ("bfloat16" if "/" in recipe.model else "float32")


@pytest.mark.parametrize(
    ("name", "family"),
    [("smollm2-135m", "llama"), ("gemma-3-270m", "gemma3"), ("qwen2.5-7b-instruct", "qwen2")],
)
def test_recipes_run_on_a_tiny_model_of_their_architecture(name, family, tmp_path):
    recipe, model = load_recipe(name), tiny(family)
    small = {"design": "A-C", "n_select": 6, "n_validate": 6, "n_test": 12, "n_control": 4}
    small |= {"n_random": 3, "seeds": [0], "sizes": [1, 2], "neurons": [4], "mlps": [1]}
    asked = recipe.settings.but(**small)
    result = study(
        model, asked, tmp_path / "run", data=lambda seed: agreeing_data(model, seed, n=12)
    )
    kinds = set(result.tables["circuits"]["components"])
    assert {"head", "neuron"} <= kinds
    assert set(result.tables["singles"]["ablation"]) == {"resample", "mean", "zero"}
