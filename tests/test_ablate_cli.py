"""`interp ablate`: what it prints, what it keeps, and what it refuses."""

import functools
import importlib
import json
from pathlib import Path

import pytest
from conftest import ROOT, tiny_hf, word_tokenizer

import interp
from circuits.cli.app import run

ablating = importlib.import_module("interp.ablation.ablate")

ROWS = [
    {
        "clean": f"w{i} w2 w3 w4",
        "corrupt": f"w{i + 20} w2 w3 w4",
        "answer": f"w{i + 40}",
        "wrong_answer": f"w{i + 60}",
        "subject": [f"w{i}", f"w{i + 20}"],
    }
    for i in range(10, 16)
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny model."""
    folder = tmp_path_factory.mktemp("llama")
    tiny_hf("llama").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def load_once():
    """The tiny model is really loaded, by the command line, but once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interp, "load_model", functools.cache(interp.load_model))
        yield


@pytest.fixture
def command(tmp_path: Path, llama: str) -> list[str]:
    """The verb with its model and six pairs."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    return ["ablate", "--model", llama, "--pairs", str(file)]


def report(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    assert run([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "Traceback" not in err
    return json.loads(out)


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_every_head_on_its_own(command: list[str], capsys: pytest.CaptureFixture):
    said = report(capsys, *command, "--mode", "singles", "--limit", "4")
    assert (said["kind"], said["mode"], said["run"]) == ("resample", "singles", None)
    assert (said["n_sets"], said["n_random"], said["n_pairs"]) == (12, 3, 4)
    assert set(said["baseline"]) == {"logit_diff", "accuracy"}
    top = said["top"]["logit_diff"]
    assert len(top) == 10
    assert abs(top[0]["effect"]) >= abs(top[1]["effect"])
    assert set(top[0]) >= {"set", "size", "effect", "low", "high", "p", "p_adjusted", "random"}


def test_the_same_as_from_python(command: list[str], llama: str, capsys: pytest.CaptureFixture):
    model, chosen = interp.load_model(llama), ["a1.h2", "m0"]
    options = ["--components", "a1.h2, m0", "--kind", "zero", "--random", "5", "--seed", "3"]
    for mode, sets in (("set", chosen), ("all-but", interp.all_but(model, chosen)),
                       ("curve", interp.cumulative(model, chosen))):  # fmt: skip
        ours = interp.ablate(model, ROWS, sets, "zero", n_random=5, seed=3).summary()
        said = report(capsys, *command, *options, "--mode", mode)
        assert said["top"] == json.loads(json.dumps(ours["top"]))


def test_a_mean_is_over_the_rows_after_the_limit(command: list[str], capsys):
    options = ["--components", "a1.h2", "--kind", "mean", "--cluster-by", "subject"]
    said = report(capsys, *command, *options, "--limit", "4")
    assert said["mean_over"] == "each position of 2 reference prompts"
    assert said["n_clusters"] == 4
    said = report(capsys, *command, *options, "--reference", command[-1])
    assert said["mean_over"] == "each position of 6 reference prompts"
    assert "needs reference prompts" in refused(capsys, *command, *options)


def test_a_stopped_curve_resumes_into_its_folder(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
):
    ranked, text, out = tmp_path / "ranked.txt", tmp_path / "text.txt", tmp_path / "runs" / "curve"
    ranked.write_text("a2.h1\n\na0.h3\nm1\n")
    text.write_text(" ".join(f"w{i * i % 90}" for i in range(140)))
    arguments = [*command, "--components-file", str(ranked), "--mode", "curve", "--random", "4",
                 "--neutral", str(text), "--match-norms", "--out", str(out)]  # fmt: skip
    monkeypatch.setattr(ablating, "EXAMPLES_AT_ONCE", 2)
    run_sets, done = ablating.run_sets, []

    def stops(*a):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return run_sets(*a)

    monkeypatch.setattr(ablating, "run_sets", stops)
    assert run(arguments) == 130
    capsys.readouterr()
    assert not out.exists()
    assert len(list((tmp_path / "runs" / "curve.partial").glob("*/arrays.safetensors"))) == 2
    monkeypatch.setattr(ablating, "run_sets", lambda *a: done.append(1) or run_sets(*a))
    said = report(capsys, *arguments)
    assert len(done) == 3 + 1
    assert said["run"] == str(out)
    assert [row["size"] for row in said["top"]["nll"]]
    assert not (tmp_path / "runs" / "curve.partial").exists()
    monkeypatch.setattr(ablating, "run_sets", lambda *a: pytest.fail("measured again"))
    assert report(capsys, *arguments) == said
    assert "holds an ablate run with seed=0 (this one: 7)" in refused(
        capsys, *arguments, "--seed", "7"
    )
    assert list(interp.AblationResult.load(out).sets) == ["1", "2", "3"]
    assert run(["show", str(out)]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<script src=") == 1 and (out / "plotly.min.js").is_file()
    for row in said["top"]["nll"]:
        assert f"{row['effect']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in page


def test_without_json_there_are_tables(command: list[str], capsys: pytest.CaptureFixture):
    assert run([*command, "--components", "a1", "--readouts", "logit_diff,prob"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "resample ablation on" in text
    assert "1 set, 6 pairs of pairs.jsonl (0 excluded)" in text
    assert "logit_diff: " in text
    assert "prob: " in text
    assert "no control for 4 components: layer 1 has 4 units and 4 are chosen" in text


def test_help_has_an_example(capsys: pytest.CaptureFixture):
    assert run(["ablate", "--help"]) == 0
    assert "interp ablate --model smollm2-135m --pairs" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--mode set needs --components or --components-file"),
        (["--mode", "some"], ""),
        (["--random", "-1"], ""),
        (["--components", "b1"], "no component 'b1': write 'a3.h1'"),
        (["--components", "a0.h9"], "heads 0 to 3"),
        (["--components", "a1", "--kind", "zeros"], "Did you mean 'zero'"),
        (["--components", "a1", "--readouts", "logits"], "unknown readout 'logits'"),
        (["--components", "a1", "--cluster-by", "city"], "no span 'city' to cluster by"),
        (["--components", "a1", "--components-file", "x"], "are both given; leave one out"),
        (["--components-file", "nowhere.txt"], "no such file: nowhere.txt"),
        (["--components", "a1", "--neutral", "nowhere.txt"], "no such file: nowhere.txt"),
    ],
)
def test_bad_options_are_named(
    command: list[str], capsys: pytest.CaptureFixture, options: list[str], says: str
):
    out = Path(command[-1]).parent / "run"
    assert says in refused(capsys, *command, *options, "--out", str(out))
    assert not out.exists()
    assert not out.with_name("run.partial").exists()


def test_an_empty_components_file_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "empty.txt").write_text("\n")
    line = refused(capsys, *command, "--components-file", str(tmp_path / "empty.txt"))
    assert "names no components" in line


def test_the_neutral_text_has_a_card():
    text = (ROOT / "datasets" / "neutral_text.txt").read_text()
    assert f"{len(text.split()):,} words" in (ROOT / "datasets" / "neutral_text.md").read_text()
    assert not any(character.isdigit() for character in text)
