"""Damaged input files end in one sentence, soon: never in a foreign exception, never in a hang."""

import contextlib
import json
import os
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny
from damage import damaged
from input_examples import Kind, dumped, first, kinds, shipped

import interp
from circuits.cli.app import run
from circuits.discovery import Circuit
from circuits.editing.evaluation import load_cases
from circuits.emotion import EmotionRecipe, load_frames
from circuits.emotion.emotion_settings import SteeringDose
from circuits.recall_reasoning.settings import StudySettings, load_recipe
from circuits.recall_reasoning.sources.countries import load_facts as load_countries
from interp.data.pairs import PromptPairs
from interp.data.prompts import prompt
from interp.data.records import MOST_NESTED, Row, Text, checked, parse_json, read_jsonl, read_text
from interp.errors import DataError, InterpError, shown

KINDS = kinds()
LONGEST, SECONDS = 400, 2
FEW, MANY = 100, 1_000
"""Damaged files of each kind."""


class TooSlowError(BaseException):
    """No `Exception`, which a loader might catch."""


@contextlib.contextmanager
def limited(seconds: float) -> Generator[None]:
    def stop(*_: Any) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault(load: Callable[[Path], Any], path: Path) -> str | None:
    """What is wrong with how a file is loaded or refused; ``""`` where it is refused well."""
    try:
        with limited(SECONDS):
            load(path)
    except InterpError as error:
        said = str(error)
        if "\n" in said or not said.isprintable():
            return f"not one line: {said!r}"
        return f"{len(said)} characters: {said}" if len(said) > LONGEST else ""
    except TooSlowError:
        return f"took longer than {SECONDS} s"
    except BaseException:
        return traceback.format_exc(limit=-2)
    return None


def faults(name: str, kind: Kind, folder: Path, n: int) -> tuple[list[str], int]:
    """The faults of `n` damaged files, and how many files were refused."""
    for beside, content in kind.beside.items():
        (folder / beside).write_bytes(content)
    found, refused = [], 0
    for i in range(n):
        path = folder / kind.file
        path.write_bytes(damaged(kind, random.Random(f"{name} {i}")))
        said = fault(kind.load, path)
        refused += said is not None
        if said:
            found.append(f"case {i} of {name}: {said}\n{path.read_bytes()[:200]!r}")
    return found, refused


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_load(name: str, tmp_path: Path):
    kind = KINDS[name]
    for file, content in kind.beside.items():
        (tmp_path / file).write_bytes(content)
    (tmp_path / kind.file).write_bytes(kind.text())
    assert kind.load(tmp_path / kind.file)
    if kind.file.endswith((".json", ".jsonl", ".txt")):  # as an editor on Windows saves it
        changed = b"\xef\xbb\xbf" + kind.text().replace(b"\n", b"\r\n")
        (tmp_path / kind.file).write_bytes(changed)
        assert kind.load(tmp_path / kind.file)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_in_a_sentence(name: str, tmp_path: Path):
    found, refused = faults(name, KINDS[name], tmp_path, FEW)
    assert not found, "\n\n".join([f"{len(found)} faults", *found[:5]])
    assert refused > (0 if KINDS[name].file.endswith(".txt") else FEW / 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_damaged_files_are_refused_in_a_sentence(name: str, tmp_path: Path):
    found, _ = faults(name, KINDS[name], tmp_path, MANY)
    assert not found, "\n\n".join([f"{len(found)} faults", *found[:8]])


def test_the_damage_is_as_much_as_it_should_be():
    assert FEW * len(KINDS) >= 2_000 and MANY * len(KINDS) >= 20_000
    kind = KINDS["pairs"]
    same = damaged(kind, random.Random("x")), damaged(kind, random.Random("x"))
    assert same[0] == same[1]
    made = Counter(damaged(kind, random.Random(i)) for i in range(300))
    assert len(made) > 250


# --- files -------------------------------------------------------------------------------------


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("x" * 100)
    monkeypatch.setattr("interp.data.records.MOST_BYTES", 99)
    for path, message in (
        (tmp_path, "is a folder, not a file; give a file of stories"),
        (tmp_path / "pipe", "is a pipe or device, not a file"),
        (tmp_path / "long", "has 100 bytes, more than"),
        (tmp_path / "none", "no such file: .*none; give a file of stories"),
        (tmp_path / "x" / ("n" * 5000), "cannot read .*File name too long"),
        ("nul\0", "cannot read .*null"),
    ):
        with limited(SECONDS), pytest.raises(DataError, match=message) as caught:
            read_text(path, "stories")
        assert len(str(caught.value)) <= LONGEST
    for load in (interp.load_pairs, load_cases):
        with pytest.raises(DataError, match="no such file: n.*n.jsonl; give a JSON"):
            load("n" * 5000 + ".jsonl")


def test_lines_are_ended_by_newlines_alone(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "x\u2028y"}\r\n\r\n{"a": "\x85"}', newline="")
    assert read_jsonl(path) == [(1, {"a": "x\u2028y"}), (3, {"a": "\x85"})]


# --- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[NaN]", "f: NaN is not a number of JSON"),
        ("[-Infinity]", "f: -Infinity is not a number"),
        ("[1e999]", "f: 1e999 is too large"),
        ("9" * 5000, "f: 9+...9+ is too large; whole numbers have up to 18 digits"),
        ("-" + "9" * 19, "f: -9999999999999999999 is too large"),
        ("[" * 65 + "]" * 65, "f: lists or objects are nested more than 64 deep"),
        ("[" * 10**6, "f: lists or objects are nested more than 64 deep"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "f: key 'c' stands twice in one object"),
        (r'{"a": "\ud800"}', r"f: \\ud800 is half of a character"),
        (r'{"\udfff": 1}', r"f: \\udfff is half of a character"),
        ('{"a": 1}\n{"b": 2}', "f, line 2: not valid JSON .Extra data at column 1"),
        ("", "f, line 1: not valid JSON"),
    ],
)
def test_json_that_could_be_mistaken_is_refused(text: str, message: str):
    with limited(SECONDS), pytest.raises(DataError, match=message) as caught:
        parse_json(text, "f")
    assert len(str(caught.value)) < 120


def test_json_that_means_one_thing_is_read():
    deep = "[" * MOST_NESTED + "]" * MOST_NESTED
    assert json.dumps(parse_json(deep, "f")) == deep
    assert parse_json(f"[{'9' * 18}, -0.5, 1e300]", "f") == [10**18 - 1, -0.5, 1e300]
    assert parse_json(r'["\ud83d\ude00"]', "f") == ["😀"]
    with pytest.raises(DataError, match="f, line 7: not valid JSON"):
        parse_json("{", "f", 7)


# --- messages ----------------------------------------------------------------------------------


def test_values_are_shown_short_and_in_one_line():
    deep: list[Any] = []
    deep.append(deep)
    assert shown("a") == "'a'" and shown(["a", 1]) == "['a', 1]" and shown(None) == "None"
    for value in ("x" * 10**6, ["x" * 100] * 9, "\n\u2028", 10**5000, deep, {"k" * 99: "v" * 99}):
        assert len(shown(value)) <= 60 and shown(value).isprintable()
    assert len(shown("x" * 99, 20)) == 20


class Nested(Row):
    words: dict[str, list[Text]]


class Sample(Row):
    name: Text
    sizes: tuple[int, int] = (1, 2)
    inner: Nested | None = None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "f: it is []; it must be a JSON object."),
        ({}, "f: 'name' is missing."),
        ({"name": 3}, "f: 'name' is 3; it must be text."),
        ({"name": " "}, "f: 'name' is ' '; it must be non-empty text."),
        ({"name": "x", "sizes": [1]}, "f: 'sizes[1]' is missing."),
        ({"name": "x", "sizes": [1, True]}, "f: 'sizes[1]' is True; it must be a whole number."),
        ({"name": "x", "sizes": [1, 2.0]}, "f: 'sizes[1]' is 2.0; it must be a whole number."),
        ({"name": "x", "inner": {}}, "f: 'inner.words' is missing."),
        (
            {"name": 3, "inner": {"words": {"a": ["b", 1]}}},
            "f: 'name' is 3; it must be text. (1 more fault.)",
        ),
        (
            {"name": "x", "inner": {"words": {"k" * 5000: 1}}},
            f"f: 'inner.words.{'k' * 15}...{'k' * 28}' is 1; it must be a list.",
        ),
    ],
)
def test_a_fault_names_place_value_and_what_it_must_be(record: Any, message: str):
    with pytest.raises(DataError) as caught:
        checked(Sample, record, "f")
    assert str(caught.value) == message


def test_checked_records_keep_their_kinds():
    assert checked(Sample, {"name": "x", "sizes": [3, 4], "more": 1}, "f").sizes == (3, 4)
    assert checked(SteeringDose, {"fraction": 1, "layers": [0, 2]}, "f").layers == (0, 2)


# --- what would be a wrong number --------------------------------------------------------------

PAIR = {"clean": "a b c", "corrupt": "a d c", "answer": "x", "wrong_answer": "y"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": True}, "'id' is True; it must be text or a whole number"),
        ({"id": [1]}, "'id' is \\[1\\]"),
        ({"spans": {"s": [False, True]}}, "span 's' .* is not in 'a b c'"),
        ({"spans": {"last": "a"}}, "a span cannot be called 'last'"),
        ({"spans": []}, "'spans' is \\[\\]; it must be a JSON object"),
        ({"clean": "x " * 5000}, "span 's' .'b'. occurs 0 times in 'x x"),
    ],
)
def test_odd_pairs_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message) as caught:
        PromptPairs.from_records([PAIR | {"spans": {"s": ["b", "d"]}} | change])
    assert len(str(caught.value)) <= LONGEST


def test_spans_of_prompts_may_have_any_name_that_is_free():
    model = tiny("llama")
    assert prompt(model, "w1 w2", model="w2", text="w1").spans["model"] == (1,)
    with pytest.raises(DataError, match="a span cannot be called 'all'"):
        prompt(model, "w1 w2", all="w2")


RECIPE = shipped("emotion/recipes/smollm2-135m.json")
STUDY = shipped("recall_reasoning/recipes/two-hop-organism.json")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("doses", "steering", "fraction"), 0, "'doses.steering.fraction' is 0; it must be great"),
        (("doses", "steering", "layers"), [9, 2], "the first layer must not lie behind the last"),
        (("doses", "circuit", "preset"), 3, "'doses.circuit.preset' is 3; it must be text"),
        (("doses", "circuit", "own", "awe"), 1, "doses.circuit.own.awe.* is unknown: 'awe'"),
        (("criteria", "words"), "5", "'criteria.words' is '5'; it must be a whole number"),
        (("decoding", "new_tokens"), 0, "it must be greater than or equal to 1"),
        (("n",), 2.5, "'n' is 2.5; it must be a whole number"),
        (("dtype",), "fp32", "'dtype' is unknown: 'fp32'"),
        (("judge",), "x", "'judge' is not a field that is known here. Did you mean 'judge_model'"),
    ],
)
def test_recipes_of_emotion_circuits(tmp_path: Path, place: tuple[str, ...], value, message: str):
    with pytest.raises(DataError, match=message):
        EmotionRecipe.load(changed(tmp_path / "r.json", RECIPE, place, value))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("settings", "sizes"), [0], "'settings.sizes\\[0\\]' is 0; it must be greater"),
        (("settings", "seeds"), [-1], "'settings.seeds\\[0\\]' is -1"),
        (("settings", "seeds"), [], "'settings.seeds' is \\[\\]; it must have at least 1 item"),
        (("settings", "min_drop"), 15, "'settings.min_drop' is 15; it must be less"),
        (("settings", "design"), "3x3", "'settings.design' is unknown: '3x3'"),
        (("settings", "n_tests"), 3, "'settings.n_tests' is not a field"),
        (("model",), None, "'model' is None; it must be text"),
    ],
)
def test_recipes_of_recall_studies(tmp_path: Path, place: tuple[str, ...], value, message: str):
    with pytest.raises(DataError, match=message):
        load_recipe(changed(tmp_path / "r.json", STUDY, place, value))


def changed(path: Path, content: Any, place: tuple[Any, ...], value: Any) -> Path:
    """A file of the content with another value at a place."""
    content = json.loads(json.dumps(content))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_bytes(dumped(path.name, content))
    return path


def test_settings_still_take_whole_numbers_for_margins():
    assert StudySettings().but(effect_margin=1).effect_margin == 1.0


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("vignette",), "{text", "vignette: .*write {{ for a brace"),
        (("vignette",), "{text:>99999999}", "vignette: has the fields"),
        (("frames", 0, "neutral"), "{scenario} {event.text}", "has the fields"),
        (("frames", 1, "name"), "felt", "two frames have the same name"),
        (("words", "A"), {}, "words 'A': has"),
    ],
)
def test_frames_have_their_fields_alone(tmp_path: Path, place, value, message: str):
    content = first("emotion_frames.json")
    with pytest.raises(DataError, match=message):
        load_frames(changed(tmp_path / "f.json", content, place, value))


def test_an_entity_in_two_rows_cannot_come_into_two_splits(tmp_path: Path):
    rows = first("recall_facts.jsonl", 2)
    (tmp_path / "c.jsonl").write_bytes(dumped("c.jsonl", [*rows, rows[0]]))
    with pytest.raises(
        DataError, match="line 3: country 'Afghanistan' was used before, in .* line 1"
    ):
        load_countries(tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("cfg", "n_layers"), 10**9, "its 4 nodes are not those of 1000000000 layers"),
        (("cfg", "parallel_attn_mlp"), "no", "it must be true or false"),
        (("interp", "prompts"), "abc", "'interp.prompts' is 'abc'; it must be a list"),
        (("nodes", "a0.h0", "kept_neurons"), [1], "keeps neurons of 'a0.h0'"),
        (("nodes", "m0", "kept_neurons"), [1, 1], "keeps neurons of 'm0', .* has one twice"),
        (("edges", "m0->logits", "in_graph"), 1, "it must be true or false"),
    ],
)
def test_circuits_are_of_their_own_graph(tmp_path: Path, place, value, message: str):
    with pytest.raises(InterpError, match=message):
        Circuit.load(changed(tmp_path / "c.json", KINDS["circuit"].content, place, value))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("config", "n_layers"), 10**15, "layers.1.attn.query.weight is missing"),
        (("config", "d_mlp"), 10**15, "has shape .3, 4., not .1000000000000000, 4."),
        (("input_ids", "a"), 1, "'input_ids' must number BOS, compiler_pad and all other words"),
        (("pairs", 0, "clean_ids"), [2, 0], "must all be of one length"),
        (("pairs", 0, "clean_ids"), [2, 0, 9], "and of the vocabulary"),
        (("edge_scores", "m9->logits"), {"eap": 1}, "'m9->logits' is not an edge of its graph"),
        (("gt_edges_resample_nonzero",), [], "lacks gt_edges_resample_nonzero"),
    ],
)
def test_programs_are_what_they_are_described_to_be(tmp_path: Path, place, value, message: str):
    kind = KINDS["program"]
    (tmp_path / "x.npz").write_bytes(kind.beside["x.npz"])
    with limited(SECONDS), pytest.raises(InterpError, match=message):
        kind.load(changed(tmp_path / "x.json", kind.content, place, value))


# --- the command line --------------------------------------------------------------------------

MODEL = ["--model", "no-such-model"]
"""Looked for only once the files are sound."""


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("pairs", ["patch", *MODEL, "--pairs", "{}"]),
        ("pairs", ["attribute", *MODEL, "--pairs", "{}"]),
        ("pairs", ["circuit", "discover", *MODEL, "--out", "x", "--size", "3", "--pairs", "{}"]),
        ("circuit", ["circuit", "show", "{}"]),
        ("program", ["circuit", "score-methods", "{}"]),
        ("questions", ["query-value", "find", *MODEL, "--prompts", "{}"]),
        ("facts", ["edit", "apply", *MODEL, "--ledger", "x", "--facts", "{}"]),
        ("cases", ["edit", "evaluate", *MODEL, "--cases", "{}"]),
        ("emotion recipe", ["emotion", "run", "--out", "x", "--recipe", "{}"]),
        ("recall recipe", ["recall-reasoning", "run", "--out", "x", "--recipe", "{}"]),
        ("released", ["recall-reasoning", "replicate", *MODEL, "--out", "x", "--published", "{}"]),
    ],
)
def test_the_command_line_refuses_a_damaged_file_before_it_loads_a_model(
    kind: str, command: list[str], tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    file = KINDS[kind].file
    for beside, content in KINDS[kind].beside.items():
        (tmp_path / beside).write_bytes(content)
    named = "x.npz" if kind == "program" else file
    given = [part.format(named) for part in command]
    for damage in (b"[NaN]", b"[" * 10**5, b"\xff\xfe", b'{"a": "\\ud800"}', b"9" * 5000):
        (tmp_path / file).write_bytes(damage)
        assert run(given) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {file}") and said.count("\n") == 1
        assert len(said) < LONGEST and "no-such-model" not in said
    assert {path.name for path in tmp_path.iterdir()} == {file, *KINDS[kind].beside}
