"""Trunks: what is read or searched above one is what whole prompts give, whoever shares it."""

import pytest
import torch
from conftest import tiny

from circuits.editing.change import Change
from circuits.editing.edit import Edit
from circuits.editing.fact import Fact
from circuits.editing.fact_prompts import EditPrompt
from circuits.editing.keys import keys_at, module_at, outputs_at
from circuits.editing.methods import Search
from circuits.editing.targets import FactPrompts, search_targets
from circuits.editing.trunk import Trunk, TrunkRow
from interp.forward.prefix_cache import separable

FAMILIES = ("llama", "gemma3", "gptj", "gpt2", "gemma2")
SHOWN = tuple(range(60, 67))
PROMPTS = [
    EditPrompt((*SHOWN, 5, 6, 7, 8), 9, 1, len(SHOWN)),
    EditPrompt((*SHOWN, 15, 16, 17), 8, 0, len(SHOWN)),
    EditPrompt((5, 6, 9, 11, 12), 2, 2),
    EditPrompt((5, 6, 9, 11, 12), 4, 0),  # the same tokens at another anchor
    EditPrompt((5, 6, 9), 1, 0),
]


def changes(model, *layers):
    torch.manual_seed(sum(layers))
    a = model.arch
    return tuple(
        Change("mlp_post", i, torch.randn(a.d_model, 2), torch.randn(a.d_mlp, 2) / 4)
        for i in layers
    )


def plainly(model, prompt, place, edit):
    """What a projection reads at the anchor, by Hugging Face's forward with changed weights."""
    seen = []
    made = Edit((Fact("w1 {}", "w2", "w3"),), edit, "test", model.name, model.weights_hash)
    hook = module_at(model, place).register_forward_hook(lambda m, args, out: seen.append(args[0]))
    with made.applied(model), torch.no_grad():
        model.hf(torch.tensor([prompt.ids[: prompt.anchor + 1]]))
    hook.remove()
    return seen[0][0, -1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_keys_above_a_trunk_are_those_of_whole_prompts(family: str, layer: int):
    model = tiny(family)
    edits = [(), changes(model, 0, 2), changes(model, 2), changes(model, 1), ()]
    prompts = [prompt for prompt in PROMPTS for _ in edits]
    owner = torch.arange(len(edits)).repeat(len(PROMPTS))
    read = [TrunkRow(p, p.anchor + 1, i) for p, i in zip(prompts, owner.tolist(), strict=True)]
    trunk = Trunk.of(model, read, edits, layer)
    assert separable(model) and bool(trunk.states) == (layer > 0)
    for place in (("mlp_post", layer), ("mlp_post", 2)):
        found = keys_at(model, prompts, [place], edits, owner, trunk=trunk)[place]
        alone = keys_at(model, prompts, [place], edits, owner)[place]
        torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-3)
        for prompt, i, key in zip(prompts, owner.tolist(), found, strict=True):
            want = plainly(model, prompt, place, edits[i])
            torch.testing.assert_close(key, want, atol=1e-4, rtol=1e-3)


def test_a_trunk_holds_each_prompt_once_for_all_edits_that_leave_it_as_it_is():
    model = tiny("llama")
    edits = [(), changes(model, 2), changes(model, 0)]
    read = [TrunkRow(PROMPTS[0], n, i) for i in range(3) for n in (9, 11)]
    trunk = Trunk.of(model, read, edits, 2)
    assert len(trunk.states) == 2  # under the last edit's change, and without
    assert all(len(shown) == 7 and len(rest) == 4 for shown, rest in trunk.states.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_search_above_a_trunk_is_one_from_the_bottom(family: str):
    model = tiny(family)
    essence = EditPrompt((5, 6, 13), 1, 0)
    facts = [FactPrompts((PROMPTS[2], PROMPTS[0]), essence), FactPrompts((PROMPTS[0],), essence)]
    edits, owner = [changes(model, 2), ()], torch.tensor([0, 1])
    read = [one for fact, i in zip(facts, (0, 1), strict=True) for one in fact.readings(i)]
    options, place = Search(steps=4, clamp=2, kl=0.5), [("mlp_post", 2)]
    found = [
        search_targets(model, facts, place, options, edits, owner, Trunk.of(model, read, edits, i))
        for i in (0, 1, 2)
    ]
    for one in found[1:]:
        torch.testing.assert_close(one.delta, found[0].delta, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(one.p, found[0].p, atol=1e-5, rtol=1e-3)
    outputs = outputs_at(model, PROMPTS[:1], place[0], edits, torch.tensor([1]))
    torch.testing.assert_close(found[0].initial[1, 0], outputs[0], atol=1e-4, rtol=1e-3)
