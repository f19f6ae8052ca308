"""Query-key attributions, against the attention weights of plain runs."""

import pytest
import torch
from conftest import word_pairs
from explain_examples import model_of

from circuits.explanation import explain
from circuits.explanation.query_key import query_key_edges
from interp.errors import PlanError
from interp.forward.hooks import attention_weights


def weight_of(model, text: str, layer: int, head: int, pos: int, source: int) -> float:
    found: dict[int, torch.Tensor] = {}
    with torch.no_grad(), attention_weights(model, [layer], found):
        model.hf(torch.tensor([model.encode(text)]), use_cache=False)
    return float(found[layer][0, head, pos, source])


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_neox", "qwen3_moe"])
def test_rows_add_up_to_the_difference_of_the_weight(family: str):
    model, pair = model_of(family), word_pairs()[1]
    graph = explain(model, pair, nodes=40)
    heads = graph.nodes[(graph.nodes["kind"] == "head") & (graph.nodes["pos"] == 3)]
    for name, layer, unit in heads[["id", "layer", "unit"]][-3:].itertuples(index=False):
        found = query_key_edges(model, graph, name, 2)
        both = [
            weight_of(model, text, int(layer), int(unit), 3, 2)
            for text in (pair.clean, pair.corrupt)
        ]
        assert found["weight"].sum() == pytest.approx(both[0] - both[1], abs=1e-5)
        assert set(found["branch"]) <= {"q", "k"}
        assert found["weight"].abs().is_monotonic_decreasing
        keys = found[found["branch"] == "q"]["source"]
        assert all(source.endswith("@3") for source in keys)


def test_of_a_prompt_alone_it_is_the_derivative():
    model, pair = model_of("llama"), word_pairs()[1]
    graph = explain(model, pair.clean, "w30", nodes=40)
    heads = graph.nodes[(graph.nodes["kind"] == "head") & (graph.nodes["layer"] == 0)]
    name, unit, pos = heads[["id", "unit", "pos"]].iloc[0]
    source = 0
    found = query_key_edges(model, graph, name, source).set_index(["source", "branch"])["weight"]
    block = model.hf.model.layers[0]
    embedded = model.hf.get_input_embeddings()(torch.tensor([model.encode(pair.clean)]))
    at = torch.full((), 1.0, requires_grad=True)
    scale = embedded.pow(2).mean(-1, keepdim=True).add(block.input_layernorm.variance_epsilon)
    normed = embedded * scale.rsqrt() * block.input_layernorm.weight
    moved = normed.clone()
    moved[0, source] = normed[0, source] * at  # its key alone
    cos, sin = model.hf.model.rotary_emb(embedded, torch.arange(4)[None])
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q = block.self_attn.q_proj(normed).view(1, 4, 4, 8).transpose(1, 2)
    k = block.self_attn.k_proj(moved).view(1, 4, 2, 8).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q, k, cos, sin)
    scores = (q @ k.repeat_interleave(2, 1).mT / 8**0.5)[0, int(unit), int(pos), : int(pos) + 1]
    (slope,) = torch.autograd.grad(scores.softmax(-1)[source], at)
    assert found["embedding@0", "k"] == pytest.approx(float(slope), rel=1e-3, abs=1e-6)


def test_refused_by_name():
    model, pair = model_of("llama"), word_pairs()[1]
    graph = explain(model, pair, nodes=40)
    with pytest.raises(PlanError, match="not a head"):
        query_key_edges(model, graph, "logits", 0)
    head = graph.nodes[graph.nodes["kind"] == "head"]["id"].iloc[0]
    with pytest.raises(PlanError, match="position 9"):
        query_key_edges(model, graph, head, 9)
