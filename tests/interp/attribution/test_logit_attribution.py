"""Direct attribution: contributions that add up, and log-prob gains computed the long way."""

import pytest
import torch
from conformance.tiny_models import tiny_model as tiny_of
from conftest import tiny, tiny_hf, word_pairs, word_tokenizer

import interp
from interp.attribution.logit_attribution import (
    direct_logit_attribution,
    last_token,
    log_prob_increase,
)
from interp.data.pairs import PromptPairs, tokenise
from interp.errors import PlanError
from interp.forward.blocks import weight_of
from interp.model.graph import Graph
from interp.model.model import Model


def pairs_of(model: Model):
    return tokenise(model, word_pairs())[0]


def final_logits(model: Model) -> torch.Tensor:
    """Each clean prompt's last logits, by plain forward passes."""
    rows = []
    for pair in pairs_of(model):
        with torch.no_grad():
            rows.append(model.hf(input_ids=torch.tensor([pair.clean])).logits[0, -1])
    return torch.stack(rows)


def test_direct_effects_sum_to_the_logit_difference(tiny_model: Model):
    found = direct_logit_attribution(tiny_model, pairs_of(tiny_model))
    logits = final_logits(tiny_model)
    if tiny_model.arch.adapter == "Gemma2ArchitectureAdapter":
        # Direct effects are of the logits before the soft-cap.
        cap = 3.0
        logits = cap * torch.atanh(logits / cap)
    want = torch.stack(
        [
            row[p.answer] - row[p.wrong_answer]
            for row, p in zip(logits, pairs_of(tiny_model), strict=True)
        ]
    )
    torch.testing.assert_close(found.nodes.sum(1) + found.bias, want, atol=1e-4, rtol=1e-3)
    assert found.nodes.shape[1] == Graph.of(tiny_model.arch).n_sources


@pytest.mark.parametrize("family", ["granite", "cohere"])
def test_direct_effects_are_of_the_logits_as_the_model_scales_them(family: str):
    model = interp.load_model(tiny_of(family), tokenizer=word_tokenizer())
    found = direct_logit_attribution(model, pairs_of(model))
    answer, wrong = (final_logits(model)[range(3), ids] for ids in ([24, 34, 44], [25, 35, 45]))
    torch.testing.assert_close(found.nodes.sum(1) + found.bias, answer - wrong)


def test_a_head_that_writes_nothing_has_no_direct_effect():
    hf = tiny_hf("llama")
    with torch.no_grad():
        hf.model.layers[1].self_attn.o_proj.weight[:, 8:16] = 0
    model = interp.load_model(hf, tokenizer=word_tokenizer())
    nodes = direct_logit_attribution(model, pairs_of(model)).nodes
    graph = Graph.of(model.arch)
    assert nodes[:, graph.node("a1.h1")].abs().max() == 0
    assert nodes[:, graph.node("a1.h0")].abs().min() > 0


def test_log_prob_gain_counts_the_final_norms_bias():
    """Gains of every head in turn, on the stream they leave, are those of the model's own norm."""
    model = tiny("gpt2")
    pairs, last = pairs_of(model), model.arch.n_layers - 1
    at = last_token(model, pairs)
    found = log_prob_increase(model, pairs, "head", [last])[:, 0, 0]
    norm, final = model.ln_final, at.resid[:, -1]
    deviation = torch.sqrt(final.var(-1, unbiased=False, keepdim=True) + norm.eps)

    def log_p(x):
        scaled = (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias
        return model.unembed(scaled).log_softmax(-1).gather(1, at.answers[:, :1])[:, 0]

    write = at.z[:, last, :8] @ weight_of(model, "z", last)[:, :8].T
    want = log_p(at.resid[:, last] + write) - log_p(at.resid[:, last])
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("unit", ["neuron", "head", "attention-neuron"])
def test_log_prob_gain_is_two_softmaxes_under_one_norm_scale(unit: str, dtype):
    hf = tiny_of("granite").to(dtype)  # which scales its logits, and what it adds to the stream
    model, layer, index = interp.load_model(hf, tokenizer=word_tokenizer()), 1, 3
    pairs, a = pairs_of(model), model.arch
    at = last_token(model, pairs)
    found = log_prob_increase(model, pairs, unit, [layer])
    assert found.shape == (3, 1, {"neuron": a.d_mlp, "head": 4, "attention-neuron": 32}[unit])
    norm, unembedding = model.ln_final.weight.double(), model.unembedding.double()
    w_o, w_out = (weight_of(model, site, layer).double() for site in ("z", "mlp_post"))
    own = slice(index * a.d_head, (index + 1) * a.d_head)
    for i, pair in enumerate(pairs):
        z, final = at.z[i, layer].double(), at.resid[i, -1].double()
        scale = torch.rsqrt(final.pow(2).mean() + model.ln_final.variance_epsilon)
        x = at.mid[i, layer] if unit == "neuron" else at.resid[i, layer]
        terms = {  # whose sum over the last axis is what the unit writes
            "neuron": at.neurons[i, layer, index] * w_out[:, index, None],
            "head": w_o[:, own] * z[own],
            "attention-neuron": z[index] * w_o[:, index, None],
        }[unit] * hf.config.residual_multiplier
        both = torch.stack([x.double(), x + terms.sum(-1)]) * scale * norm
        logits = both @ unembedding.T / hf.config.logits_scaling
        log_p = logits.log_softmax(-1)[:, pair.answer]
        size = torch.stack([x.double() ** 2, (terms**2).sum(-1)]) * (scale * norm) ** 2
        size = (size @ (unembedding.T / hf.config.logits_scaling) ** 2).sqrt()
        error = rounding(dtype, size, logits[0].softmax(-1), pair.answer)
        assert float(found[i, 0, index]) == pytest.approx(
            float(log_p[1] - log_p[0]), abs=error, rel=0
        )


def rounding(dtype: torch.dtype, size: torch.Tensor, p: torch.Tensor, answer: int) -> float:
    """How far rounding takes log p(answer | x + v) - log p(answer | x): four standard deviations.

    `size` has, token by token, the root of the sum of squares of what is summed to the logits of x
    and of v. Seven operations in a row round each term (the write, its sum, multiplier, norm scale
    and weight, the unembedding, the logits' divisor), independently and evenly within half a unit
    in the last place. An error of v's logits enters directly and by their mean under p; one of
    x's changes p, with which v's are weighted.
    """
    deviation = (7 / 12) ** 0.5 * torch.finfo(dtype).eps
    of_x, of_v = size
    parts = torch.cat([of_v[answer, None], p * of_v, 2 * p * of_x * of_v])
    # beside the terms' own: one rounding of log p itself, which is computed in fp32
    return float(4 * deviation * parts.norm()) + 8 * torch.finfo(torch.float32).eps


def test_unknown_units_are_refused():
    model = tiny("llama")
    with pytest.raises(PlanError, match="no unit 'cell'"):
        log_prob_increase(model, pairs_of(model), "cell")
    with pytest.raises(PlanError, match="out of range"):
        log_prob_increase(model, pairs_of(model), "head", [7])


def test_answers_of_several_tokens_have_no_one_direction():
    record = {"clean": "w1 w2", "corrupt": "w3 w2", "wrong_answer": "w21", "id": "long"}
    rows = PromptPairs.from_records([record | {"answer": "w20 w22"}])
    model = tiny("llama")
    whole, first = (tokenise(model, rows, mode)[0] for mode in ("whole", "first"))
    for call in (direct_logit_attribution, lambda m, p: log_prob_increase(m, p, "head")):
        with pytest.raises(PlanError, match="reads one token per answer, and an answer here has 2"):
            call(model, whole)
    aliases = PromptPairs.from_records([record | {"answer": ["w20", "w22"]}])
    with pytest.raises(PlanError, match="has 2 accepted texts"):
        direct_logit_attribution(model, tokenise(model, aliases)[0])
    alone = tokenise(model, PromptPairs.from_records([record | {"answer": "w20"}]))[0]
    torch.testing.assert_close(
        direct_logit_attribution(model, first).nodes, direct_logit_attribution(model, alone).nodes
    )
