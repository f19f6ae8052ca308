"""Judges of replies: by reading, by asking for labels, by a lexicon; what they learn from."""

import numpy as np
import pytest
import torch
from conftest import tiny
from test_emotion_control import SHORT, TEXTS, Small, loss_after

from circuits.emotion import Reply
from circuits.emotion.data import LABELS
from circuits.emotion.replying import Arm, read_all, replies
from interp.errors import PlanError
from interp.model.model import Model


def event_replies(n: int) -> list[Reply]:
    return [
        Reply(f"e{i}_{label}", f"e{i}", "Work/Job", "neutral", "x", "y", label, f"w{i} w{50 + k}")
        for i in range(n)
        for k, label in enumerate(LABELS)
    ]


def test_label_scores_are_those_of_whole_forwards(smollm: Model):
    from circuits.emotion.label_judge import label_scores

    question = "What does the speaker show: fear, anger?\n\n"
    found = label_scores(smollm, question, ["Run, they are coming!", "Get out of my house."])
    for row_, text in enumerate(["Run, they are coming!", "Get out of my house."]):
        for column, label in enumerate(LABELS):
            prompt = smollm.encode(f'{question}"{text}"\nShown:')
            ids = smollm.tokenizer(f" {label}", add_special_tokens=False)["input_ids"]
            wanted = -loss_after(smollm, tuple(prompt), torch.tensor([ids])) * len(ids)
            assert found[row_, column] == pytest.approx(wanted, abs=1e-3)


def test_questions_differ_in_order_and_examples_and_content_free_texts_are_even(smollm: Model):
    from circuits.emotion.label_judge import CONTENT_FREE, label_judge
    from interp.errors import DataError

    judge = label_judge(smollm, event_replies(4), orders=2)
    first, second = (question.split("\n")[0] for question in judge.questions)
    assert first != second and all(label in first and label in second for label in LABELS)
    scores = np.mean([judge._scores(q, list(CONTENT_FREE)) for q in judge.questions], 0)
    assert np.abs(scores.mean(0)).max() < 1e-6
    assert judge.probabilities(["w1", "w2"]).sum(1) == pytest.approx(1.0)
    with pytest.raises(DataError, match="4 events.*5 orders"):
        label_judge(smollm, event_replies(4), orders=5)


def test_the_lexicon_counts_what_an_arm_added():
    from circuits.emotion.lexical_judge import lexical_labels

    plain = ["You cannot do that.", "I hate it.", "You cannot do that."]
    said = ["I hate you, you liar!", "I hate it.", "Wow, you cannot do that."]
    assert lexical_labels(said, plain) == ["anger", "neutral", "surprise"]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_reader_gives_the_mean_over_the_texts_own_tokens(family: str):
    from circuits.emotion.reader import BEFORE, read_texts

    model = tiny(family)
    texts = ["w1 w2 w3", "w9", "w5 w6 w7 w8 w10"]
    found = read_texts(model, texts, [0, 2])
    start = list(model.encode(BEFORE))
    for i, text in enumerate(texts):
        ids = [*start, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            out = model.hf(input_ids=torch.tensor([ids]), output_hidden_states=True)
        wanted = out.hidden_states[1][0, len(start) :].float().mean(0).numpy()
        np.testing.assert_allclose(found[i, 0], wanted, atol=1e-4)
    with pytest.raises(PlanError, match="empty text"):
        read_texts(model, ["w1", ""], [0])


def test_a_reading_judge_learns_from_what_the_reader_makes_of_texts():
    from circuits.emotion.judge import cross_validate
    from circuits.emotion.panel import cohen_kappa, training_replies
    from circuits.emotion.reader import by_reading

    rows = training_replies(event_replies(20))
    found = cross_validate(rows, folds=4, views={"whole": str}, make=by_reading(tiny("llama"), 0))
    assert found.right().mean() > 0.6  # chance is 1/7
    assert cohen_kappa(["fear", "anger"], ["fear", "anger"]) == 1.0
    assert cohen_kappa(["fear", "anger"] * 2, ["fear", "fear", "anger", "anger"]) == 0.0


def test_plain_replies_teach_judges_what_neutral_is():
    from circuits.emotion.panel import plain_replies, training_replies

    model = tiny("llama")
    said = plain_replies(model, Small(), TEXTS, SHORT)
    written = replies(model, Arm("a"), read_all(model, Small(), "neutral", TEXTS), TEXTS, SHORT)
    assert said == [text for text in written["reply"].iloc[::6] if text]
    rows = training_replies(event_replies(2), (), said)
    assert [r.text for r in rows if r.group.startswith("plain")] == said
    assert {r.label for r in rows if r.group.startswith("plain")} == {"neutral"}


def test_published_replies_weigh_less_than_self_written_ones():
    from circuits.emotion.judge import Verdict
    from circuits.emotion.panel import EVERY, WEIGHT, WORDS_KEPT, training_replies

    long = " ".join(f"w{i}" for i in range(WORDS_KEPT + 5))
    verdicts = [Verdict(long, "fear", k != 1, f"g{i}") for i in range(2 * EVERY) for k in range(2)]
    rows = training_replies(event_replies(1), verdicts)
    published = [r for r in rows if r.group.startswith("g")]
    assert {r.group for r in published} == {"g0", f"g{EVERY}"} and len(published) == 2
    assert all(len(r.text.split()) == WORDS_KEPT for r in published)
    assert len(rows) == 7 * WEIGHT + 2
