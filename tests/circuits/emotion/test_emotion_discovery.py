"""Directions, transfer tests, and a whole discovery: stopped, resumed, saved and refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny
from emotion_samples import SCENARIOS, SETTINGS
from test_emotion_states import GROUPS

from circuits.emotion import EMOTIONS, load_frames, load_replies
from circuits.emotion.components import normed
from circuits.emotion.directions import Directions, window_layers
from circuits.emotion.discovery import discover, neutral_prompts
from circuits.emotion.emotion_settings import EmotionSettings
from circuits.emotion.prompts import Frames, ReplyPrompts
from circuits.emotion.result import EmotionDiscovery
from circuits.emotion.selection import Budget, overlap_table, top_units
from circuits.emotion.states import States, centred, demonstration_groups, reply_groups, states
from circuits.emotion.texts import NEUTRAL, TRAP, Vignette, situations
from circuits.emotion.transfer import (
    Reading,
    across,
    best_layer,
    left_out,
    read_groups,
    read_vignettes,
    tables,
    vignette_states,
)
from interp.errors import DataError, PlanError, RunFolderError


@pytest.fixture
def frames() -> Frames:
    return load_frames("datasets/emotion_frames.json")


def planted(n_groups: int = 12, noise: float = 0.1, styles: tuple[str, ...] = ("x:A",)) -> States:
    """States whose layer 1 holds the emotion, and whose layer 0 holds nothing."""
    rng = torch.Generator().manual_seed(0)
    emotion = torch.eye(6, 16) * 3
    own = torch.stack([torch.zeros(6, 16), emotion], 1)  # emotion, layer, d_model
    base = torch.randn(n_groups, 1, 2, 16, generator=rng) * 5
    shape = (n_groups, 6, 2, 16)
    mid, post = (base + own + noise * torch.randn(shape, generator=rng) for _ in range(2))
    n = range(n_groups)
    return States(
        resid_mid=mid,
        resid_post=post,
        z=torch.randn(n_groups, 6, 2, 4, 4, generator=rng),
        mlp_post=torch.randn(n_groups, 6, 2, 8, generator=rng),
        themes=tuple("ab"[i % 2] for i in n),
        texts=tuple(f"text{i // 2}_{i % 2}" for i in n),
        styles=tuple(styles[i // 2 % len(styles)] for i in n),
    )


# --- directions ---------------------------------------------------------------------------------


def test_directions_of_one_style_are_the_papers():
    found = states(tiny("llama"), GROUPS).of_style("felt:A")
    mean = centred(found.resid_post).mean(0)
    own = Directions.of(found)
    want = mean / mean.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(own.resid_post, want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(own.resid_post.norm(dim=-1), torch.ones(6, 3))


def test_styles_count_alike_however_large_their_states():
    found = planted(styles=("x:A", "y:B"))
    scale = torch.tensor([100.0 if s == "y:B" else 1.0 for s in found.styles])
    large = replace(found, resid_post=found.resid_post * scale[:, None, None, None])
    one, other = Directions.of(found), Directions.of(large)
    torch.testing.assert_close(one.resid_post, other.resid_post, atol=1e-5, rtol=1e-4)


def test_reference_is_the_unit_sum_of_aligned_directions():
    assert window_layers(28) == (21, 25)
    mid = torch.zeros(6, 28, 8)
    mid[..., 0] = 1.0
    post = mid.clone()
    post[:, 23] = -post[:, 23]  # turned round: aligned before the sum
    post[:, 24] = torch.eye(8)[1]
    own = Directions(mid, post, ("x:A",), 1).reference()
    want = torch.tensor([9.0, 1.0]) / np.sqrt(82)
    torch.testing.assert_close(own[:, :2], want.expand(6, 2).float())


def test_similarity_of_directions():
    own = Directions.of(planted())
    table = own.similarity(1)
    torch.testing.assert_close(table.diagonal(), torch.ones(6))
    off = table[~torch.eye(6, dtype=torch.bool)]
    assert float(off.mean()) == pytest.approx(-0.2, abs=0.01)  # centring forces it


# --- reading and transfer ------------------------------------------------------------------------


def test_reading_finds_the_planted_layer():
    found = planted()
    table = left_out(found, found, "within").table()
    assert table["accuracy"][1] == 1.0 and table["p"][1] == 0.001
    assert table["accuracy"][0] < 0.5 and table["p"][0] > 0.001
    assert (table["n"] == 72).all() and (table["clusters"] == 6).all()
    assert table["null"][1] < 0.35


def test_transfer_between_styles_leaves_themes_out():
    found = planted(24, styles=("x:A", "y:B"))
    inside = across(found, [("x:A", "y:B")])[0]
    assert inside.name == "x:A→y:B" and inside.correct[:, 1].all() and len(inside.true) == 72
    one = replace(found, themes=("a",) * 24)
    with pytest.raises(DataError, match="all groups are of the theme 'a'"):
        left_out(one, one, "within")


def test_a_wrong_assignment_of_labels_is_read_wrong():
    found = planted()
    own = read_groups(Directions.of(found), found, "own")
    turned = replace(own, true=(own.true + 1) % 6)
    assert own.correct[:, 1].all() and turned.table()["accuracy"][1] == 0.0


def test_best_layer_is_that_of_a_neighbourhood():
    said = np.zeros((10, 6), dtype=int)
    said[:, 1:] = 1
    said[:4, 0] = 1  # 0.4, then 1, .5, 1, 1, 1
    said[:5, 2] = 0
    reading = Reading("x", said, np.ones(10, dtype=int), list(range(10)), np.zeros(10, dtype=int))
    assert best_layer([reading]) == 4
    other = replace(reading, found=np.eye(6, dtype=int)[[1] * 10])  # right at layer 1 alone
    assert best_layer([other, other, reading]) == 2  # 1.27, 1.3, 1.5, ...
    assert tables([]).empty


@pytest.mark.parametrize("tenths", [(0, 3, 2, 1, 0, 0, 1, 2, 3, 0), (0, 1, 2, 3, 0, 0, 3, 2, 1, 0)])
def test_of_equal_layers_the_first_is_best_and_the_other_named(tenths: tuple[int, ...]):
    said = (np.arange(10)[:, None] < tenths).astype(int)
    labels, blocks = np.ones(10, dtype=int), np.zeros(10, dtype=int)
    reading = Reading("x", said, labels, list(range(10)), blocks)
    assert best_layer([reading]) == 2
    trap = replace(reading, name=f"{TRAP} x", found=np.eye(10, dtype=int)[[4] * 10])
    for readings, near in (([trap], ""), ([trap, reading], "Within rounding of layer 2: layer 7.")):
        found = SimpleNamespace(readings=tables(readings))
        assert EmotionDiscovery.near_ties.__get__(found) == near


def test_wordless_prompts_have_no_word_and_are_complete(frames: Frames):
    model, replies = tiny("llama"), load_replies("datasets/emotion_replies.jsonl")
    texts = situations(SCENARIOS, 3)
    shown = demonstration_groups(model, ReplyPrompts(frames, replies), texts)
    assert [len(g.prompts) for g in shown] == [6, 6, 6] and shown[0].style == "demonstrations"
    spoken = reply_groups(model, frames, replies)
    assert len(spoken) == 24 and len({g.text for g in spoken}) == 24
    with pytest.raises(DataError, match="no reply in anger"):
        reply_groups(model, frames, [r for r in replies if r.emotion != "anger"])


def test_vignettes_are_read_less_either_origin(frames: Frames):
    own = Directions.of(planted())
    labels = [*EMOTIONS, *EMOTIONS, NEUTRAL]
    vignettes = [Vignette(id=str(i), emotion=label, text="w1 w2") for i, label in enumerate(labels)]
    x = torch.zeros(13, 2, 16)
    x[:12, 1, :6] = torch.eye(6).repeat(2, 1)
    x += 7.0
    balanced, neutral = read_vignettes(own.resid_post, EMOTIONS, x, vignettes)
    assert balanced.correct[:, 1].all() and neutral.correct[:, 1].all()
    assert balanced.name == "vignettes" and len(balanced.true) == 12
    assert vignette_states(tiny("llama"), frames, vignettes[:2]).shape == (2, 3, 32)


# --- discovery ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gemma3", "gptj"])
def test_a_discovery_returns_from_its_folder(tmp_path: Path, frames: Frames, family: str):
    model = tiny(family)
    made = discover(model, SCENARIOS, frames, SETTINGS, out=tmp_path / "d")
    assert not (tmp_path / "d.partial").exists()
    read = EmotionDiscovery.load(tmp_path / "d").of(model)
    assert read.circuits == made.circuits and read.settings == SETTINGS
    assert read.layer == made.layer
    assert torch.equal(read.influence.values, made.influence.values)
    assert torch.equal(read.scores["centred"].heads, made.scores["centred"].heads)
    assert torch.equal(read.directions.resid_mid, made.directions.resid_mid)
    assert torch.equal(read.means.z, made.means.z)
    one, other = read.by_style["day:B"], made.by_style["day:B"]
    assert torch.equal(one.resid_post, other.resid_post) and one.n_groups == other.n_groups
    assert read.readings.equals(made.readings)
    assert read.projections.equals(made.projections) and len(made.projections) > 0
    sizes = {p: (len(c["fear"].units("neurons")), len(c["fear"].units("heads"))) for p, c in
             read.circuits.items()}  # fmt: skip
    n_heads = model.arch.n_layers * model.arch.n_heads // 4
    assert set(sizes.values()) == {(30, n_heads)} and len(sizes) == 4
    with pytest.raises(PlanError, match="other weights"):
        read.of(tiny("qwen2"))


def test_another_discovery_in_the_folder_is_refused(tmp_path: Path, frames: Frames):
    model = tiny("llama")
    discover(model, SCENARIOS, frames, SETTINGS, out=tmp_path / "d")
    with pytest.raises(RunFolderError, match=r"scenarios=8 \(this one: 4\) and other texts"):
        discover(model, SCENARIOS[:4], frames, SETTINGS, out=tmp_path / "d")


def test_other_words_around_demonstrations_are_another_discovery(tmp_path: Path, frames: Frames):
    model, settings = tiny("llama"), SETTINGS.model_copy(update={"n_demonstrations": 2})
    replies = load_replies("datasets/emotion_replies.jsonl")
    given, out = (model, SCENARIOS[:4], frames, settings), tmp_path / "d"
    discover(*given, replies, out)
    moved = [reply.model_copy(update={"event": f"{reply.event} Again."}) for reply in replies]
    with pytest.raises(RunFolderError, match="with other replies"):
        discover(*given, moved, out)
    asked = frames.demonstrations.model_copy(update={"separator": " w3 "})
    other = frames.model_copy(update={"demonstrations": asked})
    with pytest.raises(RunFolderError, match="with other frames"):
        discover(model, SCENARIOS[:4], other, settings, replies, out)


def test_paper_settings_read_the_last_layer_after_the_norm(frames: Frames):
    model = tiny("llama")
    settings = EmotionSettings.published("felt:A").model_copy(update={"n_neutral": 2})
    made = discover(model, SCENARIOS[:4], frames, settings)
    clean = discover(
        model, SCENARIOS[:4], frames, SETTINGS.model_copy(update={"styles": ("felt:A",)})
    )
    one, other = made.directions.resid_post, clean.directions.resid_post
    torch.testing.assert_close(one[:, :-1], other[:, :-1])
    assert not torch.allclose(one[:, -1], other[:, -1], atol=1e-2)
    assert made.settings.final == "normed" and len(made.settings.alphas) == 4
    x = torch.randn(3, 32)
    torch.testing.assert_close(normed(model, x), model.ln_final(x).detach())
    budget = Budget.of(model, settings.size)
    assert (budget.neurons, budget.heads) == (42, 12)  # ten a sublayer, 7 : 3; 12 heads in all


def test_neutral_prompts_take_turns_in_the_frames(frames: Frames):
    model, six = tiny("llama"), SETTINGS.model_copy(update={"n_neutral": 6})
    found = neutral_prompts(model, SCENARIOS, frames, six)
    assert len(found) == 6 and len({len(p.ids) for p in found}) > 1
    every = SETTINGS.model_copy(update={"n_neutral": None})
    assert len(neutral_prompts(model, SCENARIOS, frames, every)) == 24


def test_overlap_of_circuits(frames: Frames):
    made = discover(tiny("llama"), SCENARIOS, frames, SETTINGS)
    table = overlap_table(made.circuits["paper"])
    assert len(table) == 15 and table["neurons"].between(0, 1).all()


def test_top_units_break_ties_by_place():
    score = torch.tensor([[1.0, 3.0], [3.0, 0.0]])
    assert top_units(score, 3) == [(0, 1), (1, 0), (0, 0)]
