"""Shipped data: found by name from any folder, by every reader and every option."""

import json
import runpy
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from conftest import ROOT

import interp
from circuits.affect.emotion_choices import load_choices
from circuits.affect.emotion_words import LISTS, load_norms, load_words
from circuits.cli.app import run
from circuits.editing.evaluation import load_cases
from circuits.editing.fact import load_facts as load_edit_facts
from circuits.emotion import EmotionRecipe, EmotionTexts, load_frames, load_replies, load_scenarios
from circuits.emotion.texts import load_labelled, load_vignettes
from circuits.query_value.questions import load_questions
from circuits.recall_reasoning.settings import load_recipe
from circuits.recall_reasoning.sources.countries import load_facts
from interp.data import datasets as shipped
from interp.data.records import is_hub_id
from interp.errors import DataError

READERS = {
    "prompt pairs": interp.load_pairs,
    "questions": load_questions,
    "contrast pairs": interp.load_contrast_pairs,
    "edit cases": load_cases,
    "events": load_scenarios,
    "vignettes": load_vignettes,
    "frames": lambda name: load_frames(name).frames,
    "replies": load_replies,
    "labelled replies": lambda name: [r for p in PARTS for r in load_labelled(name, p)],
    "emotions": lambda name: [e for one in LISTS for e in load_words(one)],
    "word norms": load_norms,
    "choices": load_choices,
    "text": lambda name: [t for t in shipped.locate(name).read_text().splitlines() if t],
}
PARTS = ("tuning", "test", "retest")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", [n for n in shipped.SETS if shipped.SETS[n] != "facts"])
def test_each_set_loads_by_name_from_any_folder(name: str):
    rows = READERS[shipped.SETS[name]](name)
    table = interp.datasets().set_index("name")
    if name == "emotion_frames":
        assert len(rows) == 8 and table["rows"].isna()[name]
    else:
        assert len(rows) == table["rows"][name] > 0


def test_the_facts_load_by_name():
    assert len(load_facts("recall_facts")) == 105
    assert len(json.loads(shipped.locate("multihop_facts").read_text())["relations"]) == 72


def test_every_file_of_the_folder_is_listed_and_has_a_card():
    files = [f for f in (ROOT / "datasets").iterdir() if f.is_file()]
    assert {f.stem for f in files} == set(shipped.SETS)
    for file in files:
        assert file.with_suffix(".md").is_file(), file.name


def test_the_table_says_what_the_cards_say():
    table = interp.datasets().set_index("name")
    assert list(table.columns) == ["kind", "rows", "licence", "summary", "path"]
    row = table.loc["ioi"]
    assert (row["kind"], row["rows"]) == ("prompt pairs", 576)
    assert row["summary"] == "576 pairs of prompts for indirect object identification"
    assert row["licence"] == "MIT, as the rest of this repository. Self-written."
    assert "Gemma Terms of Use" in table.loc["emotion_blind_labels", "licence"]
    assert all(Path(path).is_file() for path in table["path"])
    assert (table[["licence", "summary"]].map(len) > 10).all(axis=None)


def test_a_file_of_ones_own_is_given_by_path_and_does_not_hide_a_shipped_name(tmp_path):
    row = {"clean": "a", "corrupt": "b", "answer": "c", "wrong_answer": "d"}
    Path("ioi").write_text(json.dumps(row))
    assert len(interp.load_pairs("ioi")) == 576
    assert len(interp.load_pairs("./ioi")) == 1


def test_a_mistyped_name_is_answered_with_the_right_one():
    with pytest.raises(DataError, match="no such file: country_capital.*'country_capitals'"):
        interp.load_pairs("country_capital")
    with pytest.raises(DataError, match="Did you mean 'country_capitals'"):
        interp.load_pairs("datasets/country_capitals.jsonl")
    with pytest.raises(DataError, match="Did you mean 'neutral_text'"):
        shipped.locate("neutral_txt")


def test_a_missing_file_of_another_set_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "ioi.jsonl").write_bytes(shipped.locate("ioi").read_bytes())
    monkeypatch.setattr(shipped, "folder", lambda: tmp_path)
    assert len(interp.load_pairs("ioi")) == 576
    with pytest.raises(DataError, match="country_capitals is not in .*; install interp again"):
        interp.load_pairs("country_capitals")
    with pytest.raises(DataError, match="is not in"):
        interp.datasets()


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv", "pairs.parquet", "pairs.JSONL"])
def test_a_mistyped_path_is_not_asked_of_the_hub(name: str, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(DataError, match=rf"^no such file: data/{name}; give a JSON or JSONL"):
        interp.load_pairs(f"data/{name}")
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="^no such file: data/pairs; give") as said:
        interp.load_pairs("data/pairs")
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", ["owner/name", "owner/name-1.5", "owner/name.v2", "owner/a.b-c"])
def test_names_with_dots_stay_hub_ids(name: str):
    assert is_hub_id(name)


def test_recipes_are_taken_by_name():
    assert EmotionRecipe.load("smollm2-135m") == EmotionRecipe.of("smollm2-135m")
    assert load_recipe("gemma-3-270m").model == "gemma-3-270m"
    for load in (EmotionRecipe.load, load_recipe):
        with pytest.raises(DataError, match=r"no such file: smolm2.*'smollm2-135m'"):
            load("smolm2-135m")


def test_readers_of_rows_take_hub_ids(monkeypatch):
    """Not prompt pairs alone: events, questions, facts of edits and judged replies, too."""
    import datasets

    asked = []

    def fetched(name: str, split: str):
        asked.append((name, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", fetched)
    rows = [{"prompt": "The capital of France is", "answer": "Paris"}]
    assert load_questions("owner/questions")[0].answer == "Paris"
    rows = [{"prompt": "The capital of {} is", "subject": "France", "target": "Rome"}]
    assert load_edit_facts("owner/facts")[0].where == "owner/facts, row 1"
    rows = [{"clean": "a", "corrupt": "b", "answer": "c", "wrong_answer": "d"}]
    pairs = interp.load_pairs("owner/pairs", split="test")
    assert (pairs.source, pairs[0].where) == ("owner/pairs", "owner/pairs, row 1")
    assert asked.pop() == ("owner/pairs", "test")
    rows = [json.loads(shipped.locate("emotion_scenarios_test").read_text().splitlines()[0])]
    assert load_scenarios("owner/events")[0].id == rows[0]["skeleton_id"]
    assert asked == [(f"owner/{name}", "train") for name in ("questions", "facts", "events")]


def test_the_questions_are_made_by_their_script():
    made = runpy.run_path(str(ROOT / "datasets/build/capital_questions.py"))["questions"]()
    lines = shipped.locate("capital_questions").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == made


def test_the_verb_lists_the_sets(capsys):
    assert run(["datasets", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["name"]: row["rows"] for row in said["datasets"]}["capital_questions"] == 42
    assert {row["name"] for row in said["datasets"] if row["rows"] is None} == {
        "emotion_frames",
        "multihop_facts",
    }
    assert run(["datasets"]) == 0
    assert "multihop_chains" in capsys.readouterr().out


def test_verbs_with_several_files_find_the_shipped_ones(tmp_path, capsys, smollm, monkeypatch):
    monkeypatch.setattr(interp, "load_model", lambda name, **options: smollm)
    build = ["recall-reasoning", "build", "--model", "smollm2-135m", "--n", "6", "--all", "--json"]
    assert run([*build, "--out", str(tmp_path / "cells.jsonl")]) == 0
    assert "cells" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_emotion_verbs_read_the_shipped_texts_unless_a_folder_is_given(tmp_path):
    given = EmotionTexts.load("tuning")
    assert (len(given.events), len(given.replies), len(given.frames.frames)) == (40, 168, 8)
    with pytest.raises(DataError, match="no such file: .*emotion_frames.json"):
        EmotionTexts.load("emotion_scenarios_tuning", tmp_path)


def test_the_library_datasets_stays_importable_from_the_root():
    found = PathFinder.find_spec("datasets", [str(ROOT), *sys.path])
    assert found is not None and Path(str(found.origin)).name == "__init__.py"
    assert callable(interp.datasets)
