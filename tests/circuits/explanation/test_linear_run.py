"""Multipliers of readers and writes of nodes, against plain autograd and the summed edges."""

import contextlib

import pytest
import torch
from explain_examples import CASES, FAMILIES, close, linear_run, model_of

from circuits.explanation.assembly import Sources, readers, strongest
from circuits.explanation.attribution import LinearRun
from interp.attribution.attribute import edges_by
from interp.forward.blocks import norm
from interp.forward.hooks import hooked
from interp.model.graph import Graph
from interp.model.sites import SITES


def block_alone(run: LinearRun, layer: int, site: str, to: torch.Tensor) -> torch.Tensor:
    """Multipliers at a layer's input from those at a site, by autograd through the block alone."""
    contrast, rule = run.prompt.contrast, type(run.at.rule)()
    block, kept = run.model.blocks[layer], []
    x = run.at.clean.kept["resid_pre"][layer].clone().requires_grad_(True)
    kept_by = hooked(run.model, [(SITES[site], layer, kept.append)])
    with torch.enable_grad(), rule.clean(run.model), kept_by:
        block(x, **contrast.calls.of_rows(layer, contrast.clean))
    with torch.no_grad(), rule.corrupt(run.model):
        low = run.at.end.kept["resid_pre"][layer]
        block(low, **contrast.calls.of_rows(layer, contrast.corrupt))
    return torch.autograd.grad(kept[0], x, to[None].to(x))[0][0]


@pytest.mark.parametrize(("family", "paired"), CASES)
def test_heads_read_what_autograd_through_their_block_says(family: str, paired: bool):
    run = linear_run(family, paired)
    layer, n_heads = 1, run.model.arch.n_heads
    chosen = [(head, pos) for head in (0, n_heads - 1) for pos in (2, 3)]
    found = dict[int, torch.Tensor]()
    for numbers, reads in run.head_reads(layer, chosen):
        found |= dict(zip(numbers, reads, strict=True))
    for i, (head, pos) in enumerate(chosen):
        to = torch.zeros_like(run.multipliers["z"][layer]).unflatten(-1, (n_heads, -1))
        to[pos, head] = run.multipliers["z"][layer].unflatten(-1, (n_heads, -1))[pos, head]
        want = block_alone(run, layer, "z", to.flatten(-2))
        close(found[i].sum(0), want, float(want.abs().max()))
        assert not found[i][0, [p for p in range(run.n_pos) if p != pos]].any()
        if not paired:
            assert not found[i][:2].any()  # RelP: patterns are constant


@pytest.mark.parametrize(("family", "paired"), [c for c in CASES if c[0] != "qwen3_moe"])
def test_neurons_read_what_autograd_through_their_mlp_says(family: str, paired: bool):
    run, layer = linear_run(family, paired), 1
    parts, chosen = run.model.parts(layer), [(5, 3), (7, 3), (5, 2)]
    site = "resid_pre" if parts.parallel else "resid_mid"
    got = run.neuron_reads(layer, chosen)
    mlp = run.model.blocks[layer].get_submodule(parts.mlp)
    for (unit, pos), read in zip(chosen, got, strict=True):
        rule, kept = type(run.at.rule)(), list[torch.Tensor]()
        x, low = (v.kept[site][layer] for v in (run.at.clean, run.at.end))
        x = x.clone().requires_grad_(True)
        hook = next(
            run.model.point(SITES["mlp_post"], layer)[0].register_forward_pre_hook(f)
            for f in [lambda _, args, kept=kept: kept.append(args[0])]
        )
        with contextlib.ExitStack() as stack:
            stack.callback(hook.remove)
            with torch.enable_grad(), rule.clean(run.model):
                mlp(norm(run.model, layer, parts.ln2)(x))
            with torch.no_grad(), rule.corrupt(run.model):
                mlp(norm(run.model, layer, parts.ln2)(low))
        slope = run.multipliers["mlp_post"][layer][pos, unit]
        (want,) = torch.autograd.grad(kept[0][0, pos, unit] * slope.to(x), x)
        close(read, want[0, pos], float(want.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_edges_add_up_to_those_over_all_positions(family: str):
    model, run = model_of(family), linear_run(family, True)
    graph = Graph.of(model.arch)
    (want,), _ = edges_by(model, run.prompt.contrast, "eap-dg")
    chosen = strongest(run)
    sources = Sources.of(run, chosen)
    owner = [
        {
            "embedding": 0,
            "rest": graph.n_sources,
            "neuron": graph.mlp(layer),
            "mlp": graph.mlp(layer),
        }[kind]
        if kind != "head"
        else graph.heads(layer).start + unit
        for kind, layer, unit, _ in sources.nodes
    ]
    into = torch.zeros(graph.n_sources + 1, want.shape[1], dtype=torch.float64)
    for stack in readers(run, chosen):
        edges, _ = sources.into(stack[0][2], torch.stack([r for *_, r in stack]))
        for ((kind, layer, unit, _), *_), flow in zip(stack, edges, strict=True):
            for branch, row in enumerate(torch.from_numpy(flow)):
                place = graph.mlp_in(layer)
                if kind == "head":
                    place = graph.qkv(layer).start + branch * graph.n_heads + unit
                into[:, place].index_add_(0, torch.tensor(owner), row)
    logits, _ = sources.into(2 * graph.n_layers, run.final[0][None, None])
    into[:, graph.logits].index_add_(0, torch.tensor(owner), torch.from_numpy(logits[0, 0]))
    # the last one is of rests, which are nothing where every node is shown
    close(into[-1], torch.zeros(want.shape[1]), float(want.abs().max()))
    close(into[:-1], want, float(want.abs().max()))
