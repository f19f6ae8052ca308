"""Marks by hand, arms side by side, a writer that resumes, and results that come back."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny

from circuits.emotion import EMOTIONS, load_frames, load_replies, load_scenarios
from circuits.emotion.control import Control
from circuits.emotion.controlling import Writer, evaluate, fingerprint
from circuits.emotion.data import LABELS
from circuits.emotion.decoding import Decoding
from circuits.emotion.fluency import surprise
from circuits.emotion.marking import Limits, Yardstick, judge_with, mark, measure
from circuits.emotion.modulation import Feedback, Modulation, Push
from circuits.emotion.replying import Arm, read_all, replies
from circuits.emotion.situations import NOTHING, Asking, Situation, situations
from circuits.emotion.tokens import token_prompt
from interp.errors import DataError, PlanError, RunFolderError
from interp.model.model import Model
from interp.results.run_folder import RunFolder

LIMITS = Limits(ratio=4.0, relevance=0.0, words=3, sentences=2)
SHORT = Decoding(new_tokens=4, min_tokens=2)


class Spelled:
    """A judge that finds the label that a reply names."""

    def probabilities(self, texts: list[str]) -> np.ndarray:
        out = np.full((len(texts), len(LABELS)), 0.01)
        for row, text in enumerate(texts):
            named = [label for label in LABELS if label in text]
            out[row, LABELS.index(named[0] if named else "neutral")] = 0.94
        return out


def row(arm: str, scenario: int, emotion: str, reply: str, **changes: object) -> dict[str, object]:
    said = {
        "arm": arm,
        "place": scenario,
        "situation": f"s{scenario}_neutral",
        "scenario": f"s{scenario}",
        "theme": "Work/Job",
        "valence": "neutral",
        "emotion": emotion,
        "text": "I did it. It went well.",
        "reply": reply,
        "ids": [1, 2, 3],
        "surprise": 2.0,
        "ratio": 1.5,
        "relevance": 0.5,
        "faults": "",
        "n_words": 5,
        "n_sentences": 1,
        "capitals": 0.0,
        "exclamations": 0.0,
    }
    return said | changes


def control() -> Control:
    """Arm one says the target in all replies, arm two in those of two scenarios of four."""
    rows = [
        row(arm, scenario, emotion, emotion if arm == "circuit" or scenario < 2 else "so it is")
        for arm in ("circuit", "steering")
        for scenario in range(4)
        for emotion in EMOTIONS
    ]
    table = judge_with(pd.DataFrame(rows), {"spelled": Spelled()})
    return Control(table, LIMITS, ("spelled",), "planted", {"seed": 0})


# --- marks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "coherent", "relevant"),
    [
        ({}, True, True),
        ({"ratio": 4.1}, False, True),
        ({"ratio": float("nan")}, False, True),
        ({"faults": "loop"}, False, True),
        ({"n_words": 2}, False, True),
        ({"n_sentences": 3}, False, True),
        ({"relevance": 0.0}, True, False),
        ({"relevance": -0.2}, True, False),
    ],
)
def test_marks_by_hand(changes: dict[str, object], coherent: bool, relevant: bool):
    table = pd.DataFrame(
        [row("a", 0, "fear", "fear", **changes), row("a", 0, "fear", "anger", **changes)]
    )
    found = mark(judge_with(table, {"spelled": Spelled()}), LIMITS, "spelled")
    assert list(found["expressed"]) == [True, False]
    assert list(found["coherent"]) == [coherent] * 2
    assert list(found["relevant"]) == [relevant] * 2
    assert list(found["joint"]) == [coherent and relevant, False]


def test_a_judge_is_not_told_the_target():
    table = pd.DataFrame([row("a", 0, emotion, "disgust") for emotion in EMOTIONS])
    found = judge_with(table, {"spelled": Spelled()})
    assert set(found["said_spelled"]) == {"disgust"}
    assert found["p_spelled"].tolist() == [0.01] * 5 + [0.94]
    with pytest.raises(DataError, match="'words' has not read these replies; spelled have"):
        mark(found, LIMITS, "words")


def test_rates_differences_and_confusion():
    found = control()
    assert found.rate("circuit") == (1.0, 1.0, 1.0)
    half = found.rate("steering")
    assert half.value == 0.5 and half.low == 0.0 and half.high == 1.0  # four scenarios, not 24
    difference = found.paired("circuit", "steering")
    assert difference.value == 0.5 and difference.low >= 0.0
    assert found.confusion("circuit").tolist() == np.eye(6, 7, dtype=int).__mul__(4).tolist()
    assert found.confusion("steering")[:, LABELS.index("neutral")].tolist() == [2] * 6
    assert found.by_emotion().loc[1, "fear"] == 0.5
    with pytest.raises(DataError, match="no arm 'random'; there are circuit, steering"):
        found.rate("random")
    with pytest.raises(DataError, match="no judge 'words'"):
        found.by("words")
    fewer = replace(found, replies=found.replies.iloc[:-1])
    with pytest.raises(DataError, match="did not reply to the same"):
        fewer.paired("circuit", "steering")


def test_a_summary_has_the_promised_keys():
    said = control().summary()
    assert said["model"] == "planted" and said["n"] == 24 and said["n_scenarios"] == 4
    arm = said["arms"]["steering"]
    assert {"accuracy", "accuracy_ci", "quality", "joint"} <= set(arm)
    assert arm["accuracy"] == 0.5 and arm["accuracy_ci"] == [0.0, 1.0] and arm["quality"] == 1.0
    assert set(said["paired"]) == {"circuit - steering"}


def test_a_result_returns_from_its_folder(tmp_path: Path):
    found = control()
    read = Control.load(found.save(tmp_path / "c"))
    assert read.limits == found.limits and read.judges == found.judges
    pd.testing.assert_frame_equal(read.table(), found.table())
    assert read.settings == {"seed": 0}
    with pytest.raises(RunFolderError, match="not 'emotion circuits'"):
        from interp.results import folder

        folder.read(tmp_path / "c", "emotion circuits", ())


# --- situations and prompts ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def asking() -> Asking:
    return Asking(
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


def test_what_each_kind_of_prompt_shows(asking: Asking):
    text = situations(load_scenarios("datasets/emotion_scenarios_tuning.jsonl"), 1)[0]
    prompt = {kind: asking.prompt(kind, text, 3) for kind in ("neutral", "word", "chat")}
    assert "terrified" not in prompt["neutral"].text and text.event in prompt["neutral"].text
    assert prompt["word"].text.endswith('I felt terrified. I said: "')
    assert "terrified" in (prompt["chat"].system or "") and "terrified" not in prompt["chat"].text
    shown = asking.prompt("demonstrations", text, 3).text
    used = [r for r in asking.demonstrations if r.text in shown]
    assert len(used) == 3 and {r.emotion for r in used} == {"fear"}
    assert len({r.valence for r in used}) == 3 and text.theme not in {r.theme for r in used}
    assert shown.endswith(f'{text.text}\nI said: "') and "terrified" not in shown
    assert "I felt terrified" in asking.prompt("demonstrations_word", text, 3).text
    with pytest.raises(PlanError, match="unknown kind of prompt 'sung'"):
        asking.prompt("sung", text, 0)


# --- writing -------------------------------------------------------------------------------------


class Small(Asking):
    """Prompts of the tiny models' words; the emotion is one word."""

    def __init__(self) -> None:
        super().__init__(load_frames("datasets/emotion_frames.json"))

    def prompt(self, kind: str, situation: Situation, emotion: int):
        from circuits.emotion.frames import Prompt

        word = f" w{60 + emotion}" if kind in ("word", "demonstrations") else ""
        return Prompt(f"{situation.scenario} {situation.event}{word} w3")


TEXTS = [
    Situation(f"s{i}_x", f"s{i}", "Work/Job", "neutral", f"w{i + 1} w{i + 7} w4", f"w{i + 20} w5")
    for i in range(5)
]


def push(model: Model, strength: float, seed: int = 0) -> Modulation:
    draw = torch.Generator().manual_seed(seed)
    values = {1: torch.randn(6, model.arch.d_model, generator=draw)}
    return Modulation((Push("resid_post", values, strength, "norm"),))


@pytest.mark.parametrize("kind", ["neutral", "word", "demonstrations"])
def test_every_situation_is_answered_in_every_emotion(kind: str):
    model = tiny("llama")
    batches = read_all(model, Small(), kind, TEXTS)
    found = replies(model, Arm("a", kind, push(model, 0.3)), batches, TEXTS, SHORT)
    assert list(found["situation"]) == [one.id for one in TEXTS for _ in EMOTIONS]
    assert list(found["emotion"]) == list(EMOTIONS) * len(TEXTS)
    one = read_all(model, Small(), kind, TEXTS[2:3])
    alone = replies(model, Arm("a", kind, push(model, 0.3)), one, TEXTS[2:3], SHORT)
    assert [list(x) for x in alone["ids"]] == [list(x) for x in found["ids"].iloc[12:18]]


def test_measures_are_those_of_the_unmodulated_model():
    model, asked = tiny("llama"), Small()
    neutral = list(read_all(model, asked, "neutral", TEXTS))
    yardstick = Yardstick.of(model, asked, neutral)
    arm = Arm("a", "word", push(model, 0.5))
    table = replies(model, arm, read_all(model, asked, "word", TEXTS), TEXTS, SHORT)
    found = measure(model, table, yardstick)
    for i in (0, 8, 29):
        ids = torch.tensor([list(table["ids"].iloc[i])])
        own, none = (
            loss_after(model, token_prompt(model, asked.prompt("neutral", one, 0)).ids, ids)
            for one in (TEXTS[i // 6], NOTHING)
        )
        assert found["surprise"].iloc[i] == pytest.approx(own, abs=1e-4)
        assert found["relevance"].iloc[i] == pytest.approx(none - own, abs=1e-4)


def loss_after(model: Model, prompt: tuple[int, ...], reply: torch.Tensor) -> float:
    ids = torch.cat([torch.tensor([prompt]), reply], 1)
    with torch.no_grad():
        logits = model.hf(input_ids=ids, use_cache=False).logits[0].float()
    n = len(prompt)
    return float(torch.nn.functional.cross_entropy(logits[n - 1 : -1], ids[0, n:]))


def test_finished_arms_are_read_and_changed_ones_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import circuits.emotion.controlling as controlling

    model = tiny("llama")
    arms = [Arm("unmodulated"), Arm("steering", modulation=push(model, 0.3))]
    with kept(tmp_path) as steps:
        made = Writer(model, Small(), TEXTS, SHORT, steps)
        first = evaluate(made, arms, {"spelled": Spelled()}, LIMITS, note={"why": "test"})
    assert first.arms == ["unmodulated", "steering"] and len(first.replies) == 60
    plain, steered = (first.replies[first.replies["arm"] == name] for name in first.arms)
    wanted = np.exp(steered["surprise"].to_numpy() - plain["surprise"].to_numpy())
    np.testing.assert_allclose(steered["ratio"], wanted)
    assert plain["ratio"].tolist() == [1.0] * 30
    with kept(tmp_path) as steps, pytest.raises(DataError, match="no unmodulated reply to 's0_x'"):
        evaluate(made, arms[1:], {"spelled": Spelled()}, LIMITS)
    assert first.settings["why"] == "test" and first.settings["decoding"]["new_tokens"] == 4

    def broken(*_: object):
        raise AssertionError("written again")

    monkeypatch.setattr(controlling, "replies", broken)
    with kept(tmp_path) as steps:
        again = Writer(model, Small(), TEXTS, SHORT, steps)
        second = evaluate(again, arms, {"spelled": Spelled()}, LIMITS)
        assert list(second.replies["reply"]) == list(first.replies["reply"])
        with pytest.raises(AssertionError, match="written again"):
            again.write(Arm("steering", modulation=push(model, 0.31)))
        with pytest.raises(AssertionError, match="written again"):
            Writer(model, Small(), TEXTS[:4], SHORT, steps).write(arms[0])


def kept(at: Path):
    """Steps that stay, of a run that is not finished."""
    return RunFolder.open(at / "control", "test", {})


def test_fingerprints_tell_modulations_apart():
    model = tiny("llama")
    base = push(model, 0.3)
    own = torch.nn.functional.normalize(torch.ones(6, model.arch.d_model), dim=-1)
    read = Feedback(1, own, torch.zeros(6), torch.ones(6))
    all_of_them = [
        Modulation(),
        base,
        push(model, 0.31),
        push(model, 0.3, seed=1),
        replace(base, feedback=read),
        replace(base, feedback=replace(read, layer=0)),
        Modulation((replace(base.pushes[0], size="absolute"),)),
    ]
    assert len({fingerprint(one) for one in all_of_them}) == len(all_of_them)
    assert fingerprint(base) == fingerprint(push(model, 0.3))


# --- pages and odds ----------------------------------------------------------------------------


def test_surprise_of_no_reply_at_all():
    model = tiny("llama")
    read = list(read_all(model, Small(), "neutral", TEXTS))[0].read
    assert np.isnan(surprise(model, read, [0, 1], [(), ()])).all()


def test_coarse_and_hateful_replies_are_not_shown():
    from circuits.emotion.quality import uncoarse

    note = "(left out: coarse or hateful)"
    assert uncoarse("You are a f***ing liar.") == uncoarse("What a bitch.") == note
    assert uncoarse("They will kill us all.") == note
    kind = "A class of skilled glassblowers passes the grass."
    assert uncoarse(kind) == kind


def test_pages_and_figures_hold_what_was_measured():
    from circuits.emotion.pages import control_report, examples, plot_arms, plot_confusion

    found = control()
    figure = plot_arms(found)
    assert [list(bar.y) for bar in figure.data if bar.name == "joint"] == [[1.0, 0.5]]
    assert len(plot_confusion(found).data) == 2
    table = examples(found, n=1)
    assert list(table.columns) == ["text", "emotion", "steering", "circuit"]
    assert table["circuit"].tolist() == [f"{emotion} ✓" for emotion in EMOTIONS]
    page = control_report(replace(found, judges=("spelled",))).html()
    value, low, high = found.by("spelled").paired("circuit", "steering")
    assert re.search(
        r'<th scope="row">circuit - steering</th>\s*'
        + re.escape(f'<td class="number">{value:.3f} [{low:.3f}, {high:.3f}]</td>'),
        page,
    )
