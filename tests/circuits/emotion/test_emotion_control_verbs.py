"""`interp emotion` control, evaluate, run and show: keys, recipes on tiny models, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import ROOT
from test_cli import last_json
from test_emotion_verbs import Flat
from test_endpoint_judge import by_lexicon, serving

from circuits.cli.app import run
from circuits.emotion import EmotionComparison, EmotionRecipe, EmotionTexts, judges
from circuits.emotion.emotion_settings import FOLDER
from interp.errors import DataError
from interp.loading import builtin

DATA = ["--datasets", str(ROOT / "datasets")]
SIZES = {
    "vocab_size": 49152,
    "hidden_size": 48,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "num_hidden_layers": 3,
    "max_position_embeddings": 256,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONDITIONS = ["unmodulated", "prompting", "demonstrations", "chat", "steering", "circuit"]
CONTROLS = ["neurons", "heads", "circuit_prompting", "wrong_circuit", "wrong_vector", "random"]


def tiny_of(folder: Path, architecture: str = "Llama", d_mlp: int = 40) -> str:
    """A random model of an architecture with a chat tokenizer."""
    config = getattr(transformers, f"{architecture}Config")
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(
        config(**SIZES | {"intermediate_size": d_mlp})
    )
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(6 if parameter.ndim > 1 else 1)
    hf.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(builtin.pull("smollm2-135m"))
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_of(tmp_path_factory.mktemp("judge"), d_mlp=48)  # not the model under test


def short(recipe: EmotionRecipe, model: str, judge: str, path: Path) -> str:
    """A recipe for a stand-in of three layers, with replies of a few tokens."""
    decoding = recipe.decoding.model_copy(update={"new_tokens": 4, "min_tokens": 2})
    steering = recipe.doses.steering.model_copy(update={"layers": (1, 2)})
    doses = recipe.doses.model_copy(update={"steering": steering})
    own = {"model": model, "judge_model": judge, "decoding": decoding, "doses": doses, "n": 2}
    recipe.model_copy(update=own).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "architecture"), [("llama-3.2-3b-instruct", "Llama"), ("qwen2.5-7b-instruct", "Qwen2")]
)
@pytest.mark.slow
def test_the_published_recipes_run_on_models_of_their_architecture(
    name: str, architecture: str, judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = EmotionRecipe.load(FOLDER / f"{name}.json")
    assert recipe.doses.circuit.preset == "paper-influence"
    # the paper's 8 rms(h) v in each of layers 11 to 20, as a part of the norm
    width = {"Llama": 3072, "Qwen2": 3584}[architecture]
    assert recipe.doses.steering.fraction == pytest.approx(8 / width**0.5, abs=1e-6)
    assert recipe.doses.steering.layers == (11, 20)
    model = tiny_of(tmp_path / "model", architecture)
    given = short(recipe, model, judge, tmp_path / "recipe.json")
    out = tmp_path / "run"
    begin = ["emotion", "run", "--recipe", given, "--out", str(out), "--limit", "4", *DATA]
    assert run([*begin, "--json"]) == 0
    found = last_json(capsys.readouterr().out)
    assert found["model"] == model and found["n"] == 12 and found["n_scenarios"] == 2
    assert set(found["conditions"]) == {*CONDITIONS, *CONTROLS, "circuit_centred", "circuit_paper"}
    for one in found["conditions"].values():
        assert {"accuracy", "accuracy_ci", "quality", "joint"} <= set(one)
        assert 0 <= one["joint"] <= one["accuracy"] <= 1
    assert found["paired"].keys() == {f"circuit - {name}" for name in found["conditions"]} - {
        "circuit - circuit"
    }
    page = (out / "comparison" / "index.html").read_text("utf-8")
    assert "Replies side by side" in page and "circuit_prompting" in page
    assert not (out / "comparison.partial").exists()
    assert run(["show", str(out / "comparison"), "--json"]) == 0
    assert last_json(capsys.readouterr().out)["conditions"].keys() == found["conditions"].keys()


def test_control_shows_replies_and_caps_doses(
    judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = tiny_of(tmp_path / "model", d_mlp=1200)  # circuits and random ones have 560
    given = short(EmotionRecipe.of("smollm2-135m"), model, judge, tmp_path / "recipe.json")
    # a small discovery, which `control` then finds in its folder
    found = ["emotion", "circuit", "--model", model, "--out", str(tmp_path / "d"), "--limit", "4"]
    assert run([*found, *DATA]) == 0
    begin = ["emotion", "control", "--model", model, "--recipe", given, "--n", "2", *DATA]
    begin += ["--discovery", str(tmp_path / "d"), "--emotion", "fear"]
    capsys.readouterr()
    assert run([*begin, "--json"]) == 0
    shown = last_json(capsys.readouterr().out)
    assert len(shown["replies"]) == 2 and set(shown["replies"][0]) == {
        "text",
        "unmodulated",
        "circuit",
    }
    for dose in ("50", "-50"):
        assert run([*begin, "--strength", dose]) == 2
        assert f"the size of --strength {dose} is above 1.5 times" in capsys.readouterr().err
    assert run([*begin, "--strength", "50", "--any-dose"]) == 0
    assert run([*begin, "--condition", "singing"]) == 2
    assert "no condition 'singing'" in capsys.readouterr().err
    assert run([*begin[:-1], "joy"]) == 2
    assert "unknown emotion 'joy'" in capsys.readouterr().err
    # and judged by another model, behind an interface
    asked = [
        "emotion",
        "evaluate",
        "--recipe",
        given,
        "--n",
        "2",
        "--conditions",
        "steering",
        *DATA,
    ]
    asked += ["--discovery", str(tmp_path / "d"), "--out", str(tmp_path / "judged")]
    assert run([*asked, "--judge-url", "http://localhost:1/v1"]) == 2
    assert "give --judge-url and --judge-name together" in capsys.readouterr().err
    assert run([*asked, "--judge-url", "http://localhost:1/v1", "--judge-name", "m"]) == 2
    assert "did not answer" in capsys.readouterr().err
    assert not list(tmp_path.glob("judged*"))
    with serving(by_lexicon) as (url, seen):
        assert run([*asked, "--judge-url", url, "--judge-name", "m"]) == 0
    result = EmotionComparison.load(tmp_path / "judged")
    assert result.judges == ("activations", "words", "endpoint", "lexicon")
    assert result.settings["endpoint"] == {"model": "m", "unclear": 0}
    assert len(seen) == 1 + result.replies["reply"].nunique()


def test_judges_learn_plain_replies_and_blind_labels_of_other_texts(
    judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    model = tiny_of(tmp_path / "model", d_mlp=1200)  # circuits and random ones have 560
    given = short(EmotionRecipe.of("smollm2-135m"), model, judge, tmp_path / "recipe.json")
    seen: list[tuple[Any, ...]] = []

    def training(*rows: Any) -> tuple[Any, ...]:
        seen.append(rows)
        return ()

    monkeypatch.setattr(judges, "training_replies", training)
    monkeypatch.setattr(judges, "fit_judge", lambda rows, folds, make: Flat())
    monkeypatch.setattr(judges, "plain_replies", lambda model, *_: [f"Plain, says {model.name}."])
    begin = ["emotion", "run", "--recipe", given, "--out", str(tmp_path / "r"), "--limit", "4"]
    assert run([*begin, "--conditions", "steering", *DATA, "--json"]) == 0
    found = last_json(capsys.readouterr().out)
    assert set(found["conditions"]) == {"unmodulated", "steering"}
    *_, plain, labelled = seen.pop()
    assert plain == [f"Plain, says {judge}."]
    assert len(labelled) > 1000 and all("_tuning_" in one.group for one in labelled)
    tuning = str(ROOT / "datasets" / "emotion_scenarios_tuning.jsonl")
    # no judge is fitted on replies to the texts that it judges
    assert EmotionTexts.load(tuning).labelled == ()
    folder = ["--discovery", str(tmp_path / "r" / "discovery"), "--recipe", given]
    own = ["emotion", "evaluate", *folder, "--events", tuning, "--out", str(tmp_path / "own")]
    assert run([*own, "--conditions", "steering", *DATA]) == 0
    assert seen.pop()[-1] == ()
    own[own.index(tuning)] = "emotion_scenarios_discovery"
    assert run([*own, "--conditions", "steering", *DATA]) == 2
    assert "4 of the scenarios were seen in discovery" in capsys.readouterr().err
    tested = ["emotion", "test", "--model", model, *folder[:2], "--out", str(tmp_path / "t")]
    assert run([*tested, "--n", "2", "--n-random", "1", *DATA, "--json"]) == 0
    tests = last_json(capsys.readouterr().out)["tests"]
    assert {row["test"] for row in tests} == {"necessity", "sufficiency"} and len(tests) == 20
    assert run(["show", str(tmp_path / "t"), "--json"]) == 0


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["emotion", "run", "--out", str(tmp_path / "r")]) == 2
    assert "no model" in capsys.readouterr().err
    assert run(["emotion", "run", "--model", "gpt2", "--out", str(tmp_path / "r")]) == 2
    assert "no recipe for 'gpt2'" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text('{"model": "x"}')
    with pytest.raises(DataError, match=r"bad\.json: 'judge_model' is missing"):
        EmotionRecipe.load(tmp_path / "bad.json")


def test_a_recipe_returns_from_its_file(tmp_path: Path):
    for path in FOLDER.glob("*.json"):
        recipe = EmotionRecipe.load(path)
        recipe.save(tmp_path / path.name)
        assert EmotionRecipe.load(tmp_path / path.name) == recipe
        assert recipe.judge_model not in (recipe.model, recipe.model.rpartition("/")[2])


def test_doses_of_all_emotions_alike():
    doses = EmotionRecipe.of("smollm2-135m").doses
    assert doses.circuit.own and doses.steering.own
    same = doses.alike
    assert same.circuit == doses.circuit.model_copy(update={"own": {}})
    assert same.steering == doses.steering.model_copy(update={"own": {}})
    assert same.others == doses.others and same.alike == same
