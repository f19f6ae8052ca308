"""Attribution inside mixtures of experts: gradients by hand; conservation where routing flips."""

import dataclasses

import numpy as np
import pytest
import torch
from conformance.tiny_models import tiny_model
from conftest import word_pairs, word_tokenizer
from moe_models import MIXTURES, by_hand, mixed, tiny_mixture
from torch import Tensor

import interp
from interp.data.pairs import tokenise
from interp.errors import PlanError
from interp.model.model import Model

mixtures = pytest.mark.parametrize("family", list(MIXTURES))


def run_by_hand(model: Model, family: str, layer: int, prompt: str) -> list[Tensor]:
    """Neurons, contributions, which were chosen, last logits of a prompt, with gradients."""
    kept: list[Tensor] = []

    def keep(logits: Tensor, weights: Tensor, neurons: Tensor, outputs: Tensor) -> Tensor:
        parts = weights[:, :, None] * outputs
        kept[:] = [neurons, parts, (weights != 0)[:, :, None]]
        return parts.sum(1)

    ids = torch.tensor([model.encode(prompt)])
    embeddings = model.hf.get_input_embeddings()(ids).detach().requires_grad_(True)
    with by_hand(model, family, layer, keep):
        logits = model.hf(inputs_embeds=embeddings, use_cache=False).logits[0, -1]
    return [*kept, logits]


@mixtures
def test_gradient_times_difference_equals_autograd_by_hand(family: str):
    model, pairs, layer = tiny_mixture(family), word_pairs(), 1
    kept, _ = tokenise(model, pairs)
    by_neuron = interp.attribute(model, pairs, "expert_post", "layer,pos,neuron", "eap")
    by_expert = interp.attribute(model, pairs, "expert_out", "layer,pos,expert", "eap")
    for i, pair in enumerate(kept):
        neurons, parts, chosen, logits = run_by_hand(model, family, layer, pair.pair.clean)
        metric = logits[pair.answer] - logits[pair.wrong_answer]
        slopes = torch.autograd.grad(metric, [neurons, parts])
        others = run_by_hand(model, family, layer, pair.pair.corrupt)
        moved = neurons * chosen - others[0] * others[2]
        want = (moved * slopes[0]).flatten(1).detach().numpy()
        got = by_neuron.values.sel(layer=layer).values[i, : len(want)]
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))
        want = ((parts - others[1]) * slopes[1]).sum(-1).detach().numpy()
        got = by_expert.values.sel(layer=layer).values[i, : len(want)]
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))


@mixtures
def test_the_discrete_gradient_is_conserved_where_the_routing_flips(family: str):
    """At every layer the scores sum to the whole difference, whatever experts were chosen."""
    model, pairs = tiny_mixture(family), word_pairs()
    flips = 0
    for pair in pairs:
        both = [
            interp.activations(model, [text], "router_weights")
            for text in (pair.clean, pair.corrupt)
        ]
        flips += sum(int(((both[0][i] != 0) != (both[1][i] != 0)).sum()) for i in both[0])
    assert flips
    scores = interp.attribute(model, pairs, "resid_post", "layer")
    gap = (scores.clean - scores.corrupt).values
    for layer in scores.values.layer.values:
        np.testing.assert_allclose(
            scores.values.sel(layer=layer).values, gap, atol=2e-3 * np.abs(gap).max()
        )


@mixtures
def test_experts_share_the_score_of_their_mixture(family: str):
    model, pairs = tiny_mixture(family), word_pairs()
    if "mlp_out" not in model.arch.sites:
        pytest.skip(model.arch.missing["mlp_out"])
    experts = interp.attribute(model, pairs, "expert_out", "layer,expert")
    whole = interp.attribute(model, pairs, "mlp_out", "layer").values
    total = experts.values.sum("expert")
    if "shared_out" in model.arch.sites:
        total = total + interp.attribute(model, pairs, "shared_out", "layer").values
    whole = whole.sel(layer=total.layer)
    np.testing.assert_allclose(total.values, whole.values, atol=1e-4 * float(abs(whole).max()))
    by_neuron = interp.attribute(model, pairs, "expert_post", "layer,neuron").values
    by_expert = interp.attribute(model, pairs, "expert_post", "layer,expert").values
    n = by_expert.sizes["expert"]
    summed = by_neuron.values.reshape(*by_neuron.shape[:2], n, -1).sum(-1)
    np.testing.assert_allclose(summed, by_expert.values, atol=1e-5 * np.abs(summed).max())


def test_a_weight_that_is_zero_has_a_slope():
    """Of experts that were not chosen, too: their output is what a weight would bring in."""
    model, layer = tiny_mixture("qwen3_moe"), 2
    pairs = word_pairs()
    kept, _ = tokenise(model, pairs)
    scores = interp.attribute(model, pairs, "router_weights", "layer,pos,expert", "eap")
    for i, pair in enumerate(kept):
        found: list[Tensor] = []
        for prompt in (pair.pair.clean, pair.pair.corrupt):
            found.append(interp.activations(model, [prompt], "router_weights", layer)[layer][0])
        weights = found[0].clone().requires_grad_(True)
        with by_hand(
            model, "qwen3_moe", layer, lambda _, __, *both, own=weights: mixed(_, own, *both)
        ):
            logits = model.hf(torch.tensor([pair.clean]), use_cache=False).logits[0, -1]
        metric = logits[pair.answer] - logits[pair.wrong_answer]
        (slope,) = torch.autograd.grad(metric, weights)
        want = ((found[0] - found[1]) * slope).numpy()
        got = scores.values.sel(layer=layer).values[i, : len(want)]
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))


def test_units_are_attributed_where_blocks_cannot_be_taken_apart(tmp_path):
    model = tiny_mixture("deepseek_v3")
    layers = tuple(dataclasses.replace(b, whole="it is whole") for b in model.arch.layers)
    whole = dataclasses.replace(model, arch=dataclasses.replace(model.arch, layers=layers))
    scores = interp.attribute(whole, word_pairs(), "expert_out", "layer,expert")
    loaded = interp.Scores.load(scores.save(tmp_path / "scores"))
    np.testing.assert_array_equal(loaded.values.values, scores.values.values)
    assert loaded.plot().data
    with pytest.raises(PlanError, match="cannot be taken apart into edges"):
        _ = loaded.graph


@mixtures
def test_relp_takes_the_routing_as_constant(family: str):
    """Halves of gated products aside, a linear map of the stream: scores are finite, and sum."""
    model = tiny_mixture(family)
    experts = interp.attribute(model, word_pairs(), "expert_out", "layer,expert", "relp").values
    assert np.isfinite(experts.values).all()
    logits = interp.attribute(model, word_pairs(), "router_logits", "layer,expert", "relp").values
    assert not logits.values.any()


@pytest.mark.parametrize(
    "kind", ["llama4_text", "qwen3_next", "granitemoehybrid", "jamba", "laguna"]
)
def test_the_discrete_gradient_is_conserved_in_other_mixers(kind: str):
    """Through gated delta rules (a triangular system), state spaces (einsum) and softplus gates."""
    model = interp.load_model(tiny_model(kind), tokenizer=word_tokenizer())
    scores = interp.attribute(model, word_pairs(), "resid_post", "layer")
    gap = (scores.clean - scores.corrupt).values
    for values in scores.values.values.T:
        np.testing.assert_allclose(values, gap, atol=1e-3 * np.abs(gap).max())


def test_chords_are_refused_where_attention_selects_tokens():
    model = interp.load_model(tiny_model("glm_moe_dsa"), tokenizer=word_tokenizer())
    pairs = interp.PromptPairs.from_records(
        [
            {
                "clean": "w1 w2 w3 w4 w5 w6",
                "corrupt": "w7 w2 w3 w4 w5 w6",
                "answer": "w8",
                "wrong_answer": "w9",
            }
        ]
    )
    most = model.hf.config.index_topk
    if most >= 6:
        model.hf.config.index_topk = 4
    with pytest.raises(PlanError, match="selects . of the . tokens"):
        interp.attribute(model, pairs, "resid_pre", over="layer")
    assert interp.attribute(model, pairs, "resid_pre", over="layer", method="eap").values.size
