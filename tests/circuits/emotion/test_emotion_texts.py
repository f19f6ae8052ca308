"""The texts of the emotion system: they load, they keep their rules, and every rule can fail."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.emotion import (
    EMOTIONS,
    LABELS,
    THEMES,
    VALENCES,
    Event,
    Reply,
    Scenario,
    Vignette,
    check_overlap,
    check_replies,
    check_scenarios,
    check_vignettes,
    load_frames,
    load_replies,
    load_scenarios,
    load_vignettes,
    overlaps,
    require,
    scenario_texts,
)
from circuits.emotion.lexicon import coloured_words, emotion_names
from interp.errors import DataError

DATA = ROOT / "datasets"
SEV = ROOT.parent / "shared" / "data" / "sev"
PER_THEME = {"discovery": 20, "tuning": 5, "test": 20}


def scenario_file(split: str) -> Path:
    return DATA / f"emotion_scenarios_{split}.jsonl"


def all_texts() -> dict[str, list[str]]:
    """Every text we ship, by file."""
    replies = load_replies(DATA / "emotion_replies.jsonl")
    told = {text for r in replies for text in (r.scenario, r.event)}
    return {s: scenario_texts(load_scenarios(scenario_file(s))) for s in PER_THEME} | {
        "vignettes": [v.text for v in load_vignettes(DATA / "emotion_vignettes.jsonl")],
        "replies": [r.text for r in replies] + sorted(told),
    }


# --- what we ship --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", PER_THEME)
def test_scenarios_keep_the_rules(split: str):
    scenarios = load_scenarios(scenario_file(split))
    require(check_scenarios(scenarios, split, PER_THEME[split]))
    assert len(scenarios) == 8 * PER_THEME[split]


def test_vignettes_and_replies_keep_the_rules():
    vignettes = load_vignettes(DATA / "emotion_vignettes.jsonl")
    replies = load_replies(DATA / "emotion_replies.jsonl")
    require(check_vignettes(vignettes, 20))
    require(check_replies(replies, 24))
    assert len(vignettes) == 140
    assert len(replies) == 168
    assert {(r.theme, r.valence) for r in replies} == {(t, v) for t in THEMES for v in VALENCES}


def test_no_two_files_share_a_text():
    texts = all_texts()
    names = list(texts)
    for i, left in enumerate(names):
        for right in names[i + 1 :]:
            require(check_overlap(texts[left], texts[right], between=f"{left} and {right}"))


def test_nothing_is_copied_from_the_published_set():
    if not SEV.is_dir():
        pytest.skip(f"no {SEV}: the published scenarios are not here")
    published = scenario_texts(load_scenarios(SEV / "sev.jsonl"))
    with (SEV / "prompted_replies_judged.jsonl").open() as rows:
        replies = [json.loads(row)["gen_text"] for row in rows]
    for name, texts in all_texts().items():
        require(check_overlap(texts, published, between=f"{name} and SEV"))
        assert overlaps(texts, replies, n=3, least=0.25) == []


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
    for words in frames.words.values():
        for emotion in EMOTIONS:
            assert emotion_names(words[emotion]) == [words[emotion]]
    for frame in frames.frames.values():
        with_word = frame.fill("I went", "It rained.", "miserable")
        without = frame.fill("I went", "It rained.")
        between = "\n" if frame.name == "paper" else ". "
        assert all(f"I went{between}It rained." in one.text for one in (with_word, without))
        named = emotion_names(f"{with_word.system} {with_word.text}")
        assert [word for word in named if word != "felt"] == ["miserable"]
        assert not emotion_names(f"{without.system} {without.text}")
        assert (with_word.system is None) == (without.system is None)


def test_demonstrations_end_where_the_reply_begins():
    shown = load_frames(DATA / "emotion_frames.json").demonstrations
    replies = load_replies(DATA / "emotion_replies.jsonl")[:: len(LABELS)][:3]
    text = shown.fill(replies, "I sat down", "The chair held.").text
    assert text.endswith('I sat down. The chair held.\nI said: "')
    for reply in replies:
        assert f'{reply.scenario}. {reply.event}\nI said: "{reply.text}"' in text
    assert not emotion_names(text)
    with pytest.raises(ValueError, match="2 replies, not 3"):
        shown.fill(replies[:2], "I sat down", "The chair held.")


# --- every rule fails on a bad row ---------------------------------------------------------------

TEXTS = {
    "positive": "The whole street came along and helped me with it.",
    "neutral": "The whole street was swept on a Tuesday as usual.",
    "negative": "The whole street was under water by the next day.",
}


def scenario(**changes: object) -> Scenario:
    events = tuple(Event(valence, TEXTS[valence]) for valence in VALENCES)
    text = "I put out two chairs and a table in front of the house"
    return replace(Scenario("work_test_00", "Work/Job", text, events, "f, line 1"), **changes)


def with_event(text: str) -> Scenario:
    first, second, _ = scenario().events
    return scenario(events=(first, second, Event("negative", text)))


def rules(findings: tuple) -> set[str]:
    return {finding.rule for finding in findings} - {"count"}


def test_a_sound_scenario_breaks_no_rule():
    assert not rules(check_scenarios([scenario()], "test", 1))


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (scenario(id="school_test_00"), "id"),
        (scenario(id="work_discovery_00"), "id"),
        (scenario(id="work_test_1"), "id"),
        (scenario(text="I put out two chairs and a table in front of the house."), "form"),
        (scenario(text="We put out two chairs and a table in front of the house"), "form"),
        (scenario(text="I put out two chairs in front"), "length"),
        (scenario(text="I " + "very " * 20 + "slowly sat down"), "length"),
        (scenario(text="I happily put out two chairs in front of the house"), "emotion word"),
        (with_event("The street was under water."), "length"),
        (with_event("The whole street was under water by the next day"), "form"),
        (with_event("The whole street was wet. Then it was under water."), "form"),
        (with_event("The whole street was furious with me the next day."), "emotion word"),
        (with_event("The whole street was shouting at me the next day."), "emotion word"),
        (with_event("The whole street was in an awful state by noon."), "emotion word"),
        (with_event("The whole street " + "really " * 14 + "was wet."), "spread"),
        (with_event(TEXTS["positive"]), "repeat"),
    ],
)
def test_scenario_rules(bad: Scenario, rule: str):
    assert rules(check_scenarios([bad], "test", 1)) == {rule}


def test_a_long_event_is_found():
    bad = with_event("The street " + "really " * 24 + "was wet.")
    assert rules(check_scenarios([bad], "test", 1)) == {"length", "spread"}


def test_counts_are_checked_both_ways():
    findings = check_scenarios([scenario(), scenario(theme="Sports")], "test", 1)
    messages = [f.message for f in findings if f.rule == "count"]
    assert "theme 'Sports' has 1 rows, not 0." in messages
    assert "theme 'Travel/Transportation' has 0 rows, not 1." in messages
    assert not any("Work/Job" in message for message in messages)


VIGNETTE = Vignette("fear_00", "fear", "The ice cracked under me, far out on the big lake.", "f")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"text": "I was afraid, as the ice cracked in the middle of the lake."}, "emotion word"),
        ({"text": "The ice cracked under him in the middle of the lake."}, "person"),
        ({"text": "The ice cracked under me. It broke. I went down into the lake."}, "form"),
        ({"text": "The ice cracked under my feet in the middle of the lake"}, "form"),
        ({"text": "My ice cracked."}, "length"),
        ({"emotion": "neutral", "text": "I kissed the cat and put two cups on the shelf."},
         "emotion word"),
    ],
)  # fmt: skip
def test_vignette_rules(changes: dict, rule: str):
    assert not rules(check_vignettes([VIGNETTE], 1))
    assert rules(check_vignettes([replace(VIGNETTE, **changes)], 1)) == {rule}


def test_displays_are_banned_from_neutral_vignettes_alone():
    text = "I cried the whole way home with the empty leash on the seat."
    assert not rules(check_vignettes([replace(VIGNETTE, text=text)], 1))


ANSWERS = (
    "Give it here, because I paid for that one!",
    "Nobody is left now who would sit here.",
    "We danced on the table until it broke.",
    "What is that, and why is it so near?",
    "On my own chair, of all the places there are!",
    "Something green was stuck to it, still wet.",
    "The chairs are stacked next to the door.",
)


def replies(**changes: object) -> list[Reply]:
    """One event answered in every label, with changes to the first answer."""
    told = ("e1", "Work/Job", "negative", scenario().text, TEXTS["negative"])
    rows = [
        Reply(f"r{i}", *told, label, text, "f, line 1")
        for i, (label, text) in enumerate(zip(LABELS, ANSWERS, strict=True))
    ]
    return [replace(rows[0], **changes), *rows[1:]]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"text": "I am furious, because I paid for that one!"}, "emotion word"),
        ({"text": "Give it here. I paid. It is my own!"}, "form"),
        ({"text": "Give it here!"}, "length"),
        ({"event_id": "e2"}, "crossing"),
        ({"valence": "positive"}, "crossing"),
        ({"event": "The whole street was shouting at me the next day."}, "emotion word"),
        ({"event": "It was wet."}, "length"),
        ({"scenario": "I sat down"}, "length"),
        ({"text": ANSWERS[1]}, "repeat"),
    ],
)
def test_reply_rules(changes: dict, rule: str):
    assert not rules(check_replies(replies(), 1))
    assert rule in rules(check_replies(replies(**changes), 1))


def test_a_common_opener_is_found():
    rows = [
        replace(reply, id=f"{reply.id}-{i}", event_id=f"e{i}", text=f"{reply.text} Case {i}.")
        for i in range(7)
        for reply in replies()
    ]
    found = [f.message for f in check_replies(rows, 7) if f.rule == "opener"]
    assert "7 of 7 anger replies begin with 'give'." in found
    assert len(found) == 7


def test_require_names_the_first_finding_and_counts_the_rest():
    with pytest.raises(DataError, match=r"f, line 1: id 'x' .*1 × id, 1 × form"):
        bad = scenario(id="x", text="We put out two chairs and a table in front of the house")
        require(f for f in check_scenarios([bad], "test", 1) if f.rule != "count")
    require([])


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Angrily, he left.", ["angrily"]),
        ("It happened in a yellow scarf.", []),
        ("Her SADNESS and his joy", ["sadness", "joy"]),
        ("the fearless, the disgusting", ["fearless", "disgusting"]),
        ("a ragged coat, a scarce good, a box's content", []),
    ],
)
def test_words_that_name_an_emotion(text: str, named: list[str]):
    assert emotion_names(text) == named


def test_displays_and_judgements_are_no_names():
    text = "She smiled at the horrible yellow sunlight."
    assert emotion_names(text) == []
    assert coloured_words(text) == ["smiled", "horrible"]


# --- overlap -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.text("abc ", min_size=1), min_size=1, max_size=5),
    st.lists(st.text("abc ", min_size=1), min_size=1, max_size=5),
    st.integers(1, 3),
)
def test_overlap_equals_the_naive_loop(left: list[str], right: list[str], n: int):
    def grams(text: str) -> set[tuple[str, ...]]:
        tokens = text.split()
        return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}

    naive = sorted(
        (len(grams(a) & grams(b)) / len(grams(a) | grams(b)), a, b)
        for a in left
        for b in right
        if grams(a) & grams(b)
    )
    found = sorted((o.jaccard, o.left, o.right) for o in overlaps(left, right, n=n))
    assert [f[1:] for f in found] == [x[1:] for x in naive]
    assert [f[0] for f in found] == pytest.approx([x[0] for x in naive])


def test_overlap_within_a_file_meets_every_pair_once():
    texts = ["a b c", "a b d", "x y z", "a b c"]
    assert [(o.left, o.right) for o in overlaps(texts, n=2)] == [
        ("a b c", "a b c"),
        ("a b c", "a b d"),
        ("a b d", "a b c"),
    ]


def test_a_paraphrase_in_another_file_is_found():
    texts = scenario_texts([scenario()])
    close = "I put out two chairs and one table in front of the house"
    (finding, *_) = check_overlap(texts, [close], between="a and b")
    assert finding.rule == "overlap" and "'a and b'" not in finding.message
    assert not check_overlap(texts, ["My train to the sea was late"], between="a and b")


# --- malformed files -----------------------------------------------------------------------------

ROW = {"theme": "t", "scenario": "s", "event": dict(TEXTS), "skeleton_id": "i"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"line 2: not valid JSON"),
        ("[1]", r"line 2: a list, not a JSON object"),
        ({**ROW, "scenario": " "}, r"line 2: 'scenario' is ' '; it must be non-empty text"),
        ({k: v for k, v in ROW.items() if k != "theme"}, r"line 2: 'theme' is missing"),
        ({**ROW, "event": {"positive": "x"}}, r"line 2: 'event.neutral' is missing"),
        (
            {**ROW, "event": {**TEXTS, "neutral": 3}},
            r"line 2: 'event.neutral' is 3; it must be",
        ),
        (ROW, r"line 2: id 'i' was used before, in .*line 1"),
    ],
)
def test_malformed_scenarios_are_named_by_file_and_line(tmp_path: Path, row: object, message: str):
    path = write(tmp_path / "bad.jsonl", ROW, row)
    with pytest.raises(DataError, match=message) as caught:
        load_scenarios(path)
    assert "bad.jsonl" in str(caught.value)


def test_missing_empty_and_foreign_files(tmp_path: Path):
    with pytest.raises(DataError, match="no such file: nowhere.jsonl"):
        load_vignettes("nowhere.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        load_scenarios(write(tmp_path / "empty.jsonl", ""))
    path = write(tmp_path / "v.jsonl", {"id": "1", "emotion": "angr", "text": "x"})
    with pytest.raises(DataError, match="'emotion' is unknown: 'angr'. Did you mean 'anger'"):
        load_vignettes(path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "caf\xe9"}')
    with pytest.raises(DataError, match="not UTF-8"):
        load_replies(tmp_path / "latin.jsonl")


def test_a_reply_of_unknown_valence_is_refused(tmp_path: Path):
    row = {k: "x" for k in ("id", "event_id", "theme", "scenario", "event", "reply")}
    path = write(tmp_path / "r.jsonl", {**row, "emotion": "fear", "valence": "good"})
    with pytest.raises(DataError, match="'valence' is unknown: 'good'"):
        load_replies(path)


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
