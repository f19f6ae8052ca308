"""Vectors of any emotions: algebra against naive loops, planted directions, what is left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from affect_samples import NAMES, PLAIN, VIGNETTES, WORDS, texts, vectors
from chat_examples import chat_model
from conftest import tiny
from torch.nn.functional import cosine_similarity

import interp
from circuits.affect import emotion_words
from circuits.affect.emotion_vectors import (
    EmotionVectors,
    differences,
    emotion_vectors,
    most_stable,
    neutral_components,
    text_states,
)
from circuits.affect.emotion_words import (
    EMPTY,
    FEW_OF,
    FOREIGN,
    LISTS,
    NAMED,
    SHORT,
    EvokingTexts,
    load_norms,
    load_words,
)
from interp.data.chat import render
from interp.errors import DataError, PlanError, RunFolderError
from interp.interventions.generate import Generation
from interp.model.model import Model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> EmotionVectors:
    return vectors(tmp_path_factory.mktemp("vectors") / "run")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- algebra --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 7, 60])
def test_neutral_components_are_the_fewest_that_explain_half(n: int):
    x = random(n, 12) * torch.arange(1, 13)
    axes = neutral_components(x)
    assert torch.allclose(axes @ axes.T, torch.eye(len(axes)), atol=1e-5)
    moved = x - x.mean(0)
    fewer, part = (
        float((moved @ axes[:k].T).square().sum() / moved.square().sum()) for k in (-1, len(axes))
    )
    assert part >= 0.5 > fewer
    variances = np.linalg.eigvalsh(np.cov(moved.double().numpy().T))[::-1]
    assert part == pytest.approx(variances[: len(axes)].sum() / variances.sum(), rel=1e-4)


def test_differences_equal_a_naive_loop_and_hold_nothing_neutral():
    means = random(5, 3, 12)
    components = [neutral_components(random(9, 12, seed=layer)) for layer in range(3)]
    found = differences(means, components)
    for layer, axes in enumerate(components):
        for e in range(5):
            v = means[e, layer] - sum(means[i, layer] for i in range(5)) / 5
            for axis in axes:
                v = v - (v @ axis) * axis
            assert torch.allclose(found[e, layer], v, atol=1e-5)
        assert (found[:, layer] @ axes.T).abs().max() < 1e-5
    assert found.sum(0).abs().max() < 1e-5


def test_planted_directions_are_recovered():
    planted = torch.eye(16)[:4]
    neutral = random(40, 16) * torch.cat([torch.zeros(8), 5 * torch.ones(2), 0.001 * torch.ones(6)])
    means = 3 + planted + neutral[:4]  # every emotion's texts have some neutral content, too
    axes = neutral_components(neutral)
    assert len(axes) == 1
    (found,) = differences(means[:, None], [torch.eye(16)[8:10]]).unbind(1)
    wanted = planted - planted.mean(0)
    assert cosine_similarity(found, wanted).min() > 0.9999
    assert cosine_similarity(means - means.mean(0), wanted).min() < 0.9


def test_the_layer_is_the_most_stable_one_behind_a_third_of_the_depth():
    assert most_stable([0.99, 0.98, 0.5, 0.7, 0.6, 0.7]) == 3
    assert most_stable([0.1, 0.2, 0.9]) == 2


def test_a_layer_as_stable_as_the_chosen_one_is_named(made: EmotionVectors):
    tied = replace(made, layer=1, layers=made.layers.assign(stability=[0.9, 0.5, 0.5 - 1e-7]))
    assert tied.report().lead.endswith("of 0.500. Within rounding of layer 1: layer 2.")
    apart = replace(tied, layers=made.layers.assign(stability=[0.9, 0.5, 0.49]))
    assert apart.report().lead.endswith("of 0.500.")


# --- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_states_equal_those_of_each_text_alone(family: str):
    model, some = tiny(family), ["w3 w4 w5 w6", "w7 w8", "w9 w10 w11"] * 8
    last, mean = (text_states(model, some, end) for end in (True, False))
    for i, text in enumerate(some[:3]):
        alone = interp.activations(model, [text], "resid_post")
        for layer in range(3):
            states = alone[layer][0].float()
            assert torch.allclose(last[i, layer], states[-1], atol=1e-3, rtol=1e-4)
            own = [p for p in range(len(states)) if p > 0]
            assert torch.allclose(mean[i, layer], states[own].mean(0), atol=1e-3, rtol=1e-4)
    assert torch.allclose(mean[0], mean[-3], atol=1e-3) and len(mean) == 24
    with pytest.raises(PlanError, match="covers no token"):
        text_states(model, ["w3"], False)


def test_vectors_equal_a_naive_loop(made: EmotionVectors):
    model, own = tiny("llama"), texts().texts
    plain = text_states(model, PLAIN.replace(". ", ".\n").splitlines(), False)
    states = {name: text_states(model, own[name], False) for name in NAMES}
    grand = sum(x.mean(0) for x in states.values()) / 4
    for layer in range(3):
        axes = neutral_components(plain[:, layer])
        halves: list[torch.Tensor] = []
        for half in (0, 1):
            means = torch.stack([states[name][half::2, layer].mean(0) for name in NAMES])
            apart = means - means.mean(0)
            halves.append(apart - apart @ axes.T @ axes)
        stable = float(cosine_similarity(*halves).mean())
        assert made.layers["stability"][layer] == pytest.approx(stable, abs=1e-3)
        for row, name in enumerate(NAMES):
            v = (states[name].mean(0) - grand)[layer]
            assert torch.allclose(
                made.vectors[row, layer], v - v @ axes.T @ axes, atol=1e-3, rtol=1e-3
            )
    zero = made.coordinates(made.origin[1][None], ["joy", "awe"], 1)
    assert zero.abs().max() < 1e-5
    moved = made.origin[1] + made.spread[2, 1] * made.vectors[2, 1] / made.vectors[2, 1].norm()
    assert made.coordinates(moved[None], ["joy"], 1).item() == pytest.approx(1, rel=1e-3)


def test_vignettes_are_read_by_the_emotions_they_are_labelled_with(made: EmotionVectors):
    assert set(made.readings["test"]) == {"vignettes", "vignettes, neutral origin"}
    assert set(made.readings["n"]) == {8} and len(made.readings) == 6
    best = made.readings[made.readings["test"] == "vignettes"]["accuracy"].max()
    assert best > made.readings["null"].min()


def test_a_vector_steers_and_names_are_checked(made: EmotionVectors):
    model = tiny("llama")
    vector = made.steering("joy")
    assert torch.equal(vector[2], made.vectors[2, 2])
    plan = vector.plan(0.5, 1, relative="norm")
    assert not torch.equal(
        interp.forward(model, ["w1 w2"], plan).logits, interp.forward(model, ["w1 w2"]).logits
    )
    with pytest.raises(PlanError, match="no vector of 'yoy'. Did you mean 'joy'"):
        made.rows(["yoy"])
    with pytest.raises(PlanError, match="no vector of ''"):
        made.rows([])
    with pytest.raises(PlanError, match="other weights; load that model"):
        made.of(tiny("gpt2"))
    assert made.of(model) is made


# --- what is left out -----------------------------------------------------------------------------


def test_what_is_left_out_is_counted(tmp_path: Path):
    short = texts(n=3)
    some = replace(short, texts={**short.texts, "awe": ("w1 w2 w3",)})
    found = emotion_vectors(tiny("llama"), some, PLAIN, (), tmp_path / "v", progress=False)
    assert found.emotions == NAMES[:3] and found.readings.empty
    assert found.left_out == {FOREIGN: 2, FEW_OF: 1}
    assert found.without == ("awe",) and "Without a vector: awe." in found.report().html()
    why = found.texts.set_index("text")["excluded"]
    assert why["w1 w2 w3"] == FEW_OF and (found.texts["excluded"] != "").sum() == 1
    with pytest.raises(RunFolderError, match="other data"):
        emotion_vectors(tiny("llama"), short, PLAIN, (), tmp_path / "v", progress=False)
    few = replace(some, texts={**some.texts, "joy": ()})
    with pytest.raises(DataError, match="2 of 4 emotions have two texts"):
        emotion_vectors(tiny("llama"), few, PLAIN, (), tmp_path / "w", progress=False)
    with pytest.raises(DataError, match="neutral text has 1 sentences"):
        emotion_vectors(tiny("llama"), short, "w1 w2.", (), tmp_path / "x", progress=False)


def test_stories_that_name_their_emotion_are_excluded(monkeypatch: pytest.MonkeyPatch):
    said = ["She cried.", "He was SADLY gone.", " ", "A saddle.", "Full of sadness"]
    wrote: list[str] = []

    def write(model: Model, chats: list[interp.Conversation], *_, **options: bool):
        wrote.extend(render(model, chat)[0] for chat in chats)
        return [Generation((), (), text) for text in said]

    monkeypatch.setattr(emotion_words, "generate", write)
    words = {"sadness": "sad", "joy": "happy", "awe": "awed", "rage": "enraged"}
    asked = EvokingTexts.stories(words, 5)
    rows = asked.of(chat_model("chatml"), "sadness")
    assert rows["excluded"].tolist() == ["", NAMED, EMPTY, "", NAMED]
    assert len(wrote) == 5 and all(text.endswith("</think>\n\n") for text in wrote)
    said[:] = ["Happily so.", "A joyful day.", "How joyous.", "The unhappy boy.", "Joyce, hap"]
    rows = asked.of(chat_model("gemma"), "joy")  # whose template has no switch of thinking
    assert rows["excluded"].tolist() == [NAMED, NAMED, NAMED, "", ""]
    said[:] = ["It raged.", "Raging seas.", "Rags.", "An average.", "Rages"]
    assert asked.of(chat_model("gemma"), "rage")["excluded"].tolist() == [
        NAMED,
        NAMED,
        "",
        "",
        NAMED,
    ]
    monkeypatch.undo()
    with pytest.raises(DataError, match="no chat template"):
        asked.of(tiny("llama"), "joy")


def test_a_story_without_a_token_to_read_is_excluded(tmp_path: Path, monkeypatch):
    said = iter(
        [["w1", "w2 w3", "w4 w5"], ["w6", "w7", "w8 w9"], ["w1 w2", "w5 w3"], ["w6 w7"] * 2]
    )
    wrote = lambda *a, **k: [Generation((), (), text) for text in next(said)]  # noqa: E731 (short)
    monkeypatch.setattr(emotion_words, "generate", wrote)
    asked = EvokingTexts(
        WORDS, "stories", {name: ("w1",) * (3 - i // 2) for i, name in enumerate(NAMES)}
    )
    found = emotion_vectors(tiny("llama"), asked, PLAIN, (), tmp_path / "v", progress=False)
    assert found.emotions == ("anger", "joy", "awe") and found.without == ("fear",)
    assert found.texts["excluded"].tolist() == [SHORT, "", "", SHORT, SHORT, FEW_OF, *[""] * 4]
    assert found.left_out == {FOREIGN: 0, SHORT: 3, FEW_OF: 1}


def test_requests_and_frames_differ_in_the_word_alone():
    words = load_words("six")
    for source in (EvokingTexts.framed(words, 8), EvokingTexts.stories(words, 3)):
        bare = {
            tuple(text.replace(words[name], "_") for text in own)
            for name, own in source.texts.items()
        }
        assert len(bare) == 1
    frames = EvokingTexts.framed(words, 8).texts["fear"]
    assert [("felt scared" in t, "scared all day" in t) for t in frames[:2]] == [
        (True, False),
        (False, True),
    ]
    for n in (1, 10**6):
        with pytest.raises(DataError, match="give 2 to"):
            EvokingTexts.framed(words, n)


# --- words and ratings ----------------------------------------------------------------------------


def test_shipped_lists_are_what_their_card_says():
    sizes = {name: load_words(name) for name in LISTS}
    assert {name: len(one) for name, one in sizes.items()} == {
        "six": 6, "goemotions": 27, "broad": 171,
    }  # fmt: skip
    assert all(len(set(one.values())) == len(one) for one in sizes.values())
    assert set(sizes["six"]) <= set(sizes["broad"])
    norms = load_norms()
    rated = {
        name: [int(norms.reindex([*one.values()])[k].notna().sum()) for k in norms]
        for name, one in sizes.items()
    }
    assert rated == {"six": [6, 2], "goemotions": [24, 2], "broad": [157, 15]}
    assert norms["valence"].between(-4, 4).sum() == 184
    assert norms.loc["happy"].tolist() == pytest.approx([2.7, np.sin(np.radians(7.8))], abs=1e-3)


def test_faulty_words_are_refused(tmp_path: Path):
    file = tmp_path / "w.jsonl"
    for text, says in (
        ('{"emotion": "joy"}\n{"emotion": "joy"}\n{"emotion": "awe"}', "emotion 'joy' was used"),
        ('{"emotion": "joy"}\n{"emotion": "awe"}', "names 2 emotions"),
        ('{"emotion": " "}', "line 1"),
        ('{"emotion": "joy"}\n{"emotion": "awe"}\n{"emotion": "kind"}', "'kind' is a column"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=says):
            load_words(file)
    file.write_text('{"word": "a", "valence": 1}\n{"word": "a"}')
    with pytest.raises(DataError, match="word 'a' was used before"):
        load_norms(file)
    file.write_text('{"emotion": "joy", "text": "w1 w2"}\n{"emotion": "envy", "text": "w1"}')
    given = EvokingTexts.given(WORDS, file)
    assert given.foreign == 1 and given.texts["joy"] == ("w1 w2",) and given.texts["awe"] == ()


def test_vignettes_of_one_emotion_are_not_read(tmp_path: Path):
    some = [one for one in VIGNETTES if one.emotion in ("anger", "neutral")]
    found = emotion_vectors(tiny("llama"), texts(), PLAIN, some, tmp_path / "v", progress=False)
    assert found.readings.empty and found.report().html()
