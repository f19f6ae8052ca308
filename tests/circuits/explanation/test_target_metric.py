"""What targets of every kind are read from a prompt, against plain logits."""

import numpy as np
import pytest
import torch
from conftest import tiny, tiny_hf, word_pairs, word_tokenizer
from explain_examples import conserved

import interp
from circuits.explanation.attribution import LinearRun
from circuits.explanation.explain import explain
from circuits.explanation.target_metric import explained_prompt


def test_targets():
    model, pair = tiny("llama"), word_pairs()[1]
    ids = torch.tensor([model.encode(pair.clean)])
    with torch.no_grad():
        logits = model.hf(ids).logits[0, -1].double()
    mean, w = logits.mean(), {n: model.encode(f"w{n}")[-1] for n in (30, 31, 5)}
    one = explain(model, pair.clean, "w30", nodes=5)
    assert one.value == pytest.approx(float(logits[w[30]] - mean), abs=1e-4)
    assert (one.metric, one.unit) == ("logit", "logits")
    two = explain(model, pair.clean, ("w30", "w31"), nodes=5)
    assert two.value == pytest.approx(float(logits[w[30]] - logits[w[31]]), abs=1e-4)
    likeliest = explain(model, pair.clean, nodes=5)
    assert likeliest.value == pytest.approx(float(logits.max() - mean), abs=1e-4)
    top = explain(model, pair.clean, 3, nodes=5, edges=1.0)
    best = logits.softmax(-1).topk(3)
    weights = best.values / best.values.sum()
    parts = weights * (logits[best.indices] - mean)
    own = top.nodes[top.nodes["kind"] == "logits"]
    np.testing.assert_allclose(own["attribution"], parts.numpy(), atol=1e-4)
    assert own["id"].tolist() == ["logits.0", "logits.1", "logits.2"]
    assert own["label"].tolist() == [repr(model.token(i)) for i in best.indices.tolist()]
    assert top.value == pytest.approx(float(parts.sum()), abs=1e-4)
    conserved(top, everything=False)


def test_logits_of_16_bit_models_are_not_rounded():
    model = interp.load_model(tiny_hf("gemma3"), tokenizer=word_tokenizer(), dtype="bfloat16")
    text, wanted = "w7 w8 w10", ("w30", "w31 w5")
    given = explained_prompt(model, text, wanted)
    run = LinearRun.of(model, given)
    final = run.at.clean.final
    stream = model.ln_final(final[0]).double() @ model.unembedding.double().T
    logits = model.arch.logits_transform(stream)
    centred = logits - logits.mean(-1, keepdim=True)
    one, two, three = (model.encode(w)[-1] for w in ("w30", "w31", "w5"))
    last = given.n_prompt - 1
    want = centred[last, one] - centred[last, two] - centred[last + 1, three]
    size = float(logits.abs().max())
    assert run.value == pytest.approx(float(want), abs=2e-4 * size)


def test_a_span_is_read_where_its_tokens_are_predicted():
    model, pair = tiny("llama"), word_pairs()[1]
    span = explain(model, pair.clean, "w30 w5", nodes=30)
    ids = torch.tensor([model.encode(f"{pair.clean} w30 w5")])
    with torch.no_grad():
        logits = model.hf(ids).logits[0].double()
    centred = logits - logits.mean(-1, keepdim=True)
    want = centred[-3, ids[0, -2]] + centred[-2, ids[0, -1]]
    assert span.value == pytest.approx(float(want), abs=1e-4)
    assert (span.n_prompt, len(span.tokens)) == (len(ids[0]) - 2, len(ids[0]) - 1)
    assert span.node("logits")["pos"] == span.n_prompt - 1
    conserved(span, everything=False)
    against = explain(model, pair.clean, ("w30 w5", "w31"), pair.corrupt, nodes=30)
    assert against.scores["conservation error"] < 1e-4
    assert against.total == pytest.approx(against.value - against.corrupt_value)


def test_prompts_of_unequal_length_and_other_metrics():
    model = tiny("llama")
    longer = explain(model, "w7 w8 w10 w11 w5", ("w30", "w31"), "w7 w12 w11 w5", nodes=30)
    assert longer.corrupt_tokens.count("") == 1
    assert longer.scores["conservation error"] < 1e-4
    run = LinearRun.of(
        model, explained_prompt(model, "w7 w8 w10 w11 w5", ("w30", "w31"), "w7 w12 w11 w5")
    )
    assert float(run.embeddings().sum()) == pytest.approx(run.total, rel=1e-4)
    pair = word_pairs()[1]
    logprob = explain(model, pair, metric="logprob", nodes=30)
    assert logprob.unit == "nats" and logprob.scores["conservation error"] < 1e-4
    chat = explain(tiny("llama"), interp.prompt(model, "w1 w2 w3"), "w4", nodes=3)
    assert chat.n_nodes == 3
