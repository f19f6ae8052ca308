"""What `check` makes of interventions on a graph's nodes and edges; its controls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny, word_pairs
from explain_examples import by_hand, linear_run, model_of

from circuits.explanation import check, explain
from circuits.explanation.assembly import strongest
from circuits.explanation.truth import activation_gradient, random_like, shown_nodes
from interp.errors import DataError, PlanError
from interp.statistics import spearman


def test_controls():
    run, rng = linear_run("llama", True), np.random.default_rng(0)
    nodes = strongest(run, 40)
    other = random_like(run, nodes, rng)
    cells = [sorted((k, at, p) for k, at, _, p in chosen) for chosen in (nodes, other)]
    assert cells[0] == cells[1] and len(set(other)) == 40 and set(other) != set(nodes)
    found = activation_gradient(run, 3)
    pair, model = word_pairs()[1], run.model
    ids, kept = torch.tensor([model.encode(pair.clean)]), []
    module = model.hf.model.layers[1].mlp.down_proj
    handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    logits = model.hf(inputs_embeds=model.hf.get_input_embeddings()(ids).requires_grad_()).logits
    handle.remove()
    right, wrong = (model.encode(t)[-1] for t in (pair.answer, pair.wrong_answer))
    (grad,) = torch.autograd.grad(logits[0, -1, right] - logits[0, -1, wrong], kept[0])
    score = (grad * kept[0]).abs()[0]
    own = [node for node in activation_gradient(run, 10**6) if node[:2] == ("neuron", 1)]
    assert own[0][2:] == divmod(int(score.T.argmax()), score.shape[0])
    assert len(found) == 3


def test_check():
    model, pair = tiny("llama"), word_pairs()[1]
    graph = check(model, explain(model, pair, nodes=30), sizes=(10, 20, 99), n_random=2)
    table = graph.checks
    f = table[table["check"] == "faithfulness"]
    assert sorted(set(f["n"])) == [10, 20, 30]
    assert f["what"].value_counts().to_dict() == {"graph": 3, "gradient": 3, "random": 6}
    nodes = shown_nodes(graph)
    assert [n[0] in ("head", "neuron") for n in nodes] == [True] * 30
    single = table[table["check"] == "ablation"]
    assert len(single) == 30
    wanted = graph.nodes.set_index("id")["attribution"].reindex(single["what"])
    np.testing.assert_allclose(single["predicted"], wanted, rtol=1e-4, atol=1e-6)
    kept = {nodes[0]}
    actual = graph.value - by_hand("llama", kept, False)
    assert single["actual"].iloc[0] == pytest.approx(actual, abs=1e-4)
    x, y = single["predicted"].to_numpy(), single["actual"].to_numpy()
    assert graph.scores["rank correlation"] == pytest.approx(spearman(x, y).value)
    assert graph.scores["slope"] == pytest.approx((x * y).sum() / (x * x).sum())
    back = table[table["check"] == "denoising"]
    assert back["what"].tolist() == single["what"].tolist()
    gained = by_hand("llama", kept, False, True) - by_hand("llama", set(), False, True)
    assert back["actual"].iloc[0] == pytest.approx(gained, abs=1e-4)
    both = (y + back["actual"].to_numpy()) / 2
    assert graph.scores["two-sided rank correlation"] == pytest.approx(spearman(x, both).value)
    edges = table[table["check"] == "edge"]
    assert len(edges) == 20 and {"a", "m", "e"} >= {what[0] for what in edges["what"]}
    scaling = table[table["check"] == "scaling"]
    assert len(scaling) == 3 * len({n[1] for n in nodes})
    assert graph.settings["reference"] == "corrupt prompt"
    moe = check(model_of("qwen3_moe"), explain(model_of("qwen3_moe"), pair, nodes=5), n_random=1)
    assert len(moe.checks) > 0


def test_refused_by_name():
    model, pair = tiny("llama"), word_pairs()[1]
    graph = explain(model, pair, nodes=5)
    with pytest.raises(PlanError, match="other weights"):
        check(tiny("qwen2"), graph)
    with pytest.raises(PlanError, match="means_over"):
        check(model, graph, means_over=["w1 w2"])
    with pytest.raises(DataError, match="prompt's tokens"):
        check(model, replace(graph, settings={}))
