"""Quality of replies: counts by hand, faults on planted text, relevance against a shuffle."""

import math

import numpy as np
import pytest
from conftest import ROOT

from circuits.emotion import load_replies
from circuits.emotion.quality import content_overlap, distinct, quality, relevance
from interp.errors import DataError


def test_counts_by_hand():
    found = quality("Stop it! Stop it NOW, will you?")
    assert (found.n_words, found.n_sentences) == (7, 2)
    assert found.distinct_1 == pytest.approx(5 / 7)
    assert found.distinct_2 == pytest.approx(5 / 6)
    assert (found.run, found.phrase_repeats) == (1, 1)
    assert found.capitals == pytest.approx(1 / 7)
    assert found.exclamations == pytest.approx(1 / 7)
    assert found.coherent


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
    assert quality(text).faults == (fault,)


def test_ordinary_text_has_no_fault():
    replies = load_replies(ROOT / "datasets" / "emotion_replies.jsonl")
    assert [r.id for r in replies if not quality(r.text).coherent] == []


def test_short_replies_in_capitals_are_no_fault():
    assert quality("NO WAY, man").coherent


def test_distinct_over_texts_counts_repeats_between_them():
    assert distinct(["a b", "a b"], 1) == 0.5
    assert distinct(["a b", "a c"], 2) == 1.0
    assert math.isnan(distinct(["a", ""], 2))


def test_content_overlap_leaves_out_stop_words():
    assert content_overlap("The kettle is old!", "I took the kettle to the shop") == pytest.approx(
        1 / 3
    )
    assert math.isnan(content_overlap("a", "of the"))


def test_relevance_by_hand():
    prompts = ["the green kettle", "the green kettles leaked", "a long train", "two sour lemons"]
    groups = ["k", "k", "t", "l"]
    ranks = relevance(["my kettle", "lemons", "trains", "nothing"], prompts, groups)
    # the first beats both others, the second loses to the lemons and ties with the train, the
    # third wins, the last shares nothing with any
    assert ranks.tolist() == [1.0, 0.25, 1.0, 0.5]


def test_self_written_replies_are_relevant_and_shuffled_ones_are_not():
    replies = load_replies(ROOT / "datasets" / "emotion_replies.jsonl")
    prompts = [f"{r.scenario}. {r.event}" for r in replies]
    groups = [r.event_id for r in replies]
    own = relevance([r.text for r in replies], prompts, groups)
    order = np.random.default_rng(0).permutation(len(replies))
    shuffled = relevance([replies[i].text for i in order], prompts, groups)
    assert own.mean() > 0.75
    assert 0.4 < shuffled.mean() < 0.6


def test_relevance_refuses_what_cannot_be_compared():
    with pytest.raises(DataError, match="2 replies, 1 prompts and 1 groups"):
        relevance(["a", "b"], ["a"], ["g"])
    with pytest.raises(DataError, match="one scenario"):
        relevance(["a", "b"], ["a", "b"], ["g", "g"])
