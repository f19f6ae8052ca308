"""`interp attribute`: what it prints and saves, how it resumes, and what it refuses."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import word_pairs
from test_cli import last_json, refused, report

import interp
from circuits.cli.app import run
from interp.attribution.attribute import attribute_to
from interp.attribution.micro_batches import AttributionRun
from interp.attribution.scores import EdgeScores, NodeScores, Scores, UnitScores
from interp.errors import DegenerateGap, InterpWarning

pytestmark = pytest.mark.usefixtures("load_once")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three pairs of three lengths and one row that is refused."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {
            "id": pair.id,
            "clean": pair.clean,
            "corrupt": pair.corrupt,
            "answer": pair.answer,
            "wrong_answer": pair.wrong_answer,
            "spans": {name: [list(r) for r in ranges] for name, ranges in pair.spans.items()},
        }
        for pair in word_pairs()
    ]
    rows.insert(1, {**rows[0], "id": "bad", "answer": rows[0]["wrong_answer"]})
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def test_half_of_the_pairs_with_a_page(tmp_path: Path, llama: str, pairs: str, capsys):
    out = tmp_path / "edges"
    command = ["attribute", "--model", llama, "--pairs", pairs, "--limit", "2"]
    said = report(capsys, *command, "--split-by", "s", "--out", str(out))
    assert (said["run"], said["kind"], said["dims"]) == (str(out), "edge_scores", ["edge"])
    assert (said["method"], said["seed"]) == ("eap-dg", 0)
    assert said["top"][0]["low"] is None  # of one pair
    assert Scores.load(out).source == "pairs.jsonl, discovery"
    assert report(capsys, "show", str(out))["top"] == said["top"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "pairs.jsonl, discovery</h1>" in page
    assert "-&gt;" in page


@pytest.mark.parametrize(
    ("options", "kind", "dims"),
    [
        (["--method", "eap-qk"], EdgeScores, ["edge"]),
        (["--of", "nodes", "--method", "exact"], NodeScores, ["node"]),
        (["--of", "resid_pre", "--method", "eap"], UnitScores, ["layer", "pos"]),
        (["--of", "mlp_post", "--over", "layer,neuron"], UnitScores, ["layer", "neuron"]),
    ],
)
def test_edges_nodes_and_units(
    tmp_path: Path, llama: str, pairs: str, capsys, options: list, kind: type, dims: list
):
    out = tmp_path / "run"
    command = ["attribute", "--model", llama, "--pairs", pairs, *options]
    said = report(capsys, *command, "--out", str(out))
    assert said["dims"] == dims
    assert [row["id"] for row in said["excluded"]] == ["bad"]
    assert isinstance(Scores.load(out), kind)
    assert run(command) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"{kind.__name__}(" in text
    assert "excluded bad: answer and wrong_answer are the same token" in text
    assert run(["show", str(out)]) == 0


def test_a_stopped_run_resumes(
    tmp_path: Path, llama: str, pairs: str, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("interp.attribution.contrast.PAIRS_AT_ONCE", 1)
    out, measured, original = tmp_path / "run", [], AttributionRun._part
    command = ["attribute", "--model", llama, "--pairs", pairs, "--of", "resid_pre", "--json"]
    command += ["--out", str(out)]

    def counted(run, rows, pairs):
        measured.append(pairs[0].pair.id)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return original(run, rows, pairs)

    monkeypatch.setattr(AttributionRun, "_part", counted)
    assert run(command) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"interrupted: 2 of 3 pairs are saved in {out}.partial; run the same command again to go "
        "on."
    )
    for _ in range(2):  # the second time nothing is measured
        assert run(command) == 0
        assert last_json(capsys.readouterr().out)["n_pairs"] == 3
        assert len(measured) == 4
    other = [*command, "--method", "eap"]
    differs = "run holds an attribute run with method='eap-dg' (this one: 'eap')"
    assert differs in refused(capsys, *other)
    assert run([*other, "--force"]) == 0
    assert Scores.load(out).method == "eap (resid_pre)"


def test_shards_are_as_one_run(tmp_path: Path, llama: str, monkeypatch: pytest.MonkeyPatch):
    """The gap and the positions are those of all pairs: the first two alone have no gap."""
    monkeypatch.setattr("interp.attribution.contrast.PAIRS_AT_ONCE", 2)
    model, (first, *others) = interp.load_model(llama), word_pairs()
    turned = dataclasses.replace(first, clean=first.corrupt, corrupt=first.clean, id="turned")
    rows, found = interp.PromptPairs((first, turned, *others), "pairs"), []
    for out in (None, tmp_path / "run"):
        with pytest.warns(InterpWarning, match="have 4 to 8 tokens.*or leave 'pos' out"):
            found.append(attribute_to(model, rows, "resid_pre", out=out))
    at_once, sharded = found
    np.testing.assert_allclose(sharded.values.values, at_once.values.values, atol=1e-5)
    assert (type(sharded), sharded.clean.dims) == (UnitScores, ("pair",))
    for name in ("graph", "method", "metric", "weights_hash", "prompts", "excluded", "warnings"):
        assert getattr(sharded, name) == getattr(at_once, name)
    assert sharded.provenance["options"]["of"] == "resid_pre"
    monkeypatch.setattr("interp.attribution.contrast.PAIRS_AT_ONCE", 1)
    with pytest.raises(DegenerateGap, match=r"\(2 pairs, first"):
        attribute_to(model, rows[:2], "nodes", out=tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--of", "z", "--method", "exact"], "no method 'exact' scores z"),
        (["--metric", "kl"], "unknown metric 'kl'. Available: logit_diff, logprob,"),
        (["--steps", "3"], "cannot take 3 steps"),
        (["--split-by", "subjet"], "no span 'subjet'"),
        (["--pairs", "nowhere.jsonl"], "no such file: nowhere.jsonl"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, llama: str, pairs: str, capsys, options, says):
    out = tmp_path / "run"
    command = ["attribute", "--model", llama, "--pairs", pairs, "--out", str(out), *options]
    assert says in refused(capsys, *command)
    assert not out.exists()
    assert not out.with_name("run.partial").exists()
