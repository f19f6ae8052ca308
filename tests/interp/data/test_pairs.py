"""Prompt pairs: what is read, what is refused and in which words, and which tokens spans cover."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import tiny, word_pairs, word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets
from interp.data.pairs import PromptPairs, load_pairs, tokenise
from interp.data.token_batch import batch
from interp.errors import DataError, InterpWarning, PlanError
from interp.model.model import Model
from interp.results.run_folder import names_of

ROW = {"clean": "w1 w2 w3", "corrupt": "w4 w2 w3", "answer": "w5", "wrong_answer": "w6"}
FRANCE = {
    "clean": "The capital of France is",
    "corrupt": "The capital of Italy is",
    "answer": "Paris",
    "wrong_answer": "Rome",
    "subject": ["France", "Italy"],
}


def row(**changes) -> dict:
    return ROW | changes


def without(key: str) -> dict:
    return {k: v for k, v in ROW.items() if k != key}


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# --- reading -----------------------------------------------------------------------------------


def test_records_keep_their_order_ids_and_places():
    pairs = PromptPairs.from_records([row(id="a"), row(), row(id=7)], "mine")
    assert [pair.id for pair in pairs] == ["a", "2", "7"]
    assert [pair.where for pair in pairs] == ["mine, row 1", "mine, row 2", "mine, row 3"]
    assert repr(pairs) == "PromptPairs(3 from mine)"
    assert isinstance(pairs[:2], PromptPairs)
    assert [pair.id for pair in pairs[:2]] == ["a", "2"]
    assert pairs[:2].source == "mine"
    assert load_pairs(pairs) is pairs


def test_a_span_is_a_text_two_texts_or_character_ranges():
    spans = {"one": "w2", "two": ["w1", "w4"], "range": [3, 5], "ranges": [[0, 2], [3, 8]]}
    (pair,) = PromptPairs.from_records([row(spans=spans, subject=["w1 w2", "w4 w2"])])
    assert pair.spans == {
        "one": ((3, 5), (3, 5)),
        "two": ((0, 2), (0, 2)),
        "range": ((3, 5), (3, 5)),
        "ranges": ((0, 2), (3, 8)),
        "subject": ((0, 5), (0, 5)),
    }


def test_every_source_gives_the_same_pairs(tmp_path: Path):
    records = [row(id="a", subject=["w1", "w4"]), row(id="b", subject=["w3", "w3"])]
    lines = [json.dumps(record) for record in records]
    file = write(tmp_path / "p.jsonl", lines[0], "", lines[1], "")
    of_file, of_str = load_pairs(file), load_pairs(str(file))
    of_dataset = load_pairs(datasets.Dataset.from_list(records))
    of_records = load_pairs(records)
    assert of_file.source == of_str.source == "p.jsonl"
    assert of_records.source == "records"
    for pairs in (of_str, of_dataset, of_records):
        for got, want in zip(pairs, of_file, strict=True):
            assert vars(got) | {"where": ""} == vars(want) | {"where": ""}
    with pytest.raises(DataError, match="a data frame; give its rows"):
        load_pairs(pd.DataFrame(records))


def test_an_id_may_be_zero():
    assert [pair.id for pair in PromptPairs.from_records([row(id=0), row(id=1)])] == ["0", "1"]


def test_a_null_span_counts_as_absent():
    rows = [row(spans={"a": "w2"}), row(spans={"b": "w3"})]
    pairs = load_pairs(datasets.Dataset.from_list(rows))
    assert [list(pair.spans) for pair in pairs] == [["a"], ["b"]]


# --- refused while reading ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([], "mine holds no pairs; give at least one row."),
        ([ROW, without("clean")], "mine, row 2: 'clean' is missing."),
        ([row(answer=3)], "mine, row 1: 'answer' is 3; it must be text, or a list of texts."),
        ([row(clean=" ")], "mine, row 1: 'clean' is ' '; it must be non-empty text."),
        (
            [row(id="x"), row(id="y"), row(id="x")],
            "mine, row 3: id 'x' was used before, in mine, row 1; give every row its own.",
        ),
        (
            [row(clean="w1 w2 w2", subject="w2")],
            "mine, row 1: span 'subject' ('w2') occurs 2 times in 'w1 w2 w2'",
        ),
        (
            [row(subject="w1")],
            "mine, row 1: span 'subject' ('w1') occurs 0 times in 'w4 w2 w3'; give a text that "
            "occurs exactly once, or a [start, end] range of characters.",
        ),
        ([row(spans={"s": [2, 99]})], "span 's' ([2, 99]) is not in 'w1 w2 w3'"),
        ([row(spans={"s": [2, 2]})], "span 's' ([2, 2]) is not in"),
        ([row(spans={"s": 4})], "span 's' (4) is not in"),
    ],
)
def test_bad_rows_are_named(records: list, says: str):
    with pytest.raises(DataError) as error:
        PromptPairs.from_records(records, "mine")
    assert says in str(error.value)


def test_spans_that_are_no_mapping_are_named():
    with pytest.raises(DataError, match="row 1.*spans"):
        PromptPairs.from_records([row(spans=["w1"])])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([json.dumps(ROW), "", "{'clean'"], "line 3: not valid JSON (Expecting property name"),
        ([json.dumps(ROW), "[1, 2]"], "line 2: a list, not a JSON object."),
        (["7"], "line 1: a int, not a JSON object."),
    ],
)
def test_a_bad_line_is_named_by_number(tmp_path: Path, lines: list[str], says: str):
    with pytest.raises(DataError) as error:
        load_pairs(write(tmp_path / "p.jsonl", *lines))
    assert str(error.value).startswith(f"{tmp_path / 'p.jsonl'}, ")
    assert says in str(error.value)


def test_a_file_that_is_not_text_is_named(tmp_path: Path):
    (tmp_path / "p.jsonl").write_bytes(b'{"clean": "\xff"}')
    with pytest.raises(DataError, match="p.jsonl is not UTF-8 text"):
        load_pairs(tmp_path / "p.jsonl")


def test_a_data_set_that_cannot_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*args, **options):
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError) as error:
        load_pairs("someone/pairs")
    assert "cannot load data set 'someone/pairs'" in str(error.value)
    assert "(ConnectionError: no route)" in str(error.value)


# --- refused in a model's tokens ---------------------------------------------------------------

REFUSALS = [
    (row(corrupt=ROW["clean"]), "clean and corrupt are the same tokens, so there is nothing"),
    (row(answer="w5 w7"), "answer ' w5 w7' is 2 tokens ['w5', 'w7'], and must be one."),
    (row(wrong_answer="w5 w7 w8"), "wrong_answer ' w5 w7 w8' is 3 tokens"),
    (row(wrong_answer="w5"), "answer and wrong_answer are the same token 'w5'."),
    (
        row(corrupt="w3 w2 w3", spans={"s": ["w1", [6, 8]], "t": ["w3", [0, 2]]}),
        "spans 's' and 't' are in another order in the corrupt prompt than in the clean one",
    ),
    (row(spans={"s": [2, 3]}), "the characters 2 to 3 of 'w1 w2 w3' lie in no token."),
]


@pytest.mark.parametrize(("record", "says"), REFUSALS)
def test_unusable_rows_are_left_out_with_their_reason(record: dict, says: str):
    rows = [row(id="good"), record | {"id": "bad"}, row(id="fine", answer="w8")]
    kept, refused = tokenise(tiny("llama"), PromptPairs.from_records(rows, "mine"), "single")
    assert [pair.pair.id for pair in kept] == ["good", "fine"]
    assert [(r.id, r.where) for r in refused] == [("bad", "mine, row 2")]
    assert says in refused[0].reason
    with pytest.raises(DataError) as error:
        tokenise(tiny("llama"), PromptPairs.from_records([record, record], "mine"), "single")
    assert "none of the 2 pairs in mine can be used with" in str(error.value)
    assert f"first: mine, row 1: {says}" in str(error.value)


def test_an_answer_that_merges_with_a_trailing_space_is_refused(smollm: Model):
    spaced = FRANCE | {"clean": "The capital of France is ", "corrupt": "The capital of Italy is "}
    with pytest.raises(DataError) as error:
        tokenise(smollm, PromptPairs.from_records([spaced]))
    assert "answer 'Paris' merges with the end of the prompt" in str(error.value)
    assert "end the prompt before the space." in str(error.value)


def test_a_word_of_many_tokens_is_whole_or_its_first_or_refused(smollm: Model):
    rows = PromptPairs.from_records([FRANCE, FRANCE | {"answer": "Antananarivo"}])
    kept, refused = tokenise(smollm, rows, "single")
    assert len(kept) == 1
    assert "' Antananarivo' is 4 tokens [' Ant', 'anan', 'ar', 'ivo']" in refused[0].reason
    for answers, wanted in (("whole", [" Ant", "anan", "ar", "ivo"]), ("first", [" Ant"])):
        (_, pair), refused = tokenise(smollm, rows, answers)
        assert [smollm.token(t) for t in pair.answers[0][0]] == wanted
        assert not refused
    with pytest.raises(PlanError, match="answers='all'; choose 'whole' or 'first'"):
        tokenise(smollm, rows, "all")


# --- tokens ------------------------------------------------------------------------------------


@pytest.fixture(params=["smollm", "gemma"])
def real(request: pytest.FixtureRequest) -> Model:
    return request.getfixturevalue(request.param)


def test_spans_lie_on_their_tokens(real: Model):
    record = FRANCE | {"spans": {"start": "The capital", "end": "is", "inner": "apit"}}
    ((pair,), _) = tokenise(real, PromptPairs.from_records([record]))

    def said(ids, place: str) -> list[str]:
        side = int(ids is pair.corrupt)
        return [real.token(ids[both[side]]) for both in pair.matched(place)]

    assert said(pair.clean, "subject") == [" France"]
    assert said(pair.corrupt, "subject") == [" Italy"]
    assert said(pair.clean, "start") == ["The", " capital"]
    assert said(pair.clean, "start_last") == [" capital"]
    assert said(pair.clean, "inner") == [" capital"]
    assert said(pair.clean, "end") == said(pair.clean, "last") == [" is"]
    assert pair.matched("all") == tuple((i, i) for i in range(len(pair.clean)))
    assert real.token(pair.clean[pair.first_difference]) == " France"
    assert (real.token(pair.answer), real.token(pair.wrong_answer)) == (" Paris", " Rome")


def test_a_span_with_its_leading_space_is_the_same_token(real: Model):
    spaced = FRANCE | {"subject": [" France", " Italy"]}
    (pair, with_space), _ = tokenise(real, PromptPairs.from_records([FRANCE, spaced]))
    assert pair.spans == with_space.spans


@pytest.mark.parametrize(
    ("end", "answer", "token"),
    [
        (" is", "Paris", " Paris"),
        (" is", " Paris", " Paris"),
        (' is "', "Paris", "Paris"),
        (" is (", "Paris", "Paris"),
        (" is:\n", "Paris", "Paris"),
    ],
)
def test_an_answer_gets_a_leading_space_where_text_would_have_one(
    smollm: Model, end: str, answer: str, token: str
):
    record = {
        "clean": f"The capital of France{end}",
        "corrupt": f"The capital of Italy{end}",
        "answer": answer,
        "wrong_answer": answer.replace("Paris", "London"),
    }
    ((pair,), _) = tokenise(smollm, PromptPairs.from_records([record]))
    assert smollm.token(pair.answer) == token
    assert smollm.token(pair.wrong_answer) == token.replace("Paris", "London")


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_span_of_words_is_the_same_span_of_tokens(data: st.DataObject):
    words = data.draw(st.lists(st.integers(0, 89), min_size=1, max_size=12, unique=True))
    gaps = data.draw(st.lists(st.sampled_from([" ", "  ", "\n"]), min_size=12, max_size=12))
    first = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(first + 1, len(words)))
    changed = data.draw(st.integers(0, len(words) - 1))
    other = [w if i != changed else (w + 1) % 90 for i, w in enumerate(words)]

    def prompt_and_span(numbers: list[int]) -> tuple[str, list[int]]:
        texts, ranges = "", []
        for number, gap in zip(numbers, gaps, strict=False):
            texts += gap if texts else ""
            ranges.append((len(texts), len(texts) + len(f"w{number}")))
            texts += f"w{number}"
        return texts, [ranges[first][0], ranges[end - 1][1]]

    (clean, in_clean), (corrupt, in_corrupt) = map(prompt_and_span, (words, other))
    record = {"clean": clean, "corrupt": corrupt, "spans": {"s": [in_clean, in_corrupt]}}
    pairs = PromptPairs.from_records([row(**record)])
    ((pair,), refused) = tokenise(tiny("llama"), pairs)
    assert not refused
    assert pair.spans["s"] == tuple(range(first, end))
    assert pair.matched("s_last") == ((end - 1, end - 1),)
    assert pair.first_difference == changed
    assert [tiny("llama").token(t) for t in pair.clean] == [f"w{n}" for n in words]


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_are_padded_on_the_side_of_the_tokenizer(side: str):
    model = replace(tiny("llama"), tokenizer=word_tokenizer(side))
    kept, _ = tokenise(model, word_pairs())
    tokens = batch(model, kept)
    assert tokens.ids.shape == (6, 8)
    for i, prompt in enumerate(ids for pair in kept for ids in (pair.clean, pair.corrupt)):
        assert tokens.ids[i][tokens.mask[i]].tolist() == list(prompt)
        start = 8 - len(prompt) if side == "left" else 0
        assert tokens.left[i] == start
        assert tokens.mask[i, start : start + len(prompt)].all()
        assert tokens.columns[i].tolist() == [start + len(prompt) - 1]
    both = [[pair.answer, pair.wrong_answer] for pair in kept for _ in range(2)]
    assert tokens.answers.first.tolist() == both
    assert tokens.answers.token.flatten(1).tolist() == both
    assert tokens.tree is None


def test_prompts_of_unequal_length_are_aligned():
    record = {
        "clean": "w1 w2 w7 w8 w3",
        "corrupt": "w5 w1 w2 w9 w3",
        "answer": "w20",
        "wrong_answer": "w21",
        "spans": {"s": ["w7 w8", "w9"]},
    }
    ((pair,), refused) = tokenise(tiny("llama"), PromptPairs.from_records([record]))
    assert not refused
    assert (pair.spans, pair.corrupt_spans) == ({"s": (2, 3)}, {"s": (3,)})
    assert pair.partner == (1, 2, None, 3, 4)
    assert pair.unpaired == (1, 1)
    assert pair.first_difference == 0
    assert pair.matched("all") == ((0, 1), (1, 2), (3, 3), (4, 4))
    assert pair.matched("s") == pair.matched("s_last") == ((3, 3),)
    assert pair.matched("last") == ((4, 4),)
    assert [pair.matched(i) for i in (1, 2, 4, 5)] == [((1, 2),), (), ((4, 4),), ()]
    longer = record | {"clean": "w1 w2 w7", "corrupt": "w1 w2 w8 w7", "spans": {}}
    ((pair,), _) = tokenise(tiny("llama"), PromptPairs.from_records([longer]))
    assert (pair.partner, pair.first_difference) == ((0, 1, 3), 2)


def test_other_columns_are_labels_that_no_run_depends_on():
    row = {"clean": "a b", "corrupt": "c b", "answer": "d", "wrong_answer": "e"}
    more = row | {"template": "first", "year": 1990, "nested": {"x": 1}, "right": True}
    (plain,), (labelled,) = (load_pairs([one]).pairs for one in (row, more))
    assert labelled.labels == {"template": "first", "year": "1990"}
    assert plain.labels == {}
    assert names_of([plain]) == names_of([labelled])
    assert names_of([plain]) != names_of([replace(plain, answer="x")])
    (chat,) = PromptPairs((labelled,)).as_chat().pairs
    assert chat.labels == labelled.labels


def test_a_field_that_nothing_reads_is_said_once_with_how_to_give_a_span(tmp_path: Path):
    one = {"noun": "cat", "span": {"verb": "w2"}, "template": "first"}
    file = write(tmp_path / "mine.jsonl", json.dumps(row()), json.dumps(row(**one)))
    with pytest.warns(InterpWarning) as said:
        load_pairs(file)
    (text,) = [str(one.message) for one in said]
    assert text.startswith("mine.jsonl, row 2: 'noun', 'span' are no fields of a pair, so only")
    assert '"spans": {"noun": ["TEXT IN CLEAN", "TEXT IN CORRUPT"]}' in text
    assert "Did you mean 'spans'? Available: answer, clean, corrupt, id, spans, subject" in text
    with pytest.warns(InterpWarning, match="records, row 1: 'noun' is no field of a pair"):
        load_pairs(iter([row(noun="cat")]))


@pytest.mark.parametrize("name", ["country_facts", "ioi", "linguistic_puzzles"])
def test_the_labels_of_shipped_data_are_known(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error", InterpWarning)
        assert load_pairs(name)[0].labels
