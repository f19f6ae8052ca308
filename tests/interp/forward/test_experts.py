"""Inside mixtures of experts: every site equals a forward written out by hand."""

import contextlib

import numpy as np
import pytest
import torch
from conformance.tiny_models import tiny_model
from conftest import hooks_left, tiny, word_pairs, word_tokenizer
from moe_models import (
    MIXTURES,
    OTHERS,
    by_hand,
    mixed,
    mixture_of,
    neurons_by_hand,
    output_by_hand,
    routing_by_hand,
    shared_by_hand,
    tiny_mixture,
)
from torch import Tensor

import interp
from interp.data.pairs import tokenise
from interp.errors import PlanError
from interp.forward.packed import shares_prefixes
from interp.loading.check import validate
from interp.model.model import Model
from interp.model.sites import EXPERT_SITES, SITES

PROMPTS = ["w1 w2 w3 w4 w5 w6", "w7 w8 w10 w11"]
mixtures = pytest.mark.parametrize("family", list(MIXTURES))


def noted(model: Model, family: str, layer: int, prompt: str) -> tuple[Tensor, Tensor]:
    """(dense routing weights, contributions) of a layer's mixture, by hand."""
    found: list[Tensor] = []

    def note(logits: Tensor, weights: Tensor, neurons: Tensor, outputs: Tensor) -> Tensor:
        found[:] = [weights, weights[:, :, None] * outputs]
        return mixed(logits, weights, neurons, outputs)

    with by_hand(model, family, layer, note):
        logits_of(model, prompt)
    return found[0], found[1]


def logits_of(model: Model, prompt: str) -> Tensor:
    return model.hf(torch.tensor([model.encode(prompt)]), use_cache=False).logits[0]


@mixtures
def test_every_site_equals_the_forward_by_hand(family: str):
    model, layer = tiny_mixture(family), 1
    moe, seen = mixture_of(model, layer), []
    handle = moe.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    logits_of(model, PROMPTS[0])
    handle.remove()
    hidden, out = seen[0]
    out = out[0] if isinstance(out, tuple) else out
    x = hidden.flatten(0, -2)
    logits, weights = routing_by_hand(family, moe, x)
    n = weights.shape[1]
    chosen = (weights != 0).float()
    neurons = torch.stack([neurons_by_hand(family, moe, x, e) for e in range(n)], 1)
    outputs = torch.stack([output_by_hand(family, moe, neurons[:, e], e) for e in range(n)], 1)
    want = {
        "router_logits": logits,
        "router_weights": weights,
        "expert_post": (neurons * chosen[:, :, None]).flatten(1),
        "expert_out": (weights[:, :, None] * outputs).flatten(1),
    }
    found = {site: interp.activations(model, PROMPTS[:1], site, layer)[layer][0] for site in want}
    for site, values in want.items():
        torch.testing.assert_close(found[site], values, atol=1e-5, rtol=1e-4, msg=site)
    total = found["expert_out"].unflatten(1, (n, -1)).sum(1)
    if "shared_out" in model.arch.sites:
        shared = interp.activations(model, PROMPTS[:1], "shared_out", layer)[layer][0]
        torch.testing.assert_close(shared, shared_by_hand(moe, x), atol=1e-5, rtol=1e-4)
        total = total + shared
    torch.testing.assert_close(total, out.flatten(0, -2), atol=1e-5, rtol=1e-4)
    assert hooks_left(model) == []
    assert not any("forward" in vars(module) for module in model.hf.modules())


@pytest.mark.parametrize("family", [*MIXTURES, *OTHERS])
def test_the_conformance_report_holds(family: str):
    assert [check for check in validate(tiny_mixture(family)) if not check.holds] == []


@mixtures
def test_an_expert_ablated_equals_a_forward_by_hand(family: str):
    model, pairs, layer, expert = tiny_mixture(family), word_pairs(), 2, 1
    kept, _ = tokenise(model, pairs)
    result = interp.ablate(
        model, pairs, f"m{layer}.e{expert}", "zero", readouts=["logit_diff"], n_random=2
    )

    def without(logits: Tensor, weights: Tensor, neurons: Tensor, outputs: Tensor) -> Tensor:
        weights = weights.clone()
        weights[:, expert] = 0
        return mixed(logits, weights, neurons, outputs)

    for i, pair in enumerate(kept):
        with by_hand(model, family, layer, without):
            want = logits_of(model, pair.pair.clean)[-1]
        got = float(result.reading()["ablated"].values[i, 0])
        assert got == pytest.approx(float(want[pair.answer] - want[pair.wrong_answer]), abs=1e-4)


def test_all_experts_but_one_and_random_sets_of_like_norms():
    """Layer 0 has no experts, so none of its are ablated, nor drawn."""
    model, pairs = tiny_mixture("glm4_moe"), word_pairs()
    kept, _ = tokenise(model, pairs)
    sets = interp.all_but(model, "m1.e0")
    result = interp.ablate(
        model, pairs, sets, "zero", readouts=["logit_diff"], n_random=3, match_norms=True
    )
    first = interp.Ablate("expert_out", layers=1, units=range(1, 8))
    plan = interp.Plan.of(first, interp.Ablate("expert_out", layers=2))
    logits = interp.forward(model, [pair.pair.clean for pair in kept], plan).logits
    want = [float(row[p.answer] - row[p.wrong_answer]) for row, p in zip(logits, kept, strict=True)]
    np.testing.assert_allclose(result.reading()["ablated"].values[:, 0], want, atol=1e-4)
    drawn = [one for many in result.controls.values() for group in many for one in group.components]
    assert drawn and {one.layer for one in drawn} == {1}


@mixtures
def test_patching_experts_equals_a_loop_over_forwards_by_hand(family: str):
    model, layer = tiny_mixture(family), 1
    pairs = word_pairs()
    kept, _ = tokenise(model, pairs)
    over, n = "layer,pos,expert", model.mixtures[layer].n_experts
    result = interp.patch(model, pairs, "expert_out", over, layers=[layer], direction="noise")
    for i, pair in enumerate(kept):
        _, source = noted(model, family, layer, pair.pair.corrupt)
        for pos in (pair.first_difference, len(pair.clean) - 1):
            for expert in range(n):

                def patched(logits, weights, neurons, outputs, source=source, at=(pos, expert)):
                    parts = weights[:, :, None] * outputs
                    parts[at] = source[at]
                    return parts.sum(1)

                with by_hand(model, family, layer, patched):
                    want = logits_of(model, pair.pair.clean)[-1]
                want = float(want[pair.answer] - want[pair.wrong_answer])
                got = result.values.sel(pos=pos, expert=expert).values[i, 0]
                assert got == pytest.approx(want, abs=1e-4), (i, pos, expert)


@mixtures
def test_routing_is_free_unless_it_is_held(family: str):
    """The corrupt stream enters a layer: experts are chosen anew, or as in the clean run."""
    model, layer = tiny_mixture(family), 1
    kept, _ = tokenise(model, word_pairs())
    changed = 0
    for pair in kept:
        prompt = [pair.pair.clean]
        corrupt = interp.activations(model, [pair.pair.corrupt], "resid_mid", layer)
        clean = interp.activations(model, prompt, "router_logits", layer)
        free = interp.Plan.of(interp.Patch("resid_mid", corrupt))
        held = free + interp.Patch("router_logits", clean)
        plans = {"free": free, "held": held}
        got = {name: interp.forward(model, prompt, plan).logits[0] for name, plan in plans.items()}
        weights_of_clean, _ = noted(model, family, layer, pair.pair.clean)

        def as_clean(logits, weights, neurons, outputs, own=weights_of_clean):
            return mixed(logits, own, neurons, outputs)

        for name, change in (("free", mixed), ("held", as_clean)):
            with by_hand(model, family, layer, change), _given(model, layer, corrupt[layer]):
                want = logits_of(model, pair.pair.clean)[-1]
            torch.testing.assert_close(got[name], want, atol=1e-4, rtol=1e-4)
        changed += int(not torch.allclose(got["free"], got["held"], atol=1e-3))
        weights = interp.activations(model, prompt, "router_weights", layer)
        also = free + interp.Patch("router_weights", weights)
        again = interp.forward(model, prompt, also).logits[0]
        torch.testing.assert_close(again, got["held"], atol=1e-4, rtol=1e-4)
    assert changed


@contextlib.contextmanager
def _given(model: Model, layer: int, resid: Tensor):
    """Write ``resid_mid`` with a plain hook."""
    module, _ = model.point(SITES["resid_mid"], layer)
    handle = module.register_forward_pre_hook(lambda _, args: args[0].copy_(resid.view_as(args[0])))
    try:
        yield
    finally:
        handle.remove()


def test_experts_that_were_not_chosen_can_be_brought_in():
    """A weight written at an expert that the router left out makes it compute."""
    model, layer, expert = tiny_mixture("qwen3_moe"), 1, 3
    weights = interp.activations(model, PROMPTS[:1], "router_weights", layer)[layer][0]
    assert bool((weights[:, expert] == 0).any())
    value = torch.zeros(6)
    value[expert] = 0.7
    plan = interp.Patch("router_weights", value, layers=layer, units=[expert])

    def raised(logits, weights, neurons, outputs):
        weights = weights.clone()
        weights[:, expert] = 0.7
        return mixed(logits, weights, neurons, outputs)

    with by_hand(model, "qwen3_moe", layer, raised):
        want = logits_of(model, PROMPTS[0])[-1]
    torch.testing.assert_close(
        interp.forward(model, PROMPTS[:1], plan).logits[0], want, atol=1e-4, rtol=1e-4
    )


def test_recordings_are_labelled_by_expert_and_can_be_written_back():
    model, names = tiny_mixture("qwen3_moe"), ["router_weights", "expert_post", "expert_out"]
    cache = interp.activations(model, PROMPTS, names)
    front = ("prompt", "layer", "pos", "expert")
    ends = ((), ("neuron",), ("d_model",))
    for name, end in zip(names, ends, strict=True):
        assert cache[name].dims == (*front, *end)
        assert cache[name].expert.values.tolist() == list(range(6))
        flat = cache[name].sel(layer=1).values.reshape(2, 6, -1)
        alone = interp.activations(model, PROMPTS, name, 1)[1].numpy()
        np.testing.assert_allclose(flat, alone, atol=1e-6)
        plan = interp.Patch(name, cache[name])
        got, want = (interp.forward(model, PROMPTS, p).logits for p in (plan, ()))
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_a_gate_of_its_own_makes_the_shared_output_missing():
    model = tiny_mixture("qwen2_moe")
    assert "shared_post" in model.arch.sites and "shared_out" not in model.arch.sites
    assert "changes what its shared experts give" in model.arch.missing["shared_out"]


def test_experts_of_another_form_are_missing_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("interp.model.expert_layout.form_of", lambda _: None)
    model = interp.load_model(tiny_model("jetmoe"), tokenizer=word_tokenizer())
    assert not set(EXPERT_SITES) & set(model.arch.sites)
    assert "compute in a form that is not known" in model.arch.missing["expert_out"]
    with pytest.raises(PlanError, match="use the method 'eap'"):
        interp.attribute(model, word_pairs(), "resid_post", progress=False)
    interp.attribute(model, word_pairs(), "resid_post", method="eap", progress=False)


def test_a_router_without_routing_weights_refuses_chords():
    model = interp.load_model(tiny_model("jetmoe"), tokenizer=word_tokenizer())
    with pytest.raises(PlanError, match="JetMoeTopKGating does not give just logits"):
        interp.attribute(model, word_pairs(), "resid_post", progress=False)


def test_experts_that_give_what_they_read():
    """LongCat-Flash: the last experts have no neurons, and can be read and removed all the same."""
    model = interp.load_model(tiny_model("longcat_flash"), tokenizer=word_tokenizer())
    layout, moe = model.mixtures[0], mixture_of(model, 0)
    assert (layout.n_experts, layout.n_identity, layout.d_expert) == (8, 4, 24)
    seen: list[tuple[Tensor, Tensor]] = []
    handle = moe.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    logits_of(model, PROMPTS[0])
    handle.remove()
    weights, out, neurons = (
        interp.activations(model, PROMPTS[:1], site, 0)[0][0]
        for site in ("router_weights", "expert_out", "expert_post")
    )
    out = out.unflatten(-1, (8, -1))
    assert neurons.shape[-1] == 4 * 24 and bool((weights[:, 4:] > 0).any())
    sizes = interp.activations(model, PROMPTS, ["expert_post"])["expert_post"].sizes
    assert (sizes["expert"], sizes["neuron"]) == (4, 24)
    scores = (
        interp.attribute(model, word_pairs(), "expert_post", ("layer", unit), "eap", progress=False)
        for unit in ("neuron", "expert")
    )
    for by_neuron, by_expert in zip(*(found.values for found in scores), strict=True):
        total = by_neuron.values.reshape(2, 4, 24).sum(-1)
        np.testing.assert_allclose(by_expert.values, total, atol=1e-6)
    torch.testing.assert_close(out[:, 4:], weights[:, 4:, None] * seen[0][0].flatten(0, 1)[:, None])
    torch.testing.assert_close(out.sum(1), seen[0][1].flatten(0, 1), atol=1e-5, rtol=1e-4)
    expert = int(weights[:, 4:].sum(0).argmax()) + 4
    got = interp.forward(model, PROMPTS[:1], interp.Ablate("expert_out", layers=0, units=[expert]))
    lost = weights[:, expert, None] * seen[0][0]
    handle = moe.register_forward_hook(lambda _, args, out: out - lost)
    want = logits_of(model, PROMPTS[0])
    handle.remove()
    torch.testing.assert_close(got.logits[0], want[-1], atol=1e-5, rtol=1e-4)


def test_weights_that_scale_the_experts_inputs():
    """Llama 4: every expert gets the tokens times its score, 0 where it was not chosen."""
    model, layer, expert = tiny_mixture("llama4"), 1, 2
    moe = mixture_of(model, layer)
    seen: list[tuple[Tensor, Tensor]] = []
    handle = moe.register_forward_hook(lambda _, args, out: seen.append((args[0], out[0])))
    logits_of(model, PROMPTS[0])
    handle.remove()
    x = seen[0][0].flatten(0, -2)
    logits = x @ moe.router.weight.T
    weights = torch.where(logits == logits.max(-1, keepdim=True)[0], logits.sigmoid(), 0)
    gate, up = (weights.T[:, :, None] * x @ moe.experts.gate_up_proj).chunk(2, -1)
    neurons = up * torch.nn.functional.silu(gate)  # (expert, token, neuron)
    outputs = neurons @ moe.experts.down_proj
    want = {
        "router_logits": logits,
        "router_weights": weights,
        "expert_post": neurons.transpose(0, 1).flatten(1),
        "expert_out": outputs.transpose(0, 1).flatten(1),
    }
    for site, values in want.items():
        found = interp.activations(model, PROMPTS[:1], site, layer)[layer][0]
        torch.testing.assert_close(found, values, atol=1e-5, rtol=1e-4, msg=site)
    shared = interp.activations(model, PROMPTS[:1], "shared_out", layer)[layer][0]
    torch.testing.assert_close(outputs.sum(0) + shared, seen[0][1], atol=1e-5, rtol=1e-4)
    plan = interp.Ablate("expert_out", layers=layer, units=[expert])
    got = interp.forward(model, PROMPTS[:1], plan).logits[0]
    with torch.no_grad():
        moe.experts.down_proj[expert], before = 0, moe.experts.down_proj[expert].clone()
        torch.testing.assert_close(got, logits_of(model, PROMPTS[0])[-1], atol=1e-4, rtol=1e-4)
        moe.experts.down_proj[expert] = before


def test_only_layers_with_experts_have_their_sites():
    model = tiny_mixture("glm4_moe")
    assert model.arch.layers_with("expert_out") == (1, 2)
    result = interp.patch(model, word_pairs(), "expert_out", "layer,expert")
    assert result.values.layer.values.tolist() == [1, 2]
    assert result.values.sizes["expert"] == 8
    with pytest.raises(PlanError, match="layer 0 .* has no site 'expert_out'"):
        interp.activations(model, PROMPTS, "expert_out", 0)
    assert "no mixture of experts" in tiny("llama").arch.missing["expert_out"]


def test_neurons_can_be_patched_one_by_one_or_by_expert():
    model, layer = tiny_mixture("qwen3_moe"), 1
    one = interp.patch(model, word_pairs(), "expert_post", "expert", layers=[layer])
    groups = [list(range(12 * e, 12 * e + 12)) for e in range(6)]
    two = interp.patch(model, word_pairs(), "expert_post", "neuron", layers=[layer], neurons=groups)
    np.testing.assert_array_equal(one.values.values, two.values.values)


def test_mixtures_share_prefixes_and_convolutions_do_not():
    assert all(shares_prefixes(tiny_mixture(family)) for family in MIXTURES)
    assert not shares_prefixes(tiny_mixture("lfm2_moe"))
