"""The linear model with some nodes alone: conservation, path sums, and what elimination leaves."""

import pytest
import torch
from explain_examples import CASES, linear_run

from circuits.explanation.assembly import strongest
from circuits.explanation.restricted import carrying, flows, node_masks, through


@pytest.mark.parametrize(("family", "paired"), CASES)
def test_attributions_are_conserved(family: str, paired: bool):
    run, nodes = linear_run(family, paired), strongest(linear_run(family, paired))
    tokens = run.embeddings()
    total = float(tokens.sum())
    if paired:
        assert total == pytest.approx(run.total, rel=1e-4)
    scale = float(tokens.abs().sum())
    assert torch.allclose(through(run, nodes), tokens, rtol=1e-4, atol=1e-5 * scale)
    # nothing but the direct paths from the tokens
    direct = float((run.change("resid_pre", 0) * run.final[0]).sum())
    assert float(through(run, []).sum()) == pytest.approx(direct, rel=1e-4, abs=1e-5 * scale)
    found = flows(run, node_masks(run, nodes))
    # where all nodes pass on, what passes over each is its attribution, less what biases give it
    if paired:
        for layer in range(run.model.arch.n_layers):
            torch.testing.assert_close(
                found["head", layer], run.heads(layer), rtol=1e-3, atol=1e-5 * scale
            )


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "qwen3_moe"])
def test_what_a_node_carries_is_what_is_lost_without_it(family: str):
    run = linear_run(family, True)
    some = strongest(run, 25)
    found, whole = flows(run, node_masks(run, some)), float(through(run, some).sum())
    for node in some[::5]:
        without = [one for one in some if one != node]
        lost = whole - float(through(run, without).sum())
        own = float(found[node[0], node[1]][node[3], max(node[2], 0)])
        assert own == pytest.approx(lost, rel=1e-3, abs=1e-5 * abs(run.total))
    outside = node_masks(run, some)
    for key, score in found.items():
        assert not (score * (1 - outside[key])).any()


def test_one_path_over_one_head_by_hand():
    """The tokens read by a head of the last layer, and what the logits read of it."""
    run = linear_run("llama", True)
    node = ("head", 2, 1, 3)
    every = [node, *(("neuron", 2, unit, 3) for unit in range(56))]
    ((_, reads),) = run.head_reads(2, [(1, 3)])
    over = float((run.change("resid_pre", 0) * reads[0].sum(0)).sum())
    found = float(through(run, every).sum() - through(run, every[1:]).sum())
    assert found == pytest.approx(over, rel=1e-3)


def test_elimination_explains_more_than_the_largest_attributions():
    run = linear_run("llama", True)
    kept = carrying(run, 30)
    assert len(set(kept)) == 30

    def left_out(nodes: list) -> float:
        return abs(1 - float(through(run, nodes).sum()) / run.total)

    assert left_out(kept) < left_out(strongest(run, 30))
    fewer = carrying(run, 10, kept)
    assert set(fewer) < set(kept) and carrying(run, 30, kept) == kept
