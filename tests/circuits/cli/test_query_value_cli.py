"""`interp query-value` from the command line, on a real model and on its mistakes."""

import json
from pathlib import Path

import pytest
from test_cli import last_json

from circuits.cli.app import run
from circuits.query_value import QueryValue
from circuits.query_value.questions import load_questions
from interp.errors import DataError

ROWS = [
    {
        "prompt": "The capital of France is",
        "answer": "Paris",
        "label": "capital",
        "spans": {"country": "France"},
    },
    {"prompt": "The capital of Japan is", "answer": "Paris", "spans": {"country": "Japan"}},
]


def write(folder: Path, rows: list[dict[str, object]]) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


def test_find_and_show_on_a_real_model(tmp_path, capsys):
    file, out = write(tmp_path, ROWS), tmp_path / "run"
    options = ["--model", "smollm2-135m", "--prompts", str(file), "--layers", "27,28,29"]
    code = run(["query-value", "find", *options, "--top", "5", "--out", str(out), "--json"])
    found = last_json(capsys.readouterr().out)
    assert code == 0
    assert found["n_prompts"] == 1
    assert found["excluded"][0]["reason"] == "the model says ' Tokyo'"
    result = QueryValue.load(out)
    assert result.layers_searched == (27, 28, 29)
    assert len(result.values) == 10 and set(result.values["layer"]) <= {27, 28, 29}
    assert [one.label for one in result.questions] == ["capital"]
    assert run(["show", str(out), "--json"]) == 0
    shown = last_json(capsys.readouterr().out)
    assert shown["value_neurons"] == found["value_neurons"]
    page = (out / "index.html").read_text()
    assert "Query neurons of prompt 0" in page and "Tokyo" in page
    assert run(["show", str(out), "--prompt", "0"]) == 0
    assert "Prompt 0" in (out / "index.html").read_text()
    assert run(["show", str(out), "--prompt", "7"]) == 2
    assert "no prompt '7'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "holds no prompts"),
        ('{"prompt": "a"}', "questions.jsonl, line 1: 'answer' is missing"),
        ('{"prompt": "a", "answer": "b", "spam": 1}', "line 1: 'spam' is not a field"),
    ],
)
def test_malformed_files_are_refused(lines: str, message: str, tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text(lines)
    with pytest.raises(DataError, match=message):
        load_questions(file)


def test_rows_carry_labels_clusters_and_spans(tmp_path):
    file = write(tmp_path, [{**ROWS[0], "cluster": "France", "id": "x"}])
    row = load_questions(file)[0]
    assert (row.label, row.cluster, row.spans) == ("capital", "France", {"country": "France"})
