"""Judges of replies: planted styles, held-out scenarios, calibration, what they learn from."""

import numpy as np
import pytest
import torch
from conftest import tiny
from emotion_samples import SHORT, TEXTS, Small

from circuits.emotion import LABELS, load_scenarios
from circuits.emotion.emotion_metrics import presentable
from circuits.emotion.judges import (
    BEFORE,
    EVERY,
    PUBLISHED_WORDS,
    WEIGHT,
    by_activations,
    fit_judge,
    lexical_labels,
    mean_activations,
    training_replies,
)
from circuits.emotion.replies import plain_replies, read_all, replies
from circuits.emotion.steering import Condition
from circuits.emotion.texts import LabelledReply, Reply, Verdict, load_labelled
from interp.errors import DataError

WORDS = dict(zip(LABELS, ["grr", "alas", "hooray", "eek", "whoa", "ugh", "table"], strict=True))
FILLER = [f"thing{i}" for i in range(16)]


def labelled(text: str, label: str, group: str) -> LabelledReply:
    return LabelledReply(text=text, label=label, group=group, part="tuning")


def planted(n_groups: int = 12, where: int = 0, noise: float = 0.0) -> list[LabelledReply]:
    """Replies whose label is told by one word, at a place; `noise` of them are told wrongly."""
    rng = np.random.default_rng(0)
    rows = []
    for group in range(n_groups):
        for label in LABELS:
            told = rng.choice(LABELS) if rng.random() < noise else label
            text = list(rng.choice(FILLER, 9))
            text.insert(where, WORDS[told])
            rows.append(labelled(" ".join(text), label, f"s{group}"))
    return rows


def accuracy(rows: list[LabelledReply], make=None) -> float:
    """On replies to the last third of the scenarios, of a judge fitted on the others."""
    groups = list(dict.fromkeys(row.group for row in rows))
    unseen = set(groups[-len(groups) // 3 :])
    judge = fit_judge([row for row in rows if row.group not in unseen], 3, make)
    test = [row for row in rows if row.group in unseen]
    found = judge.labels([row.text for row in test])
    return float(np.mean([one == row.label for one, row in zip(found, test, strict=True)]))


@pytest.mark.parametrize("where", [0, 9])
def test_a_planted_style_is_found(where: int):
    assert accuracy(planted(where=where)) > 0.95


def test_calibration_cools_what_noise_made_too_confident():
    judge = fit_judge(planted(n_groups=30, noise=0.4), folds=3)
    assert judge.temperature > 1
    probabilities = judge.probabilities(["eek the mill", "hooray a road"])
    assert probabilities.sum(1) == pytest.approx(1.0)
    assert judge.labels(["eek the mill", "hooray a road"]) == ["fear", "happiness"]


def test_the_temperature_comes_from_scenarios_that_the_judge_was_not_fitted_on():
    # the label is told by the scenario alone, through a word that only this scenario has: a judge
    # that had seen it would be right, and would not be cooled
    rows = [
        labelled(f"word{g} {' '.join(FILLER[:5])}", LABELS[g % 7], f"s{g}")
        for g in range(28)
        for _ in range(3)
    ]
    assert fit_judge(rows, folds=4).temperature > 5


def test_what_cannot_be_fitted_is_refused():
    rows = planted()
    with pytest.raises(DataError, match="no reply is labelled neutral"):
        fit_judge([r for r in rows if r.label != "neutral"])
    with pytest.raises(DataError, match="2 groups cannot be divided into 5 folds"):
        fit_judge([r for r in rows if r.group in ("s0", "s1")])


def test_the_shipped_blind_labels_are_of_tuning_and_test_texts_alone():
    for part in ("tuning", "test"):
        of_part = {s.id for s in load_scenarios(f"emotion_scenarios_{part}")}
        for one in load_labelled("emotion_blind_labels", part):
            assert one.group.rpartition("_")[0] in of_part
            assert presentable(one.text) == one.text


def event_replies(n: int) -> list[Reply]:
    same = {"theme": "Work/Job", "valence": "neutral", "scenario": "x", "event": "y"}
    return [
        Reply(id=f"e{i}_{x}", event_id=f"e{i}", emotion=x, text=f"w{i} w{50 + k}", **same)
        for i in range(n)
        for k, x in enumerate(LABELS)
    ]


def test_the_lexicon_counts_what_a_condition_added():
    plain = ["You cannot do that.", "I hate it.", "You cannot do that."]
    found = ["I hate you, you liar!", "I hate it.", "Wow, you cannot do that."]
    assert lexical_labels(found, plain) == ["anger", "neutral", "surprise"]


def test_activations_are_the_mean_over_the_texts_own_tokens():
    model = tiny("gemma3")
    texts = ["w1 w2 w3", "w9", "w5 w6 w7 w8 w10"]
    found = mean_activations(model, texts, 0)
    start = list(model.encode(BEFORE))
    for i, text in enumerate(texts):
        ids = [*start, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            out = model.hf(input_ids=torch.tensor([ids]), output_hidden_states=True)
        wanted = out.hidden_states[1][0, len(start) :].float().mean(0).numpy()
        np.testing.assert_allclose(found[i], wanted, atol=1e-4)


def test_a_judge_learns_from_a_models_activations():
    rows = list(training_replies(event_replies(40)))
    assert accuracy(rows, by_activations(tiny("llama"), 0)) > 0.6  # chance is 1/7


def test_plain_replies_teach_judges_what_neutral_is():
    model = tiny("llama")
    found = plain_replies(model, Small(), TEXTS, SHORT)
    batches = read_all(model, Small(), "neutral", TEXTS)
    written = replies(model, Condition("a"), batches, TEXTS, SHORT)
    assert found == [text for text in written["reply"].iloc[::6] if text]
    rows = training_replies(event_replies(2), (), found)
    assert [r.text for r in rows if r.group.startswith("plain")] == found
    assert {r.label for r in rows if r.group.startswith("plain")} == {"neutral"}


def test_published_replies_weigh_less_than_self_written_ones():
    long = " ".join(f"w{i}" for i in range(PUBLISHED_WORDS + 5))
    verdicts = [
        Verdict(text=long, target="fear", match=int(k != 1), group=f"g{i}")
        for i in range(2 * EVERY)
        for k in range(2)
    ]
    rows = training_replies(event_replies(1), verdicts)
    published = [r for r in rows if r.group.startswith("g")]
    assert {r.group for r in published} == {"g0", f"g{EVERY}"} and len(published) == 2
    assert all(len(r.text.split()) == PUBLISHED_WORDS for r in published)
    assert len(rows) == 7 * WEIGHT + 2
