"""`interp ablate`: what it prints, what it keeps, and what it refuses."""

import json
from pathlib import Path

import pytest
from conftest import ROOT
from test_cli import refused, report

import interp
from circuits.cli.app import run

pytestmark = pytest.mark.usefixtures("load_once")
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


@pytest.fixture
def command(tmp_path: Path, llama: str) -> list[str]:
    """The verb with its model and six pairs."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    return ["ablate", "--model", llama, "--pairs", str(file)]


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


def test_a_curve_in_its_folder(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture):
    ranked, text, out = tmp_path / "ranked.txt", tmp_path / "text.txt", tmp_path / "runs" / "curve"
    ranked.write_text("\n")
    arguments = [*command, "--components-file", str(ranked), "--mode", "curve", "--random", "4",
                 "--neutral", str(text), "--match-norms", "--out", str(out)]  # fmt: skip
    text.write_text(" ".join(f"w{i * i % 90}" for i in range(140)))
    assert "names no components" in refused(capsys, *arguments)
    ranked.write_text("a2.h1\n\na0.h3\nm1\n")
    said = report(capsys, *arguments)
    assert said["run"] == str(out)
    assert report(capsys, *arguments) == said
    differs = "holds an ablate run with seed=0 (this one: 7)"
    assert differs in refused(capsys, *arguments, "--seed", "7")
    assert list(interp.AblationResult.load(out).sets) == ["1", "2", "3"]
    assert run(["show", str(out)]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--mode set needs --components or --components-file"),
        (["--mode", "some"], ""),
        (["--components", "a0.h9"], "heads 0 to 3"),
        (["--components", "a1", "--cluster-by", "city"], "no span 'city'. Available: subject;"),
        (["--components", "a1", "--reference", "ioi"], "is of --kind mean, not resample"),
        (["--components", "a1", "--components-file", "x"], "are both given; leave one out"),
    ],
)
def test_bad_options_are_named(
    command: list[str], capsys: pytest.CaptureFixture, options: list[str], says: str
):
    out = Path(command[-1]).parent / "run"
    assert says in refused(capsys, *command, *options, "--out", str(out))
    assert not out.exists()
    assert not out.with_name("run.partial").exists()


def test_the_neutral_text_has_a_card():
    text = (ROOT / "datasets" / "neutral_text.txt").read_text()
    assert f"{len(text.split()):,} words" in (ROOT / "datasets" / "neutral_text.md").read_text()
    assert not any(character.isdigit() for character in text)
