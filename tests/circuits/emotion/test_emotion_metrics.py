"""The form of replies: counts by hand, faults on planted text."""

import math

import pytest
from conftest import ROOT

from circuits.emotion import load_replies
from circuits.emotion.emotion_metrics import distinct_bigrams, reply_form


def test_counts_by_hand():
    found = reply_form("Stop it! Stop it NOW, will you?")
    assert (found.n_words, found.n_sentences) == (7, 2)
    assert found.capitals == pytest.approx(1 / 7)
    assert found.exclamations == pytest.approx(1 / 7)
    assert not found.faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        ("?! ...", "empty"),
        ("oh oh oh, what a day it was", "loop"),
        ("I saw the sea, and I saw the hill, and I saw the town.", "loop"),
        ("this-is-all-one-word here", "run together"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa here", "run together"),
        ("GET OUT OF MY HOUSE now", "capitals"),
        ("That is <em>so</em> like you.", "markup"),
        ("See https://example.org for more.", "markup"),
    ],
)
def test_faults(text: str, fault: str):
    assert reply_form(text).faults == (fault,)


def test_ordinary_text_has_no_fault():
    replies = load_replies(ROOT / "datasets" / "emotion_replies.jsonl")
    assert [r.id for r in replies if reply_form(r.text).faults] == []


def test_short_replies_in_capitals_are_no_fault():
    assert not reply_form("NO WAY, man").faults


def test_distinct_over_texts_counts_repeats_between_them():
    assert distinct_bigrams(["a b", "a b"]) == 0.5
    assert distinct_bigrams(["a b", "a c"]) == 1.0
    assert math.isnan(distinct_bigrams(["a", ""]))
