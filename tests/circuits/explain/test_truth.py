"""Interventions on a graph's nodes, against plain hooks; and what `check` makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import hooks_left, tiny, word_pairs
from explain_examples import linear_run, model_of

from circuits.explain import check, explain
from circuits.explain.assembly import strongest
from circuits.explain.node_runs import NodeRuns, RowEdit
from circuits.explain.truth import activation_gradient, random_like, shown_nodes
from interp.errors import DataError, PlanError
from interp.statistics import spearman


def by_hand(family: str, kept: set, keep: bool) -> float:
    """The logit difference of the plain model with forward pre-hooks, unit by unit."""
    model, pair = tiny(family), word_pairs()[1]
    clean, corrupt = (torch.tensor([model.encode(t)]) for t in (pair.clean, pair.corrupt))
    layers = model.hf.model.layers
    modules = [
        (m, kind, i)
        for i, block in enumerate(layers)
        for m, kind in ((block.self_attn.o_proj, "head"), (block.mlp.down_proj, "neuron"))
    ]
    low, handles = {}, []
    for module, kind, i in modules:
        handles.append(
            module.register_forward_pre_hook(
                lambda _, args, key=(kind, i): low.__setitem__(key, args[0].clone())
            )
        )
    with torch.no_grad():
        model.hf(corrupt)
    for handle in handles:
        handle.remove()

    def put(kind: str, layer: int):
        def hook(_, args):
            x, other = args[0].clone(), low[kind, layer]
            width = 8 if kind == "head" else 1
            for unit in range(x.shape[-1] // width):
                for pos in range(x.shape[1]):
                    if ((kind, layer, unit, pos) in kept) != keep:
                        own = slice(unit * width, (unit + 1) * width)
                        x[0, pos, own] = other[0, pos, own]
            return (x,)

        return hook

    handles = [m.register_forward_pre_hook(put(kind, i)) for m, kind, i in modules]
    with torch.no_grad():
        logits = model.hf(clean).logits[0, -1]
    for handle in handles:
        handle.remove()
    right, wrong = (model.encode(t)[-1] for t in (pair.answer, pair.wrong_answer))
    return float(logits[right] - logits[wrong])


def test_rows_are_plain_runs_with_replaced_nodes():
    run = linear_run("llama", True)
    runs, nodes = NodeRuns.against(run), strongest(run, 15)
    every = strongest(run)
    edits = [
        RowEdit([]),
        RowEdit(nodes, True),
        RowEdit(nodes[:4]),
        RowEdit([], True),
        RowEdit(every, True),
        RowEdit(nodes, factor=1.0),
    ]
    got = runs.values(edits)
    want = [by_hand("llama", set(e.nodes), e.keep) for e in edits[:4]]
    np.testing.assert_allclose(got[:4], want, atol=1e-4)
    np.testing.assert_allclose(got[4:], run.value, atol=1e-4)
    assert hooks_left(run.model) == []


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "gpt2", "qwen3_moe"])
def test_all_nodes_replaced_and_none(family: str):
    run = linear_run(family, True)
    runs = NodeRuns.against(run)
    full, kept, none = runs.values([RowEdit([]), RowEdit(strongest(run), True), RowEdit([], True)])
    assert full == pytest.approx(run.value, abs=1e-4) == pytest.approx(kept, abs=1e-3)
    # tokens' embeddings of the prompt, all else of the corrupt one
    final = run.at.end.final + run.at.clean.kept["resid_pre"][0] - run.at.end.kept["resid_pre"][0]
    want = float(run.prompt.contrast.read(final, torch.zeros(1, dtype=torch.long)))
    assert none == pytest.approx(want, abs=1e-3)


def test_predictions_are_attributions_and_scale():
    run = linear_run("llama", True)
    runs = NodeRuns.against(run)
    for node in strongest(run, 10):
        kind, layer, unit, pos = node
        own = run.heads(layer) if kind == "head" else run.of_neurons(layer)
        assert runs.predicted(node) == pytest.approx(float(own[pos, unit]), rel=1e-5)
        assert runs.predicted(node, 2.0) == pytest.approx(-float(own[pos, unit]), rel=1e-5)


def test_a_prompt_alone_is_compared_with_zero_or_means():
    run = linear_run("llama", False)
    zero = NodeRuns.against(run)
    assert zero.what == "zero" and not any(x.any() for x in zero.reference.values())
    means = NodeRuns.against(run, ["w1 w2 w3", "w4 w5"])
    assert means.what == "mean over prompts"
    model, kept = run.model, []
    module = model.hf.model.layers[1].mlp.down_proj
    handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0][0]))
    with torch.no_grad():
        for text in ("w1 w2 w3", "w4 w5"):
            model.hf(torch.tensor([model.encode(text)]))
    handle.remove()
    want = torch.cat(kept).mean(0)
    torch.testing.assert_close(means.reference["mlp_post", 1][2], want, atol=1e-5, rtol=1e-4)


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
