"""States against plain forwards, their algebra, and circuits as values and files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import hooks_left, tiny

import interp
from circuits.emotion import load_frames, load_scenarios
from circuits.emotion.emotion_circuit import EmotionCircuit, SiteVectors
from circuits.emotion.states import EmotionGroup, States, centred, groups_of, states
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, StatisticsError
from interp.interventions.last_token import _alike, last_activations
from interp.model.model import Model
from interp.results import storage


def group_of(start: tuple[int, ...], theme: str = "a", text: str = "t") -> EmotionGroup:
    """Six prompts that share a beginning and differ in length."""
    tails = [(10,), (11, 12), (13, 9), (14, 15, 16), (17,), (18, 10)]
    return EmotionGroup(
        tuple(TokenPrompt((*start, *tail, 20)) for tail in tails), text, theme, "felt:A"
    )


GROUPS = [
    group_of((5, 6, 7), "a", "one"),
    group_of((30, 31, 32, 33, 34, 35), "b", "two"),
    group_of((40,), "a", "three"),
    EmotionGroup(tuple(TokenPrompt((50 + i, 60 + i, 20)) for i in range(6)), "four", "b", "day:A"),
]


def naive(model: Model, ids: tuple[int, ...], site: str) -> torch.Tensor:
    """A site at the last token, layer by layer, from a plain forward."""
    found = interp.activations(model, [TokenPrompt(ids)], site)
    return torch.stack([found[layer][0, -1] for layer in range(model.arch.n_layers)])


def test_states_equal_plain_forwards(tiny_model: Model):
    found = states(tiny_model, GROUPS)
    for g, one in enumerate(GROUPS):
        for e, prompt in enumerate(one.prompts):
            mid = naive(tiny_model, prompt.ids, "resid_pre") + naive(
                tiny_model, prompt.ids, "attn_out"
            )
            for site, value in (
                ("resid_mid", mid),
                *((s, naive(tiny_model, prompt.ids, s)) for s in ("resid_post", "mlp_post", "z")),
            ):
                got = getattr(found, site)[g, e].flatten(1)
                torch.testing.assert_close(got, value, atol=2e-4, rtol=1e-4)


def test_no_hook_is_left_behind():
    model = tiny("llama")
    states(model, GROUPS)
    assert not hooks_left(model)


def test_group_centring_sums_to_zero_over_emotions():
    found = states(tiny("llama"), GROUPS)
    for name in ("resid_mid", "z", "mlp_post"):
        total = centred(getattr(found, name)).sum(1)
        torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-4, rtol=0)
    differences = SiteVectors.differences(found)
    assert float(differences.z.sum(0).abs().max()) < 1e-5
    assert float(differences.mlp_post.sum(0).abs().max()) < 1e-4


def test_incomplete_groups_are_refused():
    short = EmotionGroup(GROUPS[0].prompts[:5], "one", "a", "felt:A")
    with pytest.raises(DataError, match="5 prompts"):
        states(tiny("llama"), [short])
    with pytest.raises(DataError, match="no groups"):
        states(tiny("llama"), [])


def test_prompts_alone_are_families_of_one():
    model = tiny("qwen2")
    prompts = [TokenPrompt((5, 6, 7)), TokenPrompt((8,)), TokenPrompt((5, 6, 7))]
    found = last_activations(model, prompts)
    torch.testing.assert_close(found["resid_post"][0], found["resid_post"][2])
    torch.testing.assert_close(
        found["resid_post"][1], naive(model, (8,), "resid_post"), atol=1e-4, rtol=1e-4
    )


def test_prompts_that_begin_alike_share_what_saves_most():
    texts = [(1, 2, 3, 4, 5, 9), (1, 2, 3, 4, 5, 8), (1, 2, 6, 7), (1, 2, 6, 8), (4, 4), (1, 2, 3)]
    prompts = [TokenPrompt(ids) for ids in texts]
    families, shared = _alike(prompts, 100)
    # as one family the five save 4 x 2 tokens; the two pairs alone would save 5 + 3
    assert [shared[i] for i in range(6)] == [2, 2, 2, 2, 0, 2]
    assert sorted(map(sorted, families)) == [[0, 1, 2, 3, 5], [4]]
    families, shared = _alike(prompts[:4], 12)  # no family of more than 12 tokens
    assert sorted(map(sorted, families)) == [[0, 1], [2, 3]]
    assert [shared[i] for i in range(4)] == [5, 5, 3, 3]
    model, done = tiny("qwen2"), list[tuple[int, int]]()
    found = last_activations(model, prompts, lambda *told: done.append(told))
    assert done[-1] == (6, 6)
    for i, ids in enumerate(texts):
        torch.testing.assert_close(
            found["resid_post"][i], naive(model, ids, "resid_post"), atol=1e-4, rtol=1e-4
        )


def test_states_are_cut_and_saved(tmp_path: Path):
    found = states(tiny("llama"), GROUPS)
    storage.store(found, tmp_path / "states", "step")
    read = storage.restore(tmp_path / "states", "step", States)
    assert (read.themes, read.texts, read.styles) == (found.themes, found.texts, found.styles)
    assert torch.equal(read.z, found.z)
    assert found.of_style("day:A").texts == ("four",)
    assert torch.equal(found.only([2, 0]).mlp_post[1], found.mlp_post[0])
    with pytest.raises(DataError, match="day:A"):
        found.of_style("day:B")


def test_styles_take_turns_and_see_every_valence():
    frames = load_frames("datasets/emotion_frames.json")
    scenarios = load_scenarios("datasets/emotion_scenarios_tuning.jsonl")[:6]
    styles = ("felt:A", "felt:B", "day:C")
    found = groups_of(tiny("llama"), scenarios, frames, styles)
    seen = {(one.style, one.text.rsplit("_", 1)[1]) for one in found}
    assert len(found) == 18 and len(seen) == 9
    with pytest.raises(DataError, match="felt:B"):
        groups_of(tiny("llama"), scenarios, frames, ["felt:D"])


# --- circuits -----------------------------------------------------------------------------------


def a_circuit(emotion: str = "anger") -> EmotionCircuit:
    neurons, heads = [(0, 3), (2, 5), (2, 1)], [(1, 2), (1, 0)]
    return EmotionCircuit.of(tiny("llama"), emotion, neurons, heads, "given")


def test_a_circuit_as_a_value():
    circuit = a_circuit()
    assert circuit.size == 5 and circuit.units("heads") == [(1, 2), (1, 0)]
    assert circuit.only("heads").size == 2 and circuit.only("neurons").size == 3
    assert circuit.units("neurons") == [(0, 3), (2, 5), (2, 1)]
    other = EmotionCircuit.of(tiny("llama"), "fear", [(0, 3), (2, 7)], [(1, 2)])
    assert circuit.jaccard(other, "neurons") == pytest.approx(1 / 4)
    assert circuit.jaccard(other, "heads") == pytest.approx(1 / 2)


@pytest.mark.parametrize("matched", [False, True])
def test_random_circuits_match_in_layers_and_are_disjoint(matched: bool):
    circuit = a_circuit()
    rng = np.random.default_rng(0)
    vectors = SiteVectors(torch.randn(6, 3, 4, 8), torch.randn(6, 3, 56)) if matched else None
    for _ in range(20):
        drawn = circuit.random(rng, vectors)
        for part in ("neurons", "heads"):
            assert not set(drawn.units(part)) & set(circuit.units(part))
            counts = [sorted(layer for layer, _ in c.units(part)) for c in (drawn, circuit)]
            assert counts[0] == counts[1]


def test_a_random_circuit_takes_the_nearest_layer_where_its_own_is_full():
    crowded = EmotionCircuit.of(tiny("llama"), "anger", [], [(1, 0), (1, 1), (1, 2)])
    drawn = crowded.random(np.random.default_rng(1)).units("heads")
    assert len(set(drawn)) == 3 and (1, 3) in drawn
    full = EmotionCircuit.of(
        tiny("llama"), "anger", [], [(n, h) for n in range(3) for h in range(3)]
    )
    with pytest.raises(StatisticsError, match="3 heads are left"):
        full.random(np.random.default_rng(1))
