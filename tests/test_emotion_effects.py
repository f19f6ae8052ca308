"""Taking circuits out and putting them in, against plain hooked forwards."""

import functools

import numpy as np
import pytest
from conftest import tiny
from test_emotion_scores import at_last, edit_of

from circuits.emotion import EMOTIONS, load_frames, load_scenarios
from circuits.emotion.circuit import EmotionCircuit
from circuits.emotion.discovering import discover
from circuits.emotion.discovery import Discovery, Settings
from circuits.emotion.effects import inserting, necessity, removing, sufficiency
from circuits.emotion.selection import Size
from circuits.emotion.states import Group
from circuits.emotion.trials import Trial, preset_trials, top_circuits, trials
from interp.data.prompts import TokenPrompt
from interp.errors import DegenerateGap
from interp.model.model import Model

SETTINGS = Settings(n_neutral=4, n_demonstrations=0, size=Size(20, 0.25))
ALL_SCENARIOS = load_scenarios("datasets/emotion_scenarios_discovery.jsonl")
FRAMES = load_frames("datasets/emotion_frames.json")
IDS = [(5, 6, 7, 8), (30, 31, 32), (44, 45, 46, 47, 48)]


def words(start: tuple[int, ...], text: str) -> Group:
    """Six prompts that differ in one token, three tokens before their end."""
    return Group(
        tuple(TokenPrompt((*start, 60 + e, 9, 10, 20)) for e in range(6)), text, "a", "felt:A"
    )


TEXTS = [words(start, f"s{i}_neutral") for i, start in enumerate(IDS)]
NEUTRAL_IDS = [TokenPrompt((*start, 9, 10, 20)) for start in IDS]


@functools.cache
def found_in(family: str) -> Discovery:
    """A discovery whose means and differences are those of `TEXTS`."""
    from dataclasses import replace

    from circuits.emotion.circuit import Differences
    from circuits.emotion.directions import Directions
    from circuits.emotion.discovery import Means
    from circuits.emotion.scores import scores
    from circuits.emotion.states import states

    model = tiny(family)
    made = discover(model, ALL_SCENARIOS[::40], FRAMES, SETTINGS)
    seen = states(model, TEXTS)
    directions = Directions.of(seen)
    return replace(
        made,
        directions=directions,
        differences=Differences.of(seen),
        means=Means(seen.z.mean((0, 1)), seen.mlp_post.mean((0, 1))),
        scores=scores(model, seen, directions, normed_heads=False),
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


def naive_gap(model: Model, found: Discovery, row: int, variants, prompts_of) -> float:
    """Mean over texts of an emotion's projection less the mean of the other five's."""
    to, last, gaps = found.reference, model.arch.n_layers - 1, []
    for text in range(len(TEXTS)):
        at = []
        for e in range(6):
            edits = [
                (interp_site(c.site), c.layer, edit_of(c)) for c in variants[e if len(variants) > 1
                else 0]
            ]  # fmt: skip
            state = at_last(model, "resid_post", last, prompts_of(text, e).ids, edits)
            at.append(float(state @ to[row]))
        gaps.append(at[row] - (sum(at) - at[row]) / 5)
    return float(np.mean(gaps))


def interp_site(name: str):
    from interp.model.sites import SITES

    return SITES[name]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gptj", "qwen2"])
def test_necessity_equals_plain_forwards(family: str):
    model, found = tiny(family), found_in(family)
    tried = trials(model, found, "neurons", [8], [8], n_draws=1)
    table = necessity(model, found, TEXTS, tried)
    assert list(table["name"].unique()) == ["centred", "paper", "random", "norm-matched"]
    for row in (0, 4):
        intact = naive_gap(model, found, row, [[]], lambda t, e: TEXTS[t].prompts[e])
        for one in tried:
            variant = removing(one.circuits[EMOTIONS[row]], found.means)
            gap = naive_gap(model, found, row, [variant], lambda t, e: TEXTS[t].prompts[e])
            own = table[(table["emotion"] == EMOTIONS[row]) & (table["name"] == one.name)]
            assert own["remaining"].item() == pytest.approx(gap / intact, abs=2e-3, rel=2e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gptj"])
def test_sufficiency_equals_plain_forwards(family: str):
    model, found = tiny(family), found_in(family)
    circuits = top_circuits(model, found, "centred", "heads", 4)
    tried = [Trial("centred", "heads", 4, 0, circuits)]
    table = sufficiency(model, found, TEXTS, NEUTRAL_IDS, tried, strength=1.5)
    variants = [inserting(circuits[e], found.differences, 1.5) for e in EMOTIONS]
    for row in (1, 5):
        natural = naive_gap(model, found, row, [[]], lambda t, e: TEXTS[t].prompts[e])
        gap = naive_gap(model, found, row, variants, lambda t, e: NEUTRAL_IDS[t])
        own = table[table["emotion"] == EMOTIONS[row]]
        assert own["brought"].item() == pytest.approx(gap / natural, abs=2e-3, rel=2e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_bounds_of_both(family: str):
    """Nothing removed leaves all; with every unit at its mean nothing tells the prompts apart."""
    model, found = tiny(family), found_in(family)
    tried = [
        Trial("none", "both", 0, 0, none(model)),
        Trial("whole", "both", 0, 0, whole(model)),
        Trial("heads", "heads", 0, 0, whole(model, "heads")),
    ]
    table = necessity(model, found, TEXTS, tried).set_index(["name", "emotion"])["remaining"]
    for emotion in (*EMOTIONS, "all"):
        assert table["none", emotion] == pytest.approx(1.0)
        # the last token is the same in all six, so attention alone brings the emotion to it
        assert table["whole", emotion] == pytest.approx(0.0, abs=1e-3)
        assert table["heads", emotion] == pytest.approx(0.0, abs=1e-3)
    brought = sufficiency(model, found, TEXTS, NEUTRAL_IDS, tried[:1])["brought"]
    np.testing.assert_allclose(brought, 0.0, atol=1e-4)
    still = sufficiency(model, found, TEXTS, NEUTRAL_IDS, tried[1:2], strength=0.0)["brought"]
    np.testing.assert_allclose(still, 0.0, atol=1e-4)


def test_zero_and_mean_differ_and_presets_are_tried():
    model, found = tiny("llama"), found_in("llama")
    tried = trials(model, found, "neurons", [8], [], n_draws=1)[:1]
    mean, zero = (necessity(model, found, TEXTS, tried, fill=f) for f in ("mean", "zero"))
    assert not np.allclose(mean["remaining"], zero["remaining"], atol=1e-3)
    names = [one.name for one in preset_trials(found, n_draws=2)]
    assert (
        names == ["centred", "centred-influence", "paper", "paper-influence"] + ["norm-matched"] * 2
    )


def test_random_heads_are_disjoint_from_the_circuit():
    model, found = tiny("llama"), found_in("llama")
    tried = trials(model, found, "heads", [3], [3], n_draws=4)
    top = next(one for one in tried if one.name == "centred").circuits
    drawn = [one for one in tried if one.name == "norm-matched"]
    assert len(drawn) == 4
    for one in drawn:
        for emotion in EMOTIONS:
            assert not set(one.circuits[emotion].units("heads")) & set(top[emotion].units("heads"))


def test_prompts_that_do_not_differ_are_refused():
    model, found = tiny("llama"), found_in("llama")
    same = [Group((NEUTRAL_IDS[0],) * 6, "s_neutral", "a", "felt:A")]
    # which emotion is named depends on the rounding of six equal rows
    with pytest.raises(DegenerateGap, match="the final states of [a-z]+ prompts are those of the"):
        necessity(model, found, same, [])
