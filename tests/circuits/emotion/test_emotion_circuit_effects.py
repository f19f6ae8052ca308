"""Taking circuits out and putting them in, against plain hooked forwards."""

import functools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chat_examples import chat_model
from conftest import tiny

import interp
from circuits.emotion import EMOTIONS, load_frames, load_scenarios
from circuits.emotion.circuit_effects import (
    CircuitSet,
    _texts,
    circuit_effects,
    circuit_sets,
    inserting,
    necessity,
    removing,
    sufficiency,
)
from circuits.emotion.components import component_scores
from circuits.emotion.directions import Directions
from circuits.emotion.discovery import discover
from circuits.emotion.emotion_circuit import EmotionCircuit, SiteVectors
from circuits.emotion.emotion_settings import CircuitSize, EffectSettings, EmotionSettings
from circuits.emotion.result import EmotionDiscovery, EmotionEffects
from circuits.emotion.selection import select_circuits
from circuits.emotion.states import EmotionGroup, States, states
from circuits.emotion.transfer import transfer_tests
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, DegenerateGap, RunFolderError
from interp.model.model import Model

SETTINGS = EmotionSettings(n_neutral=4, n_demonstrations=0, size=CircuitSize(neurons=8, heads=0.25))
ALL_SCENARIOS = load_scenarios("datasets/emotion_scenarios_discovery.jsonl")
FRAMES = load_frames("datasets/emotion_frames.json")
IDS = [(5, 6, 7, 8), (30, 31, 32), (44, 45, 46, 47, 48)]


def words(start: tuple[int, ...], text: str) -> EmotionGroup:
    """Six prompts that differ in one token, three tokens before their end."""
    return EmotionGroup(
        tuple(TokenPrompt((*start, 60 + e, 9, 10, 20)) for e in range(6)), text, "a", "felt:A"
    )


TEXTS = [words(start, f"s{i}_neutral") for i, start in enumerate(IDS)]
NEUTRAL_IDS = [TokenPrompt((*start, 9, 10, 20)) for start in IDS]


@functools.cache
def found_in(family: str) -> EmotionDiscovery:
    """A discovery whose means and differences are those of `TEXTS`."""
    model = tiny(family)
    made = discover(model, ALL_SCENARIOS[::40], FRAMES, SETTINGS)
    seen = states(model, TEXTS)
    by_style = Directions.by_style(seen)
    scored = component_scores(model, seen, by_style["felt:A"])
    return replace(
        made,
        by_style=by_style,
        differences=SiteVectors.differences(seen),
        means=SiteVectors.means(seen),
        scores=scored,
        circuits=select_circuits(model, scored, made.influence, SETTINGS.size),
    )


def whole(model: Model, part: str | None = None) -> dict[str, EmotionCircuit]:
    a = model.arch
    neurons = [(n, u) for n in range(a.n_layers) for u in range(a.d_mlp or 0)]
    heads = [(n, u) for n in range(a.n_layers) for u in range(a.n_heads)]
    return {
        e: EmotionCircuit.of(
            model, e, [] if part == "heads" else neurons, [] if part == "neurons" else heads
        )
        for e in EMOTIONS
    }


def none(model: Model) -> dict[str, EmotionCircuit]:
    return {e: EmotionCircuit.of(model, e) for e in EMOTIONS}


def naive_gap(model: Model, found: EmotionDiscovery, row: int, plans, prompts_of) -> float:
    """Mean over texts of an emotion's projection minus the mean of the other five's."""
    to, gaps = found.reference, []
    for text in range(len(TEXTS)):
        at = []
        for e in range(6):
            plan = plans[e if len(plans) > 1 else 0]
            state = interp.forward(model, [prompts_of(text, e)], plan).resid[0]
            at.append(float(state.float() @ to[row]))
        gaps.append(at[row] - (sum(at) - at[row]) / 5)
    return float(np.mean(gaps))


def one(table, emotion: str, **where: object) -> float:
    """The value of one row."""
    rows = table[table["emotion"] == emotion]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows["value"].item()


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gptj", "qwen2"])
def test_necessity_equals_plain_forwards(family: str):
    model, found = tiny(family), found_in(family)
    sets = [s for s in circuit_sets(found, n_random=1) if s.part == "neurons"]
    table = necessity(model, found, TEXTS, sets)
    names = ["centred", "centred-influence", "paper", "paper-influence", "random"]
    assert list(table["name"].unique()) == names
    for row in (0, 4):
        intact = naive_gap(model, found, row, [()], lambda t, e: TEXTS[t].prompts[e])
        for tested in sets:
            plan = removing(tested.circuits[EMOTIONS[row]], found.means)
            gap = naive_gap(model, found, row, [plan], lambda t, e: TEXTS[t].prompts[e])
            own = one(table, EMOTIONS[row], name=tested.name)
            assert own == pytest.approx(gap / intact, abs=2e-3, rel=2e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gptj"])
def test_sufficiency_equals_plain_forwards(family: str):
    model, found = tiny(family), found_in(family)
    sets = circuit_sets(found, n_random=0)[:1]
    table = sufficiency(model, found, TEXTS, NEUTRAL_IDS, sets, strength=1.5)
    plans = [inserting(sets[0].circuits[e], found.differences, 1.5) for e in EMOTIONS]
    for row in (1, 5):
        natural = naive_gap(model, found, row, [()], lambda t, e: TEXTS[t].prompts[e])
        gap = naive_gap(model, found, row, plans, lambda t, e: NEUTRAL_IDS[t])
        own = one(table, EMOTIONS[row])
        assert own == pytest.approx(gap / natural, abs=2e-3, rel=2e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_bounds_of_both(family: str):
    """Nothing removed leaves all; with every unit at its mean nothing tells the prompts apart."""
    model, found = tiny(family), found_in(family)
    sets = [
        CircuitSet("none", "both", 0, none(model)),
        CircuitSet("whole", "both", 0, whole(model)),
        CircuitSet("heads", "heads", 0, whole(model, "heads")),
    ]
    table = necessity(model, found, TEXTS, sets)
    for emotion in (*EMOTIONS, "all"):
        assert one(table, emotion, name="none") == pytest.approx(1.0)
        # the last token is the same in all six, so attention alone brings the emotion to it
        assert one(table, emotion, name="whole") == pytest.approx(0.0, abs=1e-3)
        assert one(table, emotion, name="heads") == pytest.approx(0.0, abs=1e-3)
    recovered = sufficiency(model, found, TEXTS, NEUTRAL_IDS, sets[:1])["value"]
    np.testing.assert_allclose(recovered, 0.0, atol=1e-4)
    still = sufficiency(model, found, TEXTS, NEUTRAL_IDS, sets[1:2], strength=1e-9)["value"]
    np.testing.assert_allclose(still, 0.0, atol=1e-4)


def test_zero_and_mean_differ_and_presets_are_tested():
    model, found = tiny("llama"), found_in("llama")
    sets = circuit_sets(found, n_random=2)
    mean, zero = (necessity(model, found, TEXTS, sets[:1], fill=f) for f in ("mean", "zero"))
    assert not np.allclose(mean["value"], zero["value"], atol=1e-3)
    names = ["centred", "centred-influence", "paper", "paper-influence", "random", "random"]
    assert [s.name for s in sets] == names * 2
    assert [s.part for s in sets] == ["both"] * 6 + ["neurons"] * 6
    assert all(not c.heads for s in sets[6:] for c in s.circuits.values())


def test_prompts_that_do_not_differ_are_refused():
    model, found = tiny("llama"), found_in("llama")
    same = [EmotionGroup((NEUTRAL_IDS[0],) * 6, "s_neutral", "a", "felt:A")]
    # which emotion is named depends on the rounding of six equal rows
    with pytest.raises(DegenerateGap, match="the final states of [a-z]+ prompts are those of the"):
        necessity(model, found, same, [])


def test_prompts_begin_as_those_of_the_discovery(monkeypatch: pytest.MonkeyPatch):
    model, unseen = chat_model("llama3"), load_scenarios("emotion_scenarios_test")[:2]
    settings = EmotionSettings(styles=("chat:B",), double_bos=True)
    found = replace(found_in("llama"), settings=settings)
    groups, neutral = _texts(model, found, unseen, FRAMES, 1)
    prompts = [prompt for group in groups for prompt in group.prompts]
    seen: dict[str, list[TokenPrompt]] = {}

    def kept(model: Model, groups: list[EmotionGroup], progress: object) -> States:
        seen[groups[0].style] = [prompt for group in groups for prompt in group.prompts]
        return states(model, groups)

    monkeypatch.setattr("circuits.emotion.transfer.states", kept)
    by_style = {"felt:A": Directions.of(states(model, groups))}
    transfer_tests(model, by_style, FRAMES, unseen, double_bos=True)
    assert {"felt:B", "chat:B"} <= set(seen)
    assert {prompt.ids[:2] for prompt in (*prompts, *neutral, *seen["chat:B"])} == {(0, 0)}


def test_effects_return_from_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # the words of real texts are all unknown to the tiny model
    monkeypatch.setattr(
        sys.modules[circuit_effects.__module__], "_texts", lambda *_: (TEXTS, NEUTRAL_IDS)
    )
    model, found = tiny("llama"), found_in("llama")
    unseen = load_scenarios("emotion_scenarios_test")[::30]
    settings = EffectSettings(n=3, n_random=2)
    made = circuit_effects(model, found, unseen, FRAMES, settings, tmp_path / "e")
    read = EmotionEffects.load(tmp_path / "e")
    assert read.settings == settings and read.table.equals(made.table)
    assert len(made.table) == 2 * 12 * 7 and (made.table["n"] == 3).all()
    overall = made.overall
    assert len(overall) == 2 * 2 * 5
    drawn = made.table[(made.table["name"] == "random") & (made.table["emotion"] == "all")]
    rows = drawn[(drawn["test"] == "necessity") & (drawn["part"] == "neurons")]["value"]
    own = overall.query("test == 'necessity' and part == 'neurons' and name == 'random'").iloc[0]
    assert own["value"] == pytest.approx(rows.mean()) and own["high"] == rows.max()
    page = made.report().html()
    assert "Necessity and sufficiency" in page and "random circuits" in page
    other = EffectSettings(n=2, n_random=2)
    with pytest.raises(RunFolderError, match="n=3"):
        circuit_effects(model, found, unseen, FRAMES, other, tmp_path / "e")
    drawn = {e: found.circuits["centred"][e].only("heads") for e in EMOTIONS}
    another = replace(found, circuits={**found.circuits, "centred": drawn})
    with pytest.raises(RunFolderError, match="with other discovery"):
        circuit_effects(model, another, unseen, FRAMES, settings, tmp_path / "e")
    with pytest.raises(DataError, match="1 of the scenarios were seen in discovery, e.g. "):
        circuit_effects(model, found, (*unseen, ALL_SCENARIOS[40]), FRAMES, settings)
    words = {name: row | {"anger": "cross"} for name, row in FRAMES.words.items()}
    reworded = FRAMES.model_copy(update={"words": words})
    with pytest.raises(RunFolderError, match="with other frames"):
        circuit_effects(model, found, unseen, reworded, settings, tmp_path / "e")
