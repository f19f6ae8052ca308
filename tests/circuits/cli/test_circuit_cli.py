"""`interp circuit`: discover, evaluate, compare, show, export, score-methods; what is refused."""

import functools
import html
import json
import re
import sys
from pathlib import Path

import pytest
from conftest import tiny_hf
from stability_examples import template_rows
from test_cli import CAPITALS, last_json, refused, saved

import interp
from circuits.cli.app import run
from circuits.discovery import GRID, Circuit, Evaluator, edge_pruning, search, top_edges
from interp.attribution.micro_batches import AttributionRun
from interp.attribution.scores import Scores
from interp.model.model import Model

N_EDGES = 262  # of the tiny model: 3 layers of 4 heads


def rows(first: int) -> list[dict]:
    """Pairs about eight subjects of their own."""
    return [
        {
            "clean": f"w{first + i} w1 w2 w{i}",
            "corrupt": f"w{first + (i + 1) % 8} w1 w2 w{i}",
            "answer": "w80",
            "wrong_answer": "w81",
            "subject": [f"w{first + i}", f"w{first + (i + 1) % 8}"],
        }
        for i in range(8)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models, two files of pairs that share no prompt, and scores of the first."""
    folder = tmp_path_factory.mktemp("circuits")
    saved(folder / "llama", tiny_hf("llama"))
    saved(folder / "gpt2", tiny_hf("gpt2"))
    for name, first in (("discovery", 20), ("test", 40)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows(first))))
    return folder


@pytest.fixture(scope="module", autouse=True)
def load_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interp, "load_model", functools.cache(interp.load_model))
        yield


@pytest.fixture(scope="module")
def scores(folder: Path) -> str:
    out = folder / "scores"
    assert run(["attribute", *on(folder, "discovery"), "--out", str(out)]) == 0
    return str(out)


@pytest.fixture(scope="module")
def circuit(folder: Path, scores: str) -> str:
    out = folder / "circuit.json"
    command = ["circuit", "discover", "--scores", scores, "--size", "60", "--out", str(out)]
    assert run(command) == 0
    return str(out)


def on(folder: Path, pairs: str, model: str = "llama") -> list[str]:
    return ["--model", str(folder / model), "--pairs", str(folder / f"{pairs}.jsonl")]


def said(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    """Run a verb with --json, and return what it printed."""
    capsys.readouterr()
    assert run(["circuit", *arguments, "--json"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) == 1
    return last_json(text)


def shown(capsys: pytest.CaptureFixture, out: Path) -> str:
    """What `interp show` makes of a run folder."""
    (out / "index.html").unlink(missing_ok=True)
    assert run(["show", str(out)]) == 0
    capsys.readouterr()
    return (out / "index.html").read_text(encoding="utf-8")


# --- discover ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "method"),
    [
        (["--select", "top", "--size", "40"], "eap-dg, top 40"),
        (["--select", "greedy", "--size", "0.1", "--signed"], "eap-dg, greedy 26"),
        (["--select", "threshold", "--threshold", "0.05"], "eap-dg, score >= 0.05"),
        (["--select", "nodes", "--size", "6", "--method", "exact"], "exact, top 6 nodes"),
        (["--select", "nodes", "--size", "1.0"], "eap-dg, top 15 nodes"),
        (["--select", "neurons", "--size", "20"], "eap-dg (mlp_post), top 20 neurons"),
        (["--select", "acdc", "--threshold", "0.001", "--size", "60"], "ACDC, threshold 0.001"),
        (["--select", "edge-pruning", "--size", "0.2"], "edge pruning, 80.2% cut, 5 steps"),
    ],
)
def test_circuits_are_discovered(
    folder: Path, tmp_path: Path, capsys, monkeypatch, options: list, method: str
):
    monkeypatch.setattr(search, "edge_pruning", functools.partial(edge_pruning, steps=5))
    out = tmp_path / "c.json"
    command = ["discover", *on(folder, "discovery"), *options, "--limit", "4", "--out", str(out)]
    report = said(capsys, *command)
    assert report["file"] == str(out)
    assert report["method"] == method
    found = Circuit.load(out)
    assert 0 < report["n_edges"] == found.n_edges <= report["of_edges"] == N_EDGES
    assert report["nodes"] == list(found.nodes)
    assert len(found.prompts) == report["n_prompts"] == 8
    assert (report["n_neurons"] == 20) == ("neurons" in options)


def test_a_folder_keeps_the_scores_and_resumes(folder: Path, tmp_path: Path, capsys, monkeypatch):
    out = tmp_path / "found"
    command = ["discover", *on(folder, "discovery"), "--size", "40", "--out", str(out)]
    first = said(capsys, *command)
    assert first["file"] == str(out / "circuit.json")
    assert f"{first['n_edges']} of {N_EDGES} edges" in shown(capsys, out)
    monkeypatch.setattr(AttributionRun, "_part", lambda *a, **o: pytest.fail("measured again"))
    assert said(capsys, *command) == first
    again = [*command[-4:-1], str(tmp_path / "again")]
    assert said(capsys, "discover", "--scores", str(out / "scores"), *again)["top"] == first["top"]
    assert run(["circuit", *command]) == 0
    assert "strongest edges" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--select", "best"], "unknown select 'best'"),
        (["--select", "edge-pruning"], "--select edge-pruning needs --size"),
        (["--limit", "1"], "discovery.jsonl, size: a size needs 2 held-out pairs; give more, or"),
        (["--split-by", "noun"], "no span 'noun'. Available: subject; give it in each row"),
        ([], "no circuit of 50 % of the components or fewer is faithful (0.9 <= f <= 1.1) on the"),
        (["--select", "acdc"], "--select acdc needs --threshold"),
        (["--select", "top", "--size", "40", "--threshold", "1"], "no use for --threshold"),
        (["--select", "threshold", "--size", "4", "--threshold", "1"], "no use for --size"),
        (["--size", "2.5"], "--size '2.5': write a number of components"),
        (["--size", "²"], "--size '²': write a number of components"),
        (["--select", "acdc", "--threshold", "1", "--method", "eap"], "no use for --method"),
        (["--size", "40", "--seed", "1"], "no use for --seed"),
        (["--size", "many"], "--size 'many': write a number of components"),
        (["--size", "0"], "--size '0': write a number of components, 1 or more"),
        (["--size", "0.001"], "--size 0.001 of 262 components is none"),
        (["--select", "threshold", "--threshold", "1e6"], "keeps no path from the input"),
        (["--size", "999"], "cannot take 999 components: there are 262"),
        (["--size", "9", "--method", "eap-gd"], "unknown method 'eap-gd'. Did you mean"),
        (["--select", "acdc", "--threshold", "-1"], "ACDC's threshold is -1.0"),
    ],
)
def test_bad_requests_are_named(folder: Path, tmp_path: Path, capsys, options: list, says: str):
    out = tmp_path / "c.json"
    command = ["circuit", "discover", *on(folder, "discovery"), *options, "--out", str(out)]
    assert says in refused(capsys, *command)
    assert not out.exists()


@pytest.mark.parametrize("split", [[], ["--split-by", "subject"]])
@pytest.mark.parametrize("signed", [[], ["--signed"]])
def test_without_a_size_the_smallest_faithful_one_is_chosen_on_held_out_pairs(
    folder: Path, tmp_path: Path, capsys, monkeypatch, split: list, signed: list
):
    many = tmp_path / "many.jsonl"
    many.write_text("\n".join(json.dumps(row) for n in (20, 50) for row in rows(n)))
    monkeypatch.setattr(search, "FAITHFUL", 2.0)
    pairs = ["--model", str(folder / "llama"), "--pairs", str(many), *split]
    command = ["discover", *pairs, *signed, "--out", str(tmp_path / "c")]
    found = said(capsys, *command)
    choice, circuit = found["choice"], Circuit.load(tmp_path / "c")
    assert circuit.choice == choice
    assert choice["criterion"] == ("f >= -1" if signed else "-1 <= f <= 3")
    scored = Scores.load(tmp_path / "c" / "scores")
    held = set(circuit.prompts) - set(scored.prompts)
    assert len(held) == 2 * choice["n_pairs"] and scored.n_pairs + choice["n_pairs"] <= 16
    assert min(scored.n_pairs, choice["n_pairs"]) >= (2 if split else 8)
    # the smallest, by hand, on the pairs that the scores have not seen
    own = [row for n in (20, 50) for row in rows(n) if {row["clean"], row["corrupt"]} <= held]
    test = Evaluator.of(interp.load_model(str(folder / "llama")), interp.load_pairs(own))
    sizes = [int(k * N_EDGES) for k in GRID[:-1] if int(k * N_EDGES)]
    drawn = [top_edges(scored, n, not signed) for n in sizes]
    f = [test.faithfulness(test.metric_of(one)) for one in drawn]
    off = [1 - x if signed else abs(1 - x) for x in f]
    at = next(i for i, one in enumerate(drawn) if one.n_edges and off[i] <= 2)
    assert (choice["components"], choice["f"]["value"]) == (sizes[at], pytest.approx(f[at], 1e-3))
    assert [row["f"] for row in choice["tried"]] == pytest.approx(f[: at + 1], 1e-3, 1e-3)
    assert circuit.edge_names == drawn[at].edge_names
    damaged = json.loads((tmp_path / "c" / "circuit.json").read_text())
    damaged["interp"]["choice"].pop("f")
    (tmp_path / "bad.json").write_text(json.dumps(damaged))
    assert "bad.json: 'interp.choice" in refused(
        capsys, "circuit", "show", str(tmp_path / "bad.json")
    )
    line = f"the smallest size tried with {choice['criterion']} on {choice['n_pairs']} held-out"
    assert line in html.unescape(shown(capsys, tmp_path / "c"))
    assert run(["circuit", *command]) == 0
    assert line in " ".join(capsys.readouterr().out.split())
    seen = tmp_path / "seen.jsonl"
    seen.write_text(json.dumps(own[0]))
    evaluated = ["evaluate", str(tmp_path / "c"), *pairs[:2], "--pairs", str(seen)]
    assert "of the test prompts were seen in discovery" in refused(capsys, "circuit", *evaluated)
    if split:  # the test half is left for this
        assert said(capsys, "evaluate", str(tmp_path / "c"), *pairs, "--random", "0")["n_pairs"]


def test_a_metric_of_the_current_folder_is_found(folder: Path, tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "gaps.py").write_text(
        "def gap(logits, answers):\n"
        "    right, wrong = logits.gather(1, answers).T\n"
        "    return 2 * (right - wrong)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    command = [*on(folder, "discovery"), "--limit", "4", "--size", "40", "--out"]
    found = said(capsys, "discover", *command, "own.json", "--metric", "gaps:gap")
    other = said(capsys, "discover", *command, "built-in.json")
    assert [row["edge"] for row in found["top"]] == [row["edge"] for row in other["top"]]
    assert found["top"][0]["score"] == pytest.approx(2 * other["top"][0]["score"])
    for verb in (["discover", "--size", "9", "--out", "c"], ["stability"]):
        line = refused(capsys, "circuit", *verb, *on(folder, "discovery"), "--metric", "logit_dif")
        assert "unknown metric 'logit_dif'. Did you mean 'logit_diff'" in line


def test_other_runs_are_not_written_into(folder: Path, scores: str, tmp_path: Path, capsys):
    command = ["circuit", "discover", *on(folder, "discovery"), "--size", "9", "--out"]
    line = refused(capsys, *command, scores)
    assert "scores holds an attribute run, not a circuit discover run; choose another" in line
    assert not (Path(scores) / "circuit.json").exists()
    (tmp_path / "notes").write_text("mine")
    assert "is a file; name FILE.json" in refused(capsys, *command, str(tmp_path / "notes"))
    assert (tmp_path / "notes").read_text() == "mine"
    other = tmp_path / "other.json"
    other.write_text("mine")
    replaced = ["circuit", "discover", "--scores", scores, "--size", "60", "--out", str(other)]
    assert "other.json exists; name another file, or pass --force" in refused(capsys, *replaced)
    assert other.read_text() == "mine"
    assert run([*replaced, "--force"]) == 0
    assert Circuit.load(other).n_edges > 0


def test_scores_replace_model_and_pairs(folder: Path, scores: str, tmp_path: Path, capsys):
    command = ["circuit", "discover", "--out", str(tmp_path / "c.json"), "--size", "9"]
    assert "nothing to discover from" in refused(capsys, *command)
    for unused in (
        ["--limit", "4"], ["--method", "eap"], ["--split-seed", "1"], ["--dtype", "bfloat16"],
        ["--device", "cpu"], ["--quantization", "8bit"],
    ):  # fmt: skip
        line = refused(capsys, *command, "--scores", scores, *unused)
        assert "--scores replaces --model and how it is loaded, --pairs" in line
    both = refused(capsys, *command, *on(folder, "discovery"), "--scores", scores)
    assert "--scores replaces --model" in both
    line = refused(capsys, *command[:-2], "--scores", scores)
    assert "scores cannot choose a size, which needs pairs" in line
    nodes = refused(capsys, *command, "--scores", scores, "--select", "nodes")
    assert "holds edge scores, and --select nodes needs scores of nodes" in nodes
    assert "no run folder at" in refused(capsys, *command, "--scores", str(tmp_path / "none"))


# --- evaluate ----------------------------------------------------------------------------------


def test_a_circuit_is_evaluated_beside_random_ones(
    folder: Path, circuit: str, tmp_path: Path, capsys
):
    out = tmp_path / "run"
    command = ["evaluate", circuit, *on(folder, "test"), "--random", "4", "--out", str(out)]
    report = said(capsys, *command)
    assert (report["kind"], report["run"], report["ablation"]) == ("circuit", str(out), "resample")
    assert (report["n_pairs"], report["n_edges"]) == (8, Circuit.load(circuit).n_edges)
    f = report["faithfulness"]
    assert f["low"] <= f["value"] <= f["high"]
    expected = (report["circuit_metric"] - report["empty"]) / (report["full"] - report["empty"])
    assert f["value"] == pytest.approx(expected)
    assert set(report["random"]) == {"edges", "heads"}
    for drawn in report["random"].values():
        assert drawn["n"] == 4
        assert 0.2 <= drawn["p"] <= 1
        assert drawn["mean"] <= drawn["max"]
    assert (out / "pairs.parquet").is_file()
    assert said(capsys, *command) == report
    page = Path(report["page"]).read_text(encoding="utf-8")
    assert f"{f['low']:.3f} to {f['high']:.3f}" in page
    assert shown(capsys, out) == page
    other = ["circuit", *command, "--ablation", "zero", "--random", "2"]
    line = refused(capsys, *other)
    assert "ablation='resample' (this one: 'zero') and n_random=4 (this one: 2)" in line
    assert run([*other, "--force"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "all edges cut (zero)" in text
    assert "random heads" in text


def test_scores_are_evaluated_at_every_size(folder: Path, scores: str, tmp_path: Path, capsys):
    out = tmp_path / "run"
    command = ["evaluate", scores, *on(folder, "test"), "--ablation", "mean", "--out", str(out)]
    report = said(capsys, *command)
    assert (report["kind"], report["ablation"]) == ("scores", "mean")
    for area in ("CPR", "CMD", "log_CPR", "log_CMD"):
        assert report[area]["low"] <= report[area]["value"] <= report[area]["high"]
    assert [row["k"] for row in report["curve"]][-1] == 1
    assert [row["f"] for row in report["curve"]][-1] == pytest.approx(1)
    page = Path(report["page"]).read_text(encoding="utf-8")
    assert report["page"] == str(out / "index.html")
    assert "log CMD" in page
    assert shown(capsys, out) == page
    assert run(["circuit", *command[:-2]]) == 0
    assert "f at every size, mean" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_evaluated_is_refused(
    folder: Path, circuit: str, scores: str, tmp_path: Path, capsys
):
    evaluate = ["circuit", "evaluate"]
    for seen in (circuit, scores):
        line = refused(capsys, *evaluate, seen, *on(folder, "discovery"))
        assert "of the test prompts were seen in discovery" in line
        assert "split by entity first" in line
    other = refused(capsys, *evaluate, circuit, *on(folder, "test"), "--ablation", "noise")
    assert "unknown ablation 'noise'" in other
    assert "no such file" in refused(capsys, *evaluate, "none.json", *on(folder, "test"))
    assert "manifest.json is missing" in refused(
        capsys, *evaluate, str(tmp_path), *on(folder, "test")
    )
    random = refused(capsys, *evaluate, scores, *on(folder, "test"), "--random", "0")
    assert "--random 0: " in random and "holds scores; name a circuit" in random
    (tmp_path / "bad.json").write_text("[1]")
    bad = refused(capsys, *evaluate, str(tmp_path / "bad.json"), *on(folder, "test"))
    assert "it is [1]; it must be a JSON object" in bad


def test_a_circuit_of_another_model_is_refused(folder: Path, circuit: str, smollm, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interp, "load_model", lambda name, **options: smollm)
        line = refused(
            capsys, "circuit", "evaluate", circuit, "--model", "x", "--pairs", CAPITALS,
            "--limit", "1",
        )  # fmt: skip
    assert "is of another shape of model than smollm2-135m" in line


def test_rows_between_the_halves_are_counted(folder: Path, circuit: str, tmp_path: Path, capsys):
    split = [*on(folder, "test"), "--split-by", "subject"]
    out = tmp_path / "scores"
    assert run(["attribute", *split, "--out", str(out)]) == 0
    line = " ".join(capsys.readouterr().err.split())
    assert re.search(r"2 of 8 pairs are in neither half; first: test.jsonl, row \d: entities", line)
    excluded = Scores.load(out).excluded
    assert [row.reason for row in excluded] == ["its entities are in different splits"] * 2
    report = said(capsys, "evaluate", circuit, *split, "--random", "0")
    assert (report["n_pairs"], report["n_excluded"]) == (3, 2)


def test_curves_need_scores_of_edges(folder: Path, tmp_path: Path, capsys):
    out = str(tmp_path / "nodes")
    assert run(["attribute", *on(folder, "discovery"), "--of", "nodes", "--out", out]) == 0
    capsys.readouterr()
    line = refused(capsys, "circuit", "evaluate", out, *on(folder, "test"))
    assert "holds node scores; curves need scores of edges" in line


# --- real weights ------------------------------------------------------------------------------


def test_a_real_circuit_holds_on_other_entities(
    tmp_path: Path, smollm: Model, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(interp, "load_model", lambda name, **options: {smollm.name: smollm}[name])
    data = ["--model", "smollm2-135m", "--pairs", CAPITALS, "--limit", "3"]
    split = ["--split-by", "subject"]
    out = tmp_path / "capitals.json"
    found = said(capsys, "discover", *data, *split, "--size", "0.01", "--out", str(out))
    assert (found["n_prompts"], found["of_edges"]) == (4, 123211)
    assert "input->m0" in [row["edge"] for row in found["top"]]

    report = said(capsys, "evaluate", str(out), *data, *split, "--random", "3")
    assert report["source"] == "country_capitals.jsonl, test"
    assert report["full"] > 1 > -1 > report["empty"]
    assert report["faithfulness"]["value"] > 0.6
    assert abs(report["random"]["edges"]["mean"]) < 0.05
    assert report["random"]["edges"]["p"] == 0.25
    assert report["random"]["heads"]["mean"] < report["faithfulness"]["value"]


# --- compare, show, export ---------------------------------------------------------------------


def test_circuits_are_compared(folder: Path, circuit: str, scores: str, tmp_path: Path, capsys):
    small = str(tmp_path / "small.json")
    said(capsys, "discover", "--scores", scores, "--size", "30", "--out", small)
    report = said(capsys, "compare", circuit, small, circuit)
    sizes = [row["n_edges"] for row in report["circuits"]]
    assert [row["file"] for row in report["circuits"]] == [circuit, small]
    (row,) = report["overlaps"]
    assert (row["first"], row["second"]) == (circuit, small)
    assert row["shared_edges"] <= min(sizes)
    assert row["edges"] == pytest.approx(row["shared_edges"] / (sum(sizes) - row["shared_edges"]))
    assert 0 < row["expected"] < row["edges"]
    assert row["rank_correlation"] == pytest.approx(1)
    assert run(["circuit", "compare", circuit, small]) == 0
    assert "Jaccard" in capsys.readouterr().out
    assert "name two circuits or more" in refused(capsys, "circuit", "compare", circuit)


def test_a_circuit_is_shown(circuit: str, tmp_path: Path, capsys):
    report = said(capsys, "show", circuit)
    page = Path(circuit).with_suffix(".html")
    assert report["page"] == str(page)
    assert report["n_edges"] == Circuit.load(circuit).n_edges
    assert report["top"][0]["edge"] in Circuit.load(circuit).edge_names
    text = page.read_text(encoding="utf-8")
    assert "plotly.js v" in page.with_name("plotly.min.js").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=\s*[\"']?https?:", text)
    assert run(["circuit", "show", circuit, "--out", str(tmp_path / "a" / "b.html")]) == 0
    assert (tmp_path / "a" / "b.html").is_file()


def test_a_circuit_is_exported(circuit: str, tmp_path: Path, capsys):
    found = Circuit.load(circuit)
    for form in ("mib", "dot", "html"):
        out = tmp_path / "sub" / f"c.{form}"
        report = said(capsys, "export", circuit, "--format", form, "--out", str(out))
        assert report == {"file": str(out), "format": form, "n_edges": found.n_edges}
    again = Circuit.load(tmp_path / "sub" / "c.mib")
    assert again.edge_names == found.edge_names
    dot = (tmp_path / "sub" / "c.dot").read_text()
    assert dot.startswith("digraph circuit {")
    assert dot.count("->") == found.n_edges
    line = refused(capsys, "circuit", "export", circuit, "--format", "svg", "--out", "x")
    assert "unknown format 'svg'" in line


# --- score-methods -----------------------------------------------------------------------------


def test_methods_are_marked_on_a_compiled_program(capsys):
    report = said(capsys, "score-methods", "tracr-hist")
    assert (report["program"], report["n_edges"]) == ("tracr-hist", 8)
    assert list(report["methods"]) == ["exact", "eap", "eap-ig", "eap-dg"]
    assert {name: mark["auroc"] for name, mark in report["methods"].items()} == {
        "exact": 1.0, "eap": 0.625, "eap-ig": 0.625, "eap-dg": 1.0
    }  # fmt: skip
    for name, mark in report["methods"].items():
        assert set(mark) == {"auroc", "max_abs_error", "forwards", "half_edges", "n_pairs"}
        assert (mark["half_edges"], mark["n_pairs"]) == (4, 24)
        assert (mark["max_abs_error"] is None) == (name == "eap-dg")
    assert report["methods"]["eap-dg"]["forwards"] < 4
    assert run(["circuit", "score-methods", "tracr-hist", "--methods", "eap"]) == 0
    assert "tracr-hist: 8 edges" in " ".join(capsys.readouterr().out.split())
    line = refused(capsys, "circuit", "score-methods", "tracr-hist", "--methods", "eap-gd")
    assert "unknown method 'eap-gd'" in line


def test_a_missing_program_is_named(tmp_path: Path, capsys):
    line = refused(capsys, "circuit", "score-methods", str(tmp_path / "none.npz"))
    assert "none.npz is missing" in line
    line = refused(capsys, "circuit", "score-methods", "tracr-hits")
    assert "Did you mean 'tracr-hist'" in line


def test_stability_of_a_circuit_from_the_command_line(folder: Path, tmp_path: Path, capsys):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, template_rows(24))))
    model = ["--model", str(folder / "llama"), "--pairs", str(file)]
    sizes = ["--edges", "30", "--nodes", "5", "--threshold", "0.3", "--resamples", "30"]
    sizes += ["--splits", "5", "--methods", "eap-dg,eap"]
    command = ["circuit", "stability", *model, *sizes, "--by", "template"]
    halves = ["--split-by", "subject", "--test-limit", "4", "--out", str(tmp_path / "run")]
    halves += ["--samples", "1", "--sample-size", "4"]
    assert run([*command, *halves, "--json"]) == 0
    found = last_json(capsys.readouterr().out)
    assert found["settings"]["entities"] == "subject"
    assert (found["n_test"], found["of_edges"]) == (4, N_EDGES)
    assert found["run"] == str(tmp_path / "run")
    assert {row["test"] for row in found["tests"]} >= {"given groups: silhouette"}
    assert (tmp_path / "run" / "scores" / "eap" / "manifest.json").is_file()
    assert run([*command, *halves]) == 0
    printed = capsys.readouterr().out
    assert "of the top 30 of 262 edges" in printed and "own - other groups" in printed
    for unused in (["--test-limit", "3"], ["--ablation", "mean"], ["--sample-size", "4"]):
        assert f"{unused[0]} needs --split-by" in refused(capsys, *command, *unused)
    assert "no column 'tempalte'" in refused(capsys, *command[:-1], "tempalte")
    assert "unknown method 'eap-gd'" in refused(capsys, *command, "--methods", "eap-gd")
