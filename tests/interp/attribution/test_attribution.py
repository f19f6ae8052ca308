"""Attribution: identities that hold exactly, on every family; the mask gradient as EAP's oracle."""

import functools

import numpy as np
import pytest
import torch
from conftest import tiny, tiny_hf, word_pairs, word_tokenizer

import interp
from circuits.discovery.evaluator import prepared
from interp.attribution.attribute import attribute, attribute_edges, attribute_nodes, edges_by
from interp.attribution.backward_rules import log_mean
from interp.attribution.contrast import Contrast, contrasts
from interp.attribution.edges import ig_activation_scores
from interp.attribution.estimators import ESTIMATORS, estimator_named, linearise
from interp.attribution.exact import exact_edges, exact_nodes
from interp.attribution.nodes import (
    NODE_SITES,
    grad_drop_scores,
    node_scores,
    qk_edge_scores,
    qk_node_scores,
)
from interp.data.pairs import tokenise
from interp.errors import PlanError
from interp.forward.blocks import attend
from interp.forward.masked import Writes, run_masked
from interp.model.graph import Graph, edges_of_nodes
from interp.model.model import Model
from interp.model.sites import SITES

LLAMAS = ["llama", "gemma3", "gpt_neox"]


def contrast_of(model: Model) -> Contrast:
    kept, _ = tokenise(model, word_pairs())
    return next(contrasts(model, kept))


def swapped(contrast: Contrast) -> Contrast:
    """Clean and corrupt prompts exchanged."""
    order = torch.stack([contrast.corrupt, contrast.clean], 1).flatten()
    return Contrast(contrast.calls.only(order), contrast.mask, contrast.read)


def all_edges(model: Model, contrast: Contrast, method: str, steps: int | None = None):
    return torch.stack(list(edges_by(model, contrast, method, steps)[0]))


def gap_of(model: Model, contrast: Contrast) -> torch.Tensor:
    high, low = linearise(model, contrast, ESTIMATORS["eap"], ["z"]).metric
    return (high - low).double()


def resampled(model: Model, contrast: Contrast) -> Writes:
    return prepared(model, [contrast], "resample")[0][0][1]


def metric_with(model: Model, contrast: Contrast, mask, ablated: Writes) -> torch.Tensor:
    rows = torch.arange(len(contrast))
    resid = run_masked(model, contrast.calls, contrast.clean, mask, ablated)
    return contrast.read(resid, rows).double()


# --- the masked run: what an edge is -------------------------------------------------------------


def test_all_edges_are_the_model_and_none_the_corrupt_run(tiny_model: Model):
    contrast = contrast_of(tiny_model)
    graph, ablated = Graph.of(tiny_model.arch), resampled(tiny_model, contrast)
    at = linearise(tiny_model, contrast, ESTIMATORS["eap"], ["z"])
    with torch.no_grad():
        whole = metric_with(tiny_model, contrast, graph.exists.float(), ablated)
        none = metric_with(tiny_model, contrast, torch.zeros(graph.exists.shape), ablated)
    torch.testing.assert_close(whole, at.metric[0].double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(none, at.metric[1].double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("site", ["q", "k", "v", "z", "mlp_out"])
def test_cutting_all_edges_of_a_place_is_patching_it(tiny_model: Model, site: str):
    """Edges into a head's queries, or out of a node, against `interp.patch`: another engine."""
    if tiny_model.arch.adapter == "Olmo2ArchitectureAdapter" and site in ("k", "q"):
        pytest.skip("OLMo-2 norms keys of all heads together, so heads are not separate")
    contrast, layer = contrast_of(tiny_model), 1
    graph, ablated = Graph.of(tiny_model.arch), resampled(tiny_model, contrast)
    over = "layer" if site == "mlp_out" else "layer,head"
    patched = interp.patch(tiny_model, word_pairs(), site, over, direction="noise", layers=[layer])
    for unit in range(tiny_model.n_units(SITES[site])):
        mask = graph.exists.float()
        if site == "mlp_out":
            mask[graph.mlp(layer)] = 0
        elif site == "z":
            mask[graph.heads(layer).start + unit] = 0
        else:
            group = graph.n_heads // tiny_model.n_units(SITES[site])
            first = graph.qkv(layer).start + "qkv".index(site) * graph.n_heads + unit * group
            mask[:, first : first + group] = 0
        with torch.no_grad():
            got = metric_with(tiny_model, contrast, mask, ablated)
        want = patched.values.values[:, 0] if over == "layer" else patched.values.values[:, 0, unit]
        np.testing.assert_allclose(got.numpy(), want, atol=2e-5)


def test_the_walk_patches_edges_as_the_masked_run_does(tiny_model: Model):
    contrast = contrast_of(tiny_model)
    graph, ablated = Graph.of(tiny_model.arch), resampled(tiny_model, contrast)
    generator = torch.Generator().manual_seed(0)
    every = graph.exists.nonzero()
    chosen = every[torch.randperm(len(every), generator=generator)[:30]].tolist()
    chosen += [[0, graph.logits], [graph.n_sources - 1, graph.logits]]
    effects = exact_edges(tiny_model, contrast, [(s, d) for s, d in chosen])
    with torch.no_grad():
        full = metric_with(tiny_model, contrast, graph.exists.float(), ablated)
        for i, (source, destination) in enumerate(chosen):
            mask = graph.exists.float()
            mask[source, destination] = 0
            want = full - metric_with(tiny_model, contrast, mask, ablated)
            torch.testing.assert_close(effects[:, i], want, atol=1e-5, rtol=0)


def test_exact_nodes_cut_all_edges_of_a_node(tiny_model: Model):
    contrast = contrast_of(tiny_model)
    graph, ablated = Graph.of(tiny_model.arch), resampled(tiny_model, contrast)
    effects = exact_nodes(tiny_model, contrast, range(graph.n_sources))
    with torch.no_grad():
        full = metric_with(tiny_model, contrast, graph.exists.float(), ablated)
        for node in range(1, graph.n_sources):
            mask = (graph.exists & ~edges_of_nodes(graph, [node])).float()
            want = full - metric_with(tiny_model, contrast, mask, ablated)
            torch.testing.assert_close(effects[:, node], want, atol=1e-5, rtol=0)
    torch.testing.assert_close(effects[:, 0], gap_of(tiny_model, contrast), atol=1e-5, rtol=0)


# --- first-order scores --------------------------------------------------------------------------


def test_eap_is_the_gradient_of_the_metric_in_the_mask(tiny_model: Model):
    """d m / d mask = (a clean - a corrupt) . dm/d in: autograd through a wholly other forward."""
    contrast = contrast_of(tiny_model)
    graph, ablated = Graph.of(tiny_model.arch), resampled(tiny_model, contrast)
    mask = graph.exists.float().requires_grad_(True)
    metric_with(tiny_model, contrast, mask, ablated).sum().backward()
    want = torch.where(graph.exists, mask.grad, 0).double()
    got = all_edges(tiny_model, contrast, "eap").sum(0)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def test_edges_out_of_a_node_sum_to_its_node_score(tiny_model: Model):
    contrast = contrast_of(tiny_model)
    for method in ("eap", "eap-dg", "relp"):
        edges = all_edges(tiny_model, contrast, method).sum(2)
        at = linearise(tiny_model, contrast, ESTIMATORS[method], NODE_SITES)
        nodes = node_scores(tiny_model, contrast, at).double()
        torch.testing.assert_close(edges, nodes, atol=2e-5, rtol=1e-4)


def test_discrete_gradient_conserves_the_gap(tiny_model: Model):
    """What enters a node leaves it, and what reaches the logits is the gap: no step lost."""
    contrast = contrast_of(tiny_model)
    graph, gap = Graph.of(tiny_model.arch), gap_of(tiny_model, contrast)
    scores = all_edges(tiny_model, contrast, "eap-dg")
    torch.testing.assert_close(scores[:, :, graph.logits].sum(1), gap, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores[:, 0].sum(1), gap, atol=1e-5, rtol=0)
    into = torch.zeros(len(gap), graph.n_sources + 1, dtype=torch.float64)
    into.index_add_(1, graph.owner, scores.sum(1))
    out = scores.sum(2)
    layers = torch.arange(1, graph.n_sources) - 1
    if tiny_model.arch.adapter == "Olmo2ArchitectureAdapter":
        # One norm over all heads' queries mixes heads: conserved by layer, not by head.
        by_layer = layers // (graph.n_heads + 1)
        into, out = (
            torch.zeros(len(gap), graph.n_layers, dtype=torch.float64).index_add_(1, by_layer, x)
            for x in (into[:, 1:-1], out[:, 1:])
        )
        torch.testing.assert_close(into, out, atol=1e-5, rtol=0)
    else:
        torch.testing.assert_close(into[:, 1:-1], out[:, 1:], atol=1e-5, rtol=0)


def test_one_step_of_ig_is_eap(tiny_model: Model):
    """At nodes the clean gradient; at edges, whose code starts at t = 0, the corrupt one."""
    contrast = contrast_of(tiny_model)
    one, plain = (
        node_scores(tiny_model, contrast, linearise(tiny_model, contrast, e, NODE_SITES))
        for e in (estimator_named("eap-ig", 1, of_nodes=True), ESTIMATORS["eap"])
    )
    torch.testing.assert_close(one, plain, atol=1e-6, rtol=1e-5)
    if tiny_model.parts(0).ln1_post is None:
        edges = all_edges(tiny_model, contrast, "eap-ig", 1)
        other_way = -all_edges(tiny_model, swapped(contrast), "eap")
        torch.testing.assert_close(edges, other_way, atol=1e-6, rtol=1e-5)


def test_clean_corrupted_is_the_mean_of_both_ends():
    model = tiny("llama")
    contrast = contrast_of(model)
    both = (all_edges(model, contrast, "eap") - all_edges(model, swapped(contrast), "eap")) / 2
    found = all_edges(model, contrast, "clean-corrupted")
    torch.testing.assert_close(found, both, atol=1e-6, rtol=1e-5)


def test_exchanging_the_prompts_turns_the_discrete_gradient_around(tiny_model: Model):
    contrast = contrast_of(tiny_model)
    there = all_edges(tiny_model, contrast, "eap-dg")
    back = all_edges(tiny_model, swapped(contrast), "eap-dg")
    torch.testing.assert_close(there, -back, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["eap", "eap-ig", "relp", "eap-dg"])
def test_micro_batches_change_nothing(method: str):
    model = tiny("gemma3")
    one, three = (
        attribute_edges(model, word_pairs(), method, at_once=n).values.values for n in (1, 3)
    )
    np.testing.assert_allclose(one, three, atol=1e-5)


def relp_logits(hf, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A llama's last logits by hand, with RelP's constants held constant."""
    patterns = hf(input_ids=ids, output_attentions=True).attentions

    def norm(module, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
        return module.weight * x * scale.detach()

    for layer, pattern in zip(hf.model.layers, patterns, strict=True):
        attn, mlp = layer.self_attn, layer.mlp
        v = attn.v_proj(norm(layer.input_layernorm, x)).unflatten(-1, (2, 8)).transpose(1, 2)
        z = pattern.detach() @ v.repeat_interleave(2, 1)
        x = x + attn.o_proj(z.transpose(1, 2).flatten(2))
        h = norm(layer.post_attention_layernorm, x)
        gate = mlp.gate_proj(h)
        gate = gate * (torch.nn.functional.silu(gate) / gate).detach()
        product = gate * mlp.up_proj(h)
        x = x + mlp.down_proj(0.5 * (product + product.detach()))
    return hf.lm_head(norm(hf.model.norm, x))[0, -1]


def test_relp_is_the_gradient_with_its_constants_held():
    hf = tiny_hf("llama")
    hf.config._attn_implementation = "eager"
    model = interp.load_model(hf, tokenizer=word_tokenizer())
    found = attribute_nodes(model, word_pairs(), "relp").values.sel(node="input").values
    for i, pair in enumerate(tokenise(model, word_pairs())[0]):
        clean, corrupt = (torch.tensor([t]) for t in (pair.clean, pair.corrupt))
        embed = hf.model.embed_tokens(clean).detach().requires_grad_(True)
        logits = relp_logits(hf, clean, embed)
        (grad,) = torch.autograd.grad(logits[pair.answer] - logits[pair.wrong_answer], embed)
        change = embed.detach() - hf.model.embed_tokens(corrupt)
        assert found[i] == pytest.approx(float((change * grad).sum()), abs=1e-5)


def test_relp_of_a_probability_has_the_sign_of_its_logarithm():
    prob, log = (
        attribute_nodes(tiny("llama"), word_pairs(), "relp", metric=m) for m in ("prob", "logprob")
    )
    factor = np.exp(log.clean.values)[:, None]
    np.testing.assert_allclose(prob.values.values, log.values.values * factor, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_bf16_runs_and_agrees_with_fp32(family: str):
    wide = tiny(family)
    narrow = interp.load_model(tiny_hf(family), tokenizer=word_tokenizer(), dtype="bfloat16")
    for method in ("eap", "eap-ig", "relp", "eap-dg", "eap-qk", "eap-ig-activations"):
        one, other = (
            attribute_edges(m, word_pairs(), method).mean().values for m in (wide, narrow)
        )
        assert other.dtype == np.float32
        assert np.corrcoef(one, other)[0, 1] > 0.95, method


def test_convergence_is_the_part_of_the_gap_that_is_accounted_for():
    model = tiny("qwen2")
    assert attribute_edges(model, word_pairs(), "eap-dg").convergence == pytest.approx(1, abs=1e-4)
    few, many = (
        attribute_nodes(model, word_pairs(), "eap-gl", steps=n).convergence for n in (1, 64)
    )
    assert many == pytest.approx(1, abs=0.01)
    assert abs(many - 1) < abs(few - 1)
    assert attribute(model, word_pairs(), "z", "layer,head").convergence is None


def test_a_forward_that_a_wrapper_put_there_stays():
    hf = tiny_hf("llama")
    model = interp.load_model(hf, tokenizer=word_tokenizer())
    layer = hf.model.layers[0]
    modules = [layer.self_attn.q_proj, layer.mlp.act_fn, layer]
    for module in modules:
        module.forward = functools.partial(type(module).forward, module)
    before = [module.forward for module in modules]
    attribute_edges(model, word_pairs(), "eap-qk")
    attribute_edges(model, word_pairs(), "relp")
    assert [module.forward for module in modules] == before


def test_log_mean_is_the_chord_of_the_logarithm():
    p, q = torch.tensor([0.2, 0.5, 0.3, 1e-30]), torch.tensor([0.6, 0.5, 1e-12, 1.0])
    want = torch.where(p == q, p, (p - q) / (p.log() - q.log()))
    torch.testing.assert_close(log_mean(p.log(), q.log()), want)
    assert float(log_mean(torch.tensor(-torch.inf), torch.tensor(-torch.inf))) == 0


# --- QK fix, GradDrop, activations ---------------------------------------------------------------


@pytest.mark.parametrize("family", LLAMAS)
def test_query_scores_of_the_last_layer_are_one_attention_step(family: str):
    """score(q) = dz . dm/dz with the corrupt query, against attention computed by hand."""
    model = tiny(family)
    contrast, layer = contrast_of(model), model.arch.n_layers - 1
    queries, _ = qk_node_scores(model, contrast)
    at = linearise(model, contrast, ESTIMATORS["eap"], ["q", "k", "v", "z"])
    (slope,) = torch.autograd.grad(at.total, at.run.kept["z"][layer])

    def heads(run, part):
        x = run.kept[part][layer].unflatten(-1, (-1, model.arch.d_head))
        return x.repeat_interleave(model.arch.n_heads // x.shape[2], 2)

    with torch.no_grad():
        kwargs = contrast.calls.of_rows(layer, contrast.clean)
        q, k, v = heads(at.corrupt, "q"), heads(at.clean, "k"), heads(at.clean, "v")
        moved = attend(model, layer, kwargs, q, k, v)
        effect = (at.clean.kept["z"][layer] - moved) * slope
    want = effect.unflatten(-1, (model.arch.n_heads, -1)).sum(-1) * contrast.mask[..., None]
    torch.testing.assert_close(queries[:, layer], want)


def test_the_qk_fix_of_sites_is_that_of_their_tokens(tiny_model: Model):
    """Summed over tokens, and keys over the query heads of their group."""
    contrast = contrast_of(tiny_model)
    for site, want in zip("qk", qk_node_scores(tiny_model, contrast), strict=True):
        found = attribute(tiny_model, word_pairs(), site, "layer,head", method="eap-qk").values
        whole = want.sum(2).unflatten(-1, (tiny_model.n_units(SITES[site]), -1)).sum(-1)
        np.testing.assert_allclose(found.values, whole.numpy(), atol=1e-5)
    with pytest.raises(PlanError, match="recomputes queries and keys: of 'z'"):
        attribute(tiny_model, word_pairs(), "z", "layer,head", method="eap-qk")


def test_qk_fix_leaves_other_edges_alone(tiny_model: Model):
    contrast = contrast_of(tiny_model)
    graph = Graph.of(tiny_model.arch)
    fixed = torch.stack(list(qk_edge_scores(tiny_model, contrast)))
    plain = all_edges(tiny_model, contrast, "eap")
    others = torch.tensor(["<q>" not in d and "<k>" not in d for d in graph.destinations])
    torch.testing.assert_close(fixed[:, :, others], plain[:, :, others])
    assert float((fixed - plain)[:, :, ~others].abs().max()) > 1e-4


@pytest.mark.parametrize("family", LLAMAS)
def test_grad_drop_equals_a_run_a_layer_with_that_layer_detached(family: str):
    model = tiny(family)
    contrast, n = contrast_of(model), model.arch.n_layers
    found = grad_drop_scores(model, contrast, ["z"])["z"]
    want = torch.zeros_like(found)
    for dropped in range(n):

        def detach(_, args, out):
            result = out[0] if isinstance(out, tuple) else out
            kept = args[0] + (result - args[0]).detach()
            return (kept, *out[1:]) if isinstance(out, tuple) else kept

        handle = model.blocks[dropped].register_forward_hook(detach)
        try:
            at = linearise(model, contrast, ESTIMATORS["eap"], ["z"])
            total, z = at.total, at.run.kept["z"]
            grads = torch.autograd.grad(total, z, allow_unused=True)
        finally:
            handle.remove()
        for layer, g in enumerate(grads):
            if g is not None:
                change = at.clean.kept["z"][layer] - at.corrupt.kept["z"][layer]
                score = (change * g).unflatten(-1, (model.arch.n_heads, -1)).sum(-1)
                want[:, layer] += (score * contrast.mask[..., None]).abs() / (n - 1)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", LLAMAS)
def test_ig_over_activations_is_eap_into_the_logits(family: str):
    """With one step every run is the clean one, and no cut path leads into the logits' edges."""
    model = tiny(family)
    contrast = contrast_of(model)
    logits = Graph.of(model.arch).logits
    found = torch.stack(list(ig_activation_scores(model, contrast, 1)))[:, :, logits]
    plain = all_edges(model, contrast, "eap")[:, :, logits]
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-4)
