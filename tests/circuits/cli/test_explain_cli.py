"""`interp explain`: options become those of `explain`; graphs leave as files and come back."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import tiny, word_pairs
from graph_samples import hand_made
from test_cli import last_json, refused

import interp
from circuits.cli.app import run
from circuits.explanation import AttributionGraph, explain, named

PROMPT = ["--model", "tiny", "--prompt", "w1 w2 w3", "--target", "w20"]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> interp.Model:
    model = tiny("llama")
    monkeypatch.setattr(interp, "load_model", lambda name, **options: model)
    return model


def same(a: AttributionGraph, b: AttributionGraph) -> None:
    pd.testing.assert_frame_equal(a.nodes, b.nodes)
    pd.testing.assert_frame_equal(a.edges, b.edges)


def test_a_prompt_is_explained_into_a_run_folder(loaded: interp.Model, tmp_path: Path, capsys):
    out = tmp_path / "run"
    options = ["--corrupt", "w1 w9 w3", "--against", "w21", "--nodes", "12", "--names"]
    assert run(["explain", *PROMPT, *options, "--out", str(out), "--json"]) == 0
    record = last_json(capsys.readouterr().out)
    want = explain(loaded, "w1 w2 w3", ("w20", "w21"), "w1 w9 w3", nodes=12)
    stored = AttributionGraph.load(out)
    same(stored, named(loaded, want))
    assert record["run"] == str(out) and record["n_nodes"] == 12
    assert (out / "index.html").is_file() and not (out / "plotly.min.js").exists()
    assert run(["explain", *PROMPT, *options, "--out", str(out)]) == 0  # loaded
    assert "strongest nodes" in capsys.readouterr().out
    checked = tmp_path / "checked"
    assert run(["explain", "check", str(out), "--random", "2", "--out", str(checked)]) == 0
    same(AttributionGraph.load(checked), stored)
    assert "ablation" in set(AttributionGraph.load(checked).checks["check"])
    assert "predicted and actual" in capsys.readouterr().out
    line = refused(capsys, "explain", *PROMPT, "--nodes", "13", "--out", str(out))
    assert "nodes" in line


def test_a_prompt_without_its_option_is_shown_how_it_is_given(capsys):
    for given in (["The capital of France is"], ["--model", "tiny", "The capital of France is"]):
        says = "is no command of `interp explain`; a prompt is given by its option: interp explain"
        line = refused(capsys, "explain", *given)
        assert f"{says} --model NAME --prompt 'The capital of France is'" in line
    assert "--prompt Paris" in refused(capsys, "explain", "Paris")
    assert run(["explain", "chekc", "runs/france"]) == 2
    assert "Did you mean 'check'" in capsys.readouterr().err


def test_a_pair_is_chosen_by_its_id(loaded: interp.Model, tmp_path: Path, capsys):
    file = tmp_path / "pairs.jsonl"
    fields = ("id", "clean", "corrupt", "answer", "wrong_answer")
    rows = [{f: getattr(pair, f) for f in fields} for pair in word_pairs()]
    file.write_text("\n".join(json.dumps(row | {"id": f"p{i}"}) for i, row in enumerate(rows)))
    options = ["explain", "--model", "tiny", "--pairs", str(file), "--nodes", "5", "--json"]
    assert run([*options, "--row", "p1", "--groups", "2"]) == 0
    pair = list(interp.load_pairs(str(file)))[1]
    found = last_json(capsys.readouterr().out)
    assert found["value"] == pytest.approx(explain(loaded, pair, nodes=5).value)
    assert "no pair 'p9'" in refused(capsys, *options, "--row", "p9")


def test_options_that_exclude_each_other_are_refused(capsys):
    model = ["explain", "--model", "tiny"]
    assert "either --prompt or --pairs" in refused(capsys, *model)
    assert "either --prompt or --pairs" in refused(capsys, "explain", "--prompt", "w1")
    assert "--top replaces" in refused(capsys, "explain", *PROMPT, "--top", "3")
    assert "is subtracted" in refused(capsys, *model, "--prompt", "w1", "--against", "w2")
    pairs = [*model, "--pairs", "x.jsonl", "--corrupt", "w1"]
    assert "corrupt prompts of their own" in refused(capsys, *pairs)
    assert "--row chooses one of --pairs" in refused(capsys, "explain", *PROMPT, "--row", "p1")


def test_a_graph_leaves_as_a_file_and_comes_back(tmp_path: Path, capsys):
    graph, folder = hand_made(), tmp_path / "run"
    graph.save(folder)
    file, page = tmp_path / "graph.json", tmp_path / "graph.html"
    assert run(["explain", "export", str(folder), "--out", str(file), "--json"]) == 0
    assert last_json(capsys.readouterr().out)["n_nodes"] == len(graph.nodes)
    assert run(["explain", "export", str(folder), "--out", str(page), "--format", "html"]) == 0
    assert "interp-graph" in page.read_text("utf-8")
    again = tmp_path / "again"
    assert run(["explain", "import", str(file), "--out", str(again)]) == 0
    same(AttributionGraph.load(again), graph)
    capsys.readouterr()
    assert "is a folder" in refused(
        capsys, "explain", "export", str(folder), "--out", str(tmp_path)
    )
    file.write_text("{}")
    assert "'metadata' is missing" in refused(capsys, "explain", "import", str(file), "--out", "x")
    assert not (tmp_path / "x").exists()
