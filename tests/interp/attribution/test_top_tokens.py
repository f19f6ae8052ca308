"""Top tokens of a neuron: equal to what the logits gain when the neuron alone is written."""

import numpy as np
import pytest
import torch
from conftest import tiny, tiny_hf, word_tokenizer
from test_cli import last_json, refused

import interp
from circuits.cli.app import run
from interp.errors import PlanError


def by_hand(model: interp.Model, layer: int, unit: int) -> torch.Tensor:
    """Logits of the neuron's output row, in plain transformers."""
    block = model.hf.model.layers[layer]
    row = block.mlp.down_proj.weight[:, unit]
    post = getattr(block, "post_feedforward_layernorm", None)
    with torch.no_grad():
        row = row if post is None else post(row)
        return model.hf.lm_head(model.hf.model.norm(row))


@pytest.mark.parametrize(("name", "layer", "unit"), [("smollm", 28, 1), ("gemma", 12, 77)])
def test_tokens_are_those_of_the_output_row(name: str, layer: int, unit: int, request):
    model: interp.Model = request.getfixturevalue(name)
    found = interp.top_tokens(model, "mlp_post", layer, unit, n=5)
    logits = by_hand(model, layer, unit)
    promoted, suppressed = (found[found["effect"] == e] for e in ("promoted", "suppressed"))
    assert list(promoted["token_id"]) == logits.topk(5).indices.tolist()
    assert list(suppressed["token_id"]) == (-logits).topk(5).indices.tolist()
    assert promoted["logit"].iloc[0] == pytest.approx(float(logits.max()), rel=1e-4)
    assert list(promoted["rank"]) == list(range(5))
    assert promoted["token"].iloc[0] == model.token(int(logits.argmax()))


def test_a_bias_of_the_final_norm_is_no_share_of_a_neuron():
    model = interp.load_model(tiny_hf("gpt2"), tokenizer=word_tokenizer())
    norm = model.ln_final
    before = interp.top_tokens(model, "mlp_post", 0, 3, n=4)
    with torch.no_grad():
        norm.bias.add_(torch.randn(norm.bias.shape, generator=torch.Generator().manual_seed(0)))
    after = interp.top_tokens(model, "mlp_post", 0, 3, n=4)
    assert list(before["token_id"]) == list(after["token_id"])
    assert before["logit"].to_numpy() == pytest.approx(after["logit"].to_numpy(), abs=1e-4)


def test_tokens_of_equal_logits_come_by_number():
    model = interp.load_model(tiny_hf("llama"), tokenizer=word_tokenizer())
    with torch.no_grad():
        model.hf.get_output_embeddings().weight.zero_()
    found = interp.top_tokens(model, "mlp_post", 0, 3, n=20)
    assert list(found["token_id"]) == [*range(20), *range(20)]
    read = interp.logit_lens(model, ["w3 w4 w5"], top=20)
    assert (read.top["token_id"].values == np.arange(20)).all()


def test_what_is_not_a_neuron_is_refused():
    model = tiny("llama")
    with pytest.raises(PlanError, match="give 'mlp_post'"):
        interp.top_tokens(model, "z", 0, 0)
    with pytest.raises(PlanError, match="has neurons 0 to"):
        interp.top_tokens(model, "mlp_post", 0, 10**6)
    with pytest.raises(PlanError, match="layer 99 is out of range"):
        interp.top_tokens(model, "mlp_post", 99, 0)


def test_the_command_line_shows_them(smollm, capsys, monkeypatch):
    monkeypatch.setattr(interp, "load_model", lambda name, **options: smollm)
    assert run(["top-tokens", "L28N1", "--model", "smollm2-135m", "--top", "3", "--json"]) == 0
    said = last_json(capsys.readouterr().out)
    assert said["neuron"] == "m28.n1" and len(said["tokens"]) == 6
    assert run(["top-tokens", "m28.n1", "--model", "smollm2-135m", "--top", "3"]) == 0
    assert repr(said["tokens"][0]["token"]) in capsys.readouterr().out
    line = refused(capsys, "top-tokens", "L28H1", "--model", "smollm2-135m")
    assert "is not a neuron; write L12N345" in line
