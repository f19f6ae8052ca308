"""The texts of the emotion system: they load, they are balanced, and malformed files are named."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from conftest import ROOT

from circuits.emotion import EMOTIONS, LABELS, load_frames, load_replies, load_scenarios
from circuits.emotion.texts import THEMES, VALENCES, load_labelled, load_verdicts, load_vignettes
from interp.errors import DataError

DATA = ROOT / "datasets"
SEV = ROOT.parent / "shared" / "data" / "sev"
PER_THEME = {"discovery": 20, "tuning": 5, "test": 20}


# --- what we ship --------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PER_THEME)
def test_scenarios_are_balanced_over_themes(part: str):
    scenarios = load_scenarios(f"emotion_scenarios_{part}")
    assert Counter(s.theme for s in scenarios) == dict.fromkeys(THEMES, PER_THEME[part])
    assert all(f"_{part}_" in s.id and s.text[-1] not in ".!?" for s in scenarios)


def test_vignettes_and_replies_cross_every_emotion():
    vignettes, replies = load_vignettes("emotion_vignettes"), load_replies("emotion_replies")
    assert Counter(v.emotion for v in vignettes) == dict.fromkeys(LABELS, 20)
    assert {(r.theme, r.valence) for r in replies} == {(t, v) for t in THEMES for v in VALENCES}
    events = {r.event_id for r in replies}
    assert {(r.event_id, r.emotion) for r in replies} == {(e, k) for e in events for k in LABELS}


def test_no_two_files_share_a_text():
    texts = {
        part: {
            text
            for s in load_scenarios(f"emotion_scenarios_{part}")
            for text in (s.text, *(s.events[valence] for valence in VALENCES))
        }
        for part in PER_THEME
    }
    texts["vignettes"] = {v.text for v in load_vignettes("emotion_vignettes")}
    texts["replies"] = {r.text for r in load_replies("emotion_replies")}
    assert not any(one & other for one, other in combinations(texts.values(), 2))


def test_the_published_set_loads():
    if not SEV.is_dir():
        pytest.skip(f"no {SEV}: the published scenarios are not here")
    scenarios = load_scenarios(SEV / "sev.jsonl")
    assert len(scenarios) == 160
    assert {s.theme for s in scenarios} == set(THEMES)


def test_frames_cross_words_and_distances():
    frames = load_frames(DATA / "emotion_frames.json")
    assert list(frames.words) == ["A", "B", "C", "names"]
    assert len({w for row in frames.words.values() for w in row.values()}) == 24
    assert {f.distance for f in frames.frames.values()} == {"near", "far"}
    for frame in frames.frames.values():
        with_word = frame.fill("I went", "It rained.", "miserable")
        without = frame.fill("I went", "It rained.")
        between = "\n" if frame.name == "paper" else ". "
        assert all(f"I went{between}It rained." in one.text for one in (with_word, without))
        assert "miserable" in f"{with_word.system} {with_word.text}"
        assert "miserable" not in f"{without.system} {without.text}"
        assert (with_word.system is None) == (without.system is None)
    with pytest.raises(DataError, match="unknown style 'felt:D'"):
        frames.style("felt:D")


def test_demonstrations_end_where_the_reply_begins():
    demonstrations = load_frames(DATA / "emotion_frames.json").demonstrations
    replies = load_replies(DATA / "emotion_replies.jsonl")[:: len(LABELS)][:3]
    text = demonstrations.fill(replies, "I sat down", "The chair held.").text
    assert text.endswith('I sat down. The chair held.\nI said: "')
    for reply in replies:
        assert f'{reply.scenario}. {reply.event}\nI said: "{reply.text}"' in text
    assert not any(emotion in text for emotion in EMOTIONS)
    with pytest.raises(ValueError, match="2 replies, not 3"):
        demonstrations.fill(replies[:2], "I sat down", "The chair held.")


# --- malformed files -----------------------------------------------------------------------------

TEXTS = {"positive": "It held.", "neutral": "It was swept.", "negative": "It was wet."}
ROW = {"theme": "t", "scenario": "s", "event": TEXTS, "skeleton_id": "i"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "event": {"positive": "x"}}, r"line 2: 'event.neutral' is missing"),
        (ROW, r"line 2: id 'i' was used before, in .*line 1"),
    ],
)
def test_malformed_scenarios_are_named_by_file_and_line(tmp_path: Path, row: object, message: str):
    path = write(tmp_path / "bad.jsonl", ROW, row)
    with pytest.raises(DataError, match=message) as caught:
        load_scenarios(path)
    assert "bad.jsonl" in str(caught.value)


def test_empty_files_and_foreign_emotions_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="holds no rows"):
        load_scenarios(write(tmp_path / "empty.jsonl", ""))
    path = write(tmp_path / "v.jsonl", {"id": "1", "emotion": "angr", "text": "x"})
    with pytest.raises(DataError, match="'emotion' is unknown: 'angr'. Did you mean 'anger'"):
        load_vignettes(path)


FRAMES = json.loads((DATA / "emotion_frames.json").read_text())


def changed(place: list, value: object) -> dict:
    copy = json.loads(json.dumps(FRAMES))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (changed(["words", "A"], {"anger": "angry"}), "words 'A': has anger"),
        (changed(["words", "A", "fear"], "furious"), "'furious' stands for two"),
        (changed(["frames", 0, "distance"], "middle"), "distance' is unknown: 'middle'"),
        (changed(["frames", 0, "text"], "{scenario} {event}"), "frame 'felt': has the fields"),
        (changed(["frames", 0, "neutral"], "{scenario} {event} {word}"), "frame 'felt': has"),
        (changed(["frames", 0, "system"], "Be brief."), "both system and neutral_system"),
        (changed(["demonstrations", "query"], "{event}"), "query: has the fields"),
        (changed(["vignette"], "x"), "vignette: has the fields"),
        ({"words": {}}, "'frames' is missing"),
    ],
)
def test_malformed_frames_are_refused(tmp_path: Path, frames: dict, message: str):
    path = write(tmp_path / "frames.json", frames)
    with pytest.raises(DataError, match=message):
        load_frames(path)


def test_verdicts_are_read(tmp_path: Path):
    row = {"gen_text": "x", "emotion": "fear", "match": 1, "skeleton_id": "work_00", "more": 1}
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps(row))
    (read,) = load_verdicts(path)
    assert (read.text, read.target, read.match, read.group) == ("x", "fear", 1, "work_00")


def test_blind_labels_are_read_by_part(tmp_path: Path):
    path = tmp_path / "labels.jsonl"
    rows = [
        {"part": part, "situation": f"work_{part}_00_neutral", "reply": "x", "label": "fear"}
        for part in ("tuning", "test")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (read,) = load_labelled(path, "test")
    assert (read.text, read.label, read.group) == ("x", "fear", "work_test_00_neutral")
