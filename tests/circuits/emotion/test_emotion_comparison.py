"""Criteria by hand, conditions side by side, a writer that resumes, and results that come back."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny
from emotion_samples import CRITERIA, SHORT, TEXTS, Small, Spelled, comparison, row, steered

from circuits.emotion import EMOTIONS, LABELS, load_frames, load_replies, load_scenarios
from circuits.emotion.emotion_comparison import evaluate
from circuits.emotion.emotion_metrics import judged, measure, nll, presentable, with_criteria
from circuits.emotion.prompts import ReplyPrompts, token_prompt
from circuits.emotion.replies import ReplyWriter, read_all, replies
from circuits.emotion.steering import Condition
from circuits.emotion.texts import EVENTLESS, situations
from interp.errors import DataError, PlanError
from interp.interventions.plan import Plan
from interp.model.model import Model
from interp.results.run_folder import RunFolder

# --- criteria ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "coherent", "relevant"),
    [
        ({}, True, True),
        ({"perplexity_ratio": 4.1}, False, True),
        ({"perplexity_ratio": float("nan")}, False, True),
        ({"faults": "loop"}, False, True),
        ({"n_words": 2}, False, True),
        ({"n_sentences": 3}, False, True),
        ({"relevance": 0.0}, True, False),
        ({"relevance": -0.2}, True, False),
    ],
)
def test_criteria_by_hand(changes: dict[str, object], coherent: bool, relevant: bool):
    table = pd.DataFrame(
        [row("a", 0, "fear", "fear", **changes), row("a", 0, "fear", "anger", **changes)]
    )
    found = with_criteria(judged(table, {"spelled": Spelled()}), CRITERIA, "spelled")
    assert list(found["expressed"]) == [True, False]
    assert list(found["coherent"]) == [coherent] * 2
    assert list(found["relevant"]) == [relevant] * 2
    assert list(found["joint"]) == [coherent and relevant, False]


def test_a_judge_is_not_told_the_target():
    table = pd.DataFrame([row("a", 0, emotion, "disgust") for emotion in EMOTIONS])
    found = judged(table, {"spelled": Spelled()})
    assert set(found["label_spelled"]) == {"disgust"}
    assert found["p_spelled"].tolist() == [0.01] * 5 + [0.94]
    with pytest.raises(DataError, match="'words' has not read these replies; spelled have"):
        with_criteria(found, CRITERIA, "words")


def test_rates_differences_and_confusion():
    found = comparison()
    table = found.table().set_index("condition")[["joint", "joint_low", "joint_high"]]
    assert table.loc["circuit"].tolist() == [1.0, 1.0, 1.0]
    assert table.loc["steering"].tolist() == [0.5, 0.0, 1.0]  # four scenarios, not 24
    difference = found.paired("circuit", "steering")
    assert difference.value == 0.5 and difference.low >= 0.0
    assert found.confusion("circuit").tolist() == np.eye(6, 7, dtype=int).__mul__(4).tolist()
    assert found.confusion("steering")[:, LABELS.index("neutral")].tolist() == [2] * 6
    assert found.by_emotion().loc[1, "fear"] == 0.5
    with pytest.raises(DataError, match="no condition 'random'; there are circuit, steering"):
        found.of("random")
    with pytest.raises(DataError, match="no judge 'words'"):
        found.by("words")
    fewer = replace(found, replies=found.replies.iloc[:-1])
    with pytest.raises(DataError, match="did not reply to the same"):
        fewer.paired("circuit", "steering")


def test_a_summary_has_the_promised_keys():
    found = comparison().summary()
    assert found["model"] == "planted" and found["n"] == 24 and found["n_scenarios"] == 4
    one = found["conditions"]["steering"]
    assert {"accuracy", "accuracy_ci", "quality", "joint"} <= set(one)
    assert one["accuracy"] == 0.5 and one["accuracy_ci"] == [0.0, 1.0] and one["quality"] == 1.0
    assert set(found["paired"]) == {"circuit - steering"}


# --- situations and prompts ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def asking() -> ReplyPrompts:
    return ReplyPrompts(
        load_frames("datasets/emotion_frames.json"), load_replies("datasets/emotion_replies.jsonl")
    )


def test_situations_are_balanced_and_of_different_scenarios():
    scenarios = load_scenarios("datasets/emotion_scenarios_tuning.jsonl")
    chosen = situations(scenarios, 24)
    assert len({one.scenario_id for one in chosen}) == 24
    for key in ("theme", "valence"):
        counts = pd.Series([getattr(one, key) for one in chosen]).value_counts()
        assert counts.max() == counts.min()
    every = situations(scenarios, 120)
    assert len({one.id for one in every}) == 120  # scenarios come again with another event
    assert len({one.scenario_id for one in every[40:80]}) == 40
    with pytest.raises(Exception, match="121 situations asked for, .* 40 scenarios, 120 events"):
        situations(scenarios, 121)


def test_what_each_kind_of_prompt_shows(asking: ReplyPrompts):
    text = situations(load_scenarios("datasets/emotion_scenarios_tuning.jsonl"), 1)[0]
    prompt = {kind: asking.prompt(kind, text, "fear") for kind in ("neutral", "word", "chat")}
    assert "terrified" not in prompt["neutral"].text and text.event in prompt["neutral"].text
    assert prompt["word"].text.endswith('I felt terrified. I said: "')
    assert "terrified" in (prompt["chat"].system or "") and "terrified" not in prompt["chat"].text
    shown = asking.prompt("demonstrations", text, "fear").text
    used = [r for r in asking.replies if r.text in shown]
    assert len(used) == 3 and {r.emotion for r in used} == {"fear"}
    assert len({r.valence for r in used}) == 3 and text.theme not in {r.theme for r in used}
    assert shown.endswith(f'{text.text}\nI said: "') and "terrified" not in shown
    with pytest.raises(PlanError, match="unknown kind of prompt 'sung'"):
        asking.prompt("sung", text, "fear")


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["neutral", "word", "demonstrations"])
def test_every_situation_is_answered_in_every_emotion(kind: str):
    model = tiny("llama")
    batches = read_all(model, Small(), kind, TEXTS)
    found = replies(model, Condition("a", kind, steered(model, 0.3)), batches, TEXTS, SHORT)
    assert list(found["situation"]) == [one.id for one in TEXTS for _ in EMOTIONS]
    assert list(found["emotion"]) == list(EMOTIONS) * len(TEXTS)
    one = read_all(model, Small(), kind, TEXTS[2:3])
    alone = replies(model, Condition("a", kind, steered(model, 0.3)), one, TEXTS[2:3], SHORT)
    assert [list(x) for x in alone["ids"]] == [list(x) for x in found["ids"].iloc[12:18]]


def test_measures_are_those_of_the_unmodulated_model():
    model, asked = tiny("llama"), Small()
    baseline = ReplyWriter(model, asked, TEXTS, SHORT).baseline
    condition = Condition("a", "word", steered(model, 0.5))
    table = replies(model, condition, read_all(model, asked, "word", TEXTS), TEXTS, SHORT)
    found = measure(model, table, baseline)
    for i in (0, 8, 29):
        ids = torch.tensor([list(table["ids"].iloc[i])])
        own, none = (
            loss_after(model, token_prompt(model, asked.prompt("neutral", one, "anger")).ids, ids)
            for one in (TEXTS[i // 6], EVENTLESS)
        )
        assert found["nll"].iloc[i] == pytest.approx(own, abs=1e-4)
        assert found["relevance"].iloc[i] == pytest.approx(none - own, abs=1e-4)


def loss_after(model: Model, prompt: tuple[int, ...], reply: torch.Tensor) -> float:
    ids = torch.cat([torch.tensor([prompt]), reply], 1)
    with torch.no_grad():
        logits = model.hf(input_ids=ids, use_cache=False).logits[0].float()
    n = len(prompt)
    return float(torch.nn.functional.cross_entropy(logits[n - 1 : -1], ids[0, n:]))


def test_finished_conditions_are_read_and_changed_ones_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):

    model = tiny("llama")
    conditions = [Condition("unmodulated"), Condition("steering", plan=steered(model, 0.3))]
    with kept(tmp_path) as steps:
        made = ReplyWriter(model, Small(), TEXTS, SHORT, steps)
        first = evaluate(made, conditions, {"spelled": Spelled()}, CRITERIA, {"why": "test"})
    assert first.conditions == ["unmodulated", "steering"] and len(first.replies) == 60
    plain, driven = (first.replies[first.replies["condition"] == name] for name in first.conditions)
    wanted = np.exp(driven["nll"].to_numpy() - plain["nll"].to_numpy())
    np.testing.assert_allclose(driven["perplexity_ratio"], wanted)
    assert plain["perplexity_ratio"].tolist() == [1.0] * 30
    with kept(tmp_path) as steps, pytest.raises(DataError, match="no unmodulated reply to 's0_x'"):
        evaluate(made, conditions[1:], {"spelled": Spelled()}, CRITERIA)
    assert first.settings["why"] == "test" and first.settings["decoding"]["new_tokens"] == 4

    def broken(*_: object):
        raise AssertionError("written again")

    monkeypatch.setattr(sys.modules[ReplyWriter.__module__], "replies", broken)
    with kept(tmp_path) as steps:
        again = ReplyWriter(model, Small(), TEXTS, SHORT, steps)
        second = evaluate(again, conditions, {"spelled": Spelled()}, CRITERIA)
        assert list(second.replies["reply"]) == list(first.replies["reply"])
        with pytest.raises(AssertionError, match="written again"):
            again.write(Condition("steering", plan=steered(model, 0.31)))
        with pytest.raises(AssertionError, match="written again"):
            ReplyWriter(model, Small(), TEXTS[:4], SHORT, steps).write(conditions[0])


def kept(at: Path):
    """Steps that stay, of a run that is not finished."""
    return RunFolder.open(at / "control", "test", {})


def test_digests_tell_conditions_apart():
    model = tiny("llama")
    base = steered(model, 0.3)
    plans = [
        Plan(),
        base,
        steered(model, 0.31),
        steered(model, 0.3, seed=1),
        Plan.of(replace(base[0], relative=None)),
    ]
    assert len({Condition("a", plan=plan).digest for plan in plans}) == len(plans)
    assert Condition("a", plan=base).digest == Condition("a", plan=steered(model, 0.3)).digest


# --- pages and odds ------------------------------------------------------------------------------


def test_the_likelihood_of_no_reply_at_all():
    model = tiny("llama")
    read = list(read_all(model, Small(), "neutral", TEXTS))[0].cache
    assert np.isnan(nll(model, read, [0, 1], [(), ()])).all()


def test_coarse_and_hateful_replies_are_not_shown():
    note = "(left out: coarse or hateful)"
    assert presentable("You are a f***ing liar.") == presentable("What a bitch.") == note
    assert presentable("They will kill us all.") == note
    kind = "A class of skilled glassblowers passes the grass."
    assert presentable(kind) == kind


def test_pages_and_figures_hold_what_was_measured():
    from circuits.emotion.figures import plot_conditions, plot_confusion

    found = comparison()
    figure = plot_conditions(found.table(), "t")
    assert [list(bar.y) for bar in figure.data if bar.name == "joint"] == [[1.0, 0.5]]
    counts = {name: found.confusion(name) for name in found.conditions}
    assert len(plot_confusion(counts).data) == 2
    table = found.examples(n=1)
    assert list(table.columns) == ["text", "emotion", "steering", "circuit"]
    assert table["circuit"].tolist() == [f"{emotion} ✓" for emotion in EMOTIONS]
    page = replace(found, judges=("spelled",)).report().html()
    value, low, high = found.by("spelled").paired("circuit", "steering")
    assert re.search(
        r'<th scope="row">circuit - steering</th>\s*'
        + re.escape(f'<td class="number">{value:.3f} [{low:.3f}, {high:.3f}]</td>'),
        page,
    )
