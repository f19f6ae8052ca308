"""Rows with replaced nodes, against plain hooks unit by unit."""

import numpy as np
import pytest
import torch
from conftest import hooks_left
from explain_examples import by_hand, linear_run

from circuits.explanation.assembly import strongest
from circuits.explanation.node_runs import NodeRuns, RowEdit


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
