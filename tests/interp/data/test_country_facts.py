"""The shipped facts in both forms: the same facts, short answers, no counterpart with the same."""

import json
import runpy
from collections import Counter

import pytest
from conftest import ROOT

import interp
from interp.data import datasets as shipped
from interp.data.pairs import tokenise
from interp.data.splits import split_by_entity

BOTH = ("country_facts", "country_facts_chat")
MADE = runpy.run_path(str(ROOT / "datasets/build/country_facts.py"))


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in shipped.locate(name).read_text("utf-8").splitlines()]


def test_both_forms_hold_the_same_facts_under_the_same_ids():
    plain, chat = map(lines, BOTH)
    known = {fact.id: fact for fact in MADE["facts"]()}
    assert len(plain) == len(chat) >= 200
    for one, other in zip(plain, chat, strict=True):
        assert (one["id"], one["spans"]) == (other["id"], other["spans"])
        fact = known[one["id"]]
        sentence, answers = fact.completion()
        assert one["clean"] == sentence
        question, replies = fact.chat()
        assert other["clean"] == question
        for row, accepted in ((one, answers), (other, replies)):
            given = row["answer"]
            listed = [given] if isinstance(given, str) else given
            assert listed[0] == accepted[0]
            assert set(listed) <= set(accepted)
            assert not {*listed} & {*([w] if isinstance(w := row["wrong_answer"], str) else w)}


def test_each_subject_is_clean_and_corrupt_once_in_its_relation():
    rows = lines("country_facts")
    for relation, n in Counter(row["relation"] for row in rows).items():
        own = [row["spans"]["subject"] for row in rows if row["relation"] == relation]
        clean, corrupt = ([pair[side] for pair in own] for side in (0, 1))
        assert len(set(clean)) == n >= 50
        assert sorted(clean) == sorted(corrupt)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("smollm", BOTH),
        pytest.param("gemma", BOTH[:1], marks=pytest.mark.slow),
        pytest.param("qwen", BOTH, marks=pytest.mark.slow),
    ],
)
def test_answers_have_one_to_four_tokens(model: str, names: tuple[str, ...], request):
    loaded = request.getfixturevalue(model)
    for name in names:
        pairs = interp.load_pairs(name)
        tokens, excluded = tokenise(loaded, pairs)
        assert not excluded
        counts = Counter(len(pair.answers[0][0]) for pair in tokens)
        assert set(counts) == {1, 2, 3, 4}
        assert max(len(a) for pair in tokens for answer in pair.answers for a in answer) == 4
        assert sum(len(pair.clean) == len(pair.corrupt) for pair in tokens) > 0.9 * len(pairs)
        assert all(pair.spans["subject"] for pair in tokens)


def test_halves_share_no_country():
    halves = split_by_entity(interp.load_pairs("country_facts_chat"), "subject")
    assert min(map(len, halves.values())) > 60
