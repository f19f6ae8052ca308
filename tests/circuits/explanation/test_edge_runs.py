"""Cut edges, against the exact edge patching of whole graphs, position by position."""

import pytest
import torch
from explain_examples import linear_run, model_of

from circuits.explanation.edge_runs import edge_effects
from circuits.explanation.node_runs import NodeRuns
from interp.attribution.exact import Effects
from interp.model.graph import Graph

CUTS = [
    (("embedding", -1, -1, 2), ("head", 1, 1, 3), "v"),
    (("embedding", -1, -1, 2), ("head", 1, 1, 3), "k"),
    (("head", 0, 2, 3), ("head", 2, 0, 3), "q"),
    (("head", 0, 2, 3), ("logits", -1, -1, 3), ""),
    (("head", 0, 1, 3), ("head", 2, 3, 3), "v"),
]


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "qwen3_moe"])
def test_cut_edges_are_those_of_exact_patching(family: str):
    """At the last position, where a head's only destination that the metric needs is its own."""
    run, model = linear_run(family, True), model_of(family)
    work, graph = Effects(model, run.prompt.contrast), Graph.of(model.arch)
    runs = NodeRuns.against(run)
    full = float(work.full[0])
    got = edge_effects(runs, CUTS, full)
    for (source, reader, branch), found in zip(CUTS, got, strict=True):
        name = "input" if source[0] == "embedding" else f"a{source[1]}.h{source[2]}"
        end = "logits" if reader[0] == "logits" else f"a{reader[1]}.h{reader[2]}<{branch}>"
        u, v = graph.edge(f"{name}->{end}")
        change = torch.zeros_like(work.change(u))
        change[:, source[3]] = work.change(u)[:, source[3]]
        want = float(work.full[0] - work.with_change(v, change)[0])
        if reader[1] == graph.n_layers - 1 or reader[0] == "logits" or branch == "q":
            assert found == pytest.approx(want, abs=1e-4)  # read at the last position alone


def test_a_neuron_that_reads_one_write_less():
    run = linear_run("llama", True)
    runs, layer, unit, pos = NodeRuns.against(run), 2, 5, 3
    (found,) = edge_effects(
        runs, [(("head", 2, 1, pos), ("neuron", layer, unit, pos), "")], run.value
    )
    block, kept = run.model.blocks[layer], []
    x = run.at.clean.kept["resid_mid"][layer].clone()
    x[0, pos] -= run.head_writes(layer)[1, pos]
    handle = block.mlp.down_proj.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        block.mlp(block.post_attention_layernorm(x))
    handle.remove()
    moved = run.at.clean.kept["mlp_post"][layer][0, pos, unit] - kept[0][0, pos, unit]
    final = run.at.clean.final.clone()
    final[0, pos] -= moved * block.mlp.down_proj.weight[:, unit]
    with torch.no_grad():
        want = run.value - float(run.prompt.contrast.read(final, torch.zeros(1, dtype=torch.long)))
    assert found == pytest.approx(want, abs=1e-4)
