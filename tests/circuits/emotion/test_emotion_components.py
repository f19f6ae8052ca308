"""Scores and influence against the model itself: parts sum, zeroing by hooks, naive forwards."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import tiny
from test_emotion_states import GROUPS

import interp
from circuits.emotion.components import (
    component_scores,
    head_parts,
    head_table,
    influence,
    neuron_table,
    normed,
    stream_scales,
)
from circuits.emotion.directions import Directions
from circuits.emotion.emotion_circuit import SiteVectors
from circuits.emotion.states import states
from circuits.emotion.texts import EMOTIONS
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.forward.hooks import hooked
from interp.interventions import last_token
from interp.interventions.last_token import final_states
from interp.interventions.plan import Ablate, Add, Clamp, Plan, ProjectOut, SiteEdit
from interp.model.model import Model
from interp.model.sites import SITES

IDS = (5, 6, 7, 8, 9, 11)
PROMPTS = [TokenPrompt(IDS), TokenPrompt((30, 31, 32)), TokenPrompt((4, 50, 60, 70))]


def some_directions(model: Model, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, model.arch.d_model, generator=generator)


@torch.no_grad()
def at_last(model: Model, site: str, layer: int, ids: tuple[int, ...] = IDS, edits=()):
    """A site's activation at the last token, by a hook on a plain forward."""
    kept = []
    edits = [*edits, (SITES[site], layer, lambda x: kept.append(x[0, -1].clone()))]
    with hooked(model, edits):
        model.hf(input_ids=torch.tensor([ids]), use_cache=False)
    return kept[0]


def test_neurons_sum_to_what_the_mlp_adds(tiny_model: Model):
    """Under each emotion's prompts, an output bias aside."""
    found, n = states(tiny_model, GROUPS), len(GROUPS)
    directions = Directions.of(found)
    table = neuron_table(tiny_model, found, directions)
    prompts = [prompt for group in GROUPS for prompt in group.prompts]
    for layer in range(tiny_model.arch.n_layers):
        bias = getattr(tiny_model.point(SITES["mlp_post"], layer)[0], "bias", None)
        out = interp.activations(tiny_model, prompts, "mlp_out", layer, at="last")[layer].float()
        added = (out - (0 if bias is None else bias.detach())).unflatten(0, (n, 6)).mean(0)
        want = added @ directions.resid_post[:, layer].T
        torch.testing.assert_close(table[:, :, layer].sum(-1), want, atol=2e-3, rtol=1e-4)


def test_heads_sum_to_what_attention_adds(tiny_model: Model):
    """Where no norm follows, zeroing is linear and the heads' losses sum to the output."""
    if tiny_model.parts(0).ln1_post:
        pytest.skip("a post-norm makes zeroing of one head depend on the others")
    v = some_directions(tiny_model)
    for layer in range(tiny_model.arch.n_layers):
        z = at_last(tiny_model, "z", layer).unflatten(-1, (tiny_model.arch.n_heads, -1))
        parts = head_parts(tiny_model, layer, torch.zeros(1, tiny_model.arch.d_model), z[None], v)
        bias = getattr(tiny_model.point(SITES["z"], layer)[0], "bias", None)
        with torch.no_grad():
            out = at_last(tiny_model, "attn_out", layer) - (0 if bias is None else bias)
        torch.testing.assert_close(parts[0].sum(-1), v @ out, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("reading", ["stream", "normed"])
def test_head_shortcut_is_zeroing_by_hooks(tiny_model: Model, reading: str):
    """Zeroing at all positions, as the released code does, and reading in the same layer."""
    parts, v = tiny_model.parts(0), some_directions(tiny_model)
    z_width = tiny_model.arch.d_head
    for layer in range(tiny_model.arch.n_layers):
        mid = at_last(tiny_model, "resid_pre", layer) + at_last(tiny_model, "attn_out", layer)
        z = at_last(tiny_model, "z", layer).unflatten(-1, (tiny_model.arch.n_heads, -1))[None]
        if reading == "normed" and parts.parallel:
            with pytest.raises(PlanError, match="in parallel"):
                head_parts(tiny_model, layer, mid[None], z, v, normed=True)
            return
        got = head_parts(tiny_model, layer, mid[None], z, v, normed=reading == "normed")[0]

        def read(edits=(), layer=layer):
            if reading == "normed":
                return mlp_input(tiny_model, layer, edits)
            entered = at_last(tiny_model, "resid_pre", layer)  # no head of this layer changes it
            return entered + at_last(tiny_model, "attn_out", layer, edits=edits)

        base = read()
        for head in range(tiny_model.arch.n_heads):
            span = slice(head * z_width, (head + 1) * z_width)

            def zero(x, span=span):
                x[..., span] = 0

            masked = read([(SITES["z"], layer, zero)])
            torch.testing.assert_close(got[:, head], v @ (base - masked), atol=3e-3, rtol=1e-3)


@torch.no_grad()
def mlp_input(model: Model, layer: int, edits=()) -> torch.Tensor:
    """What the MLP module reads at the last token."""
    kept = []
    mlp = model.blocks[layer].get_submodule(model.parts(layer).mlp)
    hook = mlp.register_forward_pre_hook(lambda _, args: kept.append(args[0][0, -1].clone()))
    try:
        with hooked(model, edits):
            model.hf(input_ids=torch.tensor([IDS]), use_cache=False)
    finally:
        hook.remove()
    return kept[0]


def test_scores_are_means_of_parts_and_centring_takes_the_constant_off():
    model = tiny("gemma3")
    found = states(model, GROUPS)
    directions = Directions.of(found)
    scored = component_scores(model, found, directions)
    layer, e = 1, EMOTIONS.index("fear")
    own = neuron_table(model, found, directions)[:, e, layer]
    torch.testing.assert_close(scored["paper"].neurons[e, layer], own[e])
    shifted = own + 7.0  # what all emotions share does not count
    torch.testing.assert_close(
        shifted[e] - shifted.mean(0), scored["centred"].neurons[e, layer], atol=1e-4, rtol=1e-4
    )
    heads = head_table(model, found, directions, normed=True)
    torch.testing.assert_close(scored["paper"].heads[e], heads[e, e])


def test_planted_neurons_are_found_first():
    """Three neurons write the direction of anger when its token is seen; they rank on top."""
    model = tiny("llama")
    found = states(model, GROUPS)
    directions = Directions.of(found)
    layer, e, planted = 1, EMOTIONS.index("anger"), [4, 17, 40]
    pushed = found.mlp_post.clone()
    module = model.point(SITES["mlp_post"], layer)[0]
    weight = module.weight.detach()
    beta = directions.resid_post[e, layer] @ weight
    pushed[:, e, layer, planted] += 50.0 * beta[planted].sign()
    changed = replace(found, mlp_post=pushed)
    scored = component_scores(model, changed, directions)
    for kind in scored:
        top = scored[kind].neurons[e, layer].argsort(descending=True)[:3]
        assert set(top.tolist()) == set(planted)
    assert float(SiteVectors.differences(changed).mlp_post[e, layer, planted].abs().min()) > 30


# --- last-token runs and influence ---------------------------------------------------------------


def test_plans_at_the_last_token_equal_plain_forwards(tiny_model: Model, monkeypatch):
    """Several edits, several sites, prompts of unequal length, small batches."""
    a = tiny_model.arch
    generator = torch.Generator().manual_seed(0)
    add = torch.randn(a.d_model, generator=generator)
    fill = torch.randn(a.d_mlp or 1, generator=generator)
    some = tuple(range(0, a.d_mlp or 1, 2))
    plans = [
        Plan(),
        Plan.of(
            Add("attn_out", add, layers=1, positions="last"),
            Add("mlp_out", add, -1.0, layers=0, positions="last"),
        ),
        Plan.of(Ablate("mlp_post", fill, kind="mean", layers=2, units=some, positions="last")),
        Plan.of(Add("mlp_out", add, layers=2, positions="last")),
    ]
    monkeypatch.setattr(last_token, "default_budget", lambda _: 30)
    got = final_states(tiny_model, PROMPTS, plans)
    for i, plan in enumerate(plans):
        want = interp.forward(tiny_model, PROMPTS, plan).resid
        torch.testing.assert_close(got[:, i], want, atol=1e-4, rtol=1e-4)
    with pytest.raises(PlanError, match="positions='last'"):
        final_states(tiny_model, PROMPTS, [Plan.of(Add("mlp_out", add, layers=2))])
    here: Any = {"layers": 2, "positions": "last"}
    for plan in (
        Plan.of(ProjectOut("mlp_out", add, **here)),
        Plan.of(Clamp("mlp_out", add, **here)),
        Plan.of(Add("mlp_out", add, relative="norm", **here)),
        Plan.of(Add("mlp_out", add, **here), Add("mlp_out", add, **here)),
    ):
        with pytest.raises(PlanError, match="only one edit at .*, of a fixed value"):
            final_states(tiny_model, PROMPTS, [Plan(), plan])


def edit_of(step: SiteEdit):
    """The edit of a plan's step as a plain hook at the last token."""
    rewrite = step.rewrite(None)

    def edit(x):
        x[:, -1] = x[:, -1] * rewrite.keep + rewrite.add

    return edit


@pytest.mark.parametrize("final", ["stream", "normed"])
def test_batched_influence_equals_naive_forwards(tiny_model: Model, final: str):
    found = states(tiny_model, GROUPS)
    directions, scales = Directions.of(found), stream_scales(found)
    to = directions.reference()
    alphas = (0.1, 0.5)
    got = influence(tiny_model, PROMPTS, directions, scales, alphas=alphas, final=final).values
    last = tiny_model.arch.n_layers - 1

    def read(ids, edits=()):
        x = at_last(tiny_model, "resid_post", last, ids, edits)
        return normed(tiny_model, x) if final == "normed" else x

    sublayers = (("attn_out", "resid_mid"), ("mlp_out", "resid_post"))
    for e, s, layer in [(0, 0, 0), (3, 1, 1), (5, 0, last), (2, 1, last)]:
        site, stream = sublayers[s]
        own = getattr(directions, stream)[e, layer]
        own = own if own @ to[e] >= 0 else -own
        for p, prompt in enumerate(PROMPTS):
            want = 0.0
            for alpha in alphas:
                size = alpha * float(scales[s, layer])
                edits = [(SITES[site], layer, edit_of(Add(site, size * own)))]
                moved = read(prompt.ids, edits) - read(prompt.ids)
                want += float(moved @ to[e]) / size / len(alphas)
            assert float(got[p, e, s, layer]) == pytest.approx(want, abs=2e-3, rel=2e-3)


def test_influence_of_the_last_sublayer_is_the_cosine_and_does_not_depend_on_alpha():
    """Nothing follows the last MLP, so a nudge moves the stream by itself alone."""
    model = tiny("llama")
    found = states(model, GROUPS)
    directions, scales = Directions.of(found), stream_scales(found)
    to = directions.reference()
    small, large = (
        influence(model, PROMPTS, directions, scales, alphas=(alpha,)).values
        for alpha in (0.1, 0.7)
    )
    cosine = (directions.resid_post[:, -1] * to).sum(-1).abs()
    for values in (small, large):
        torch.testing.assert_close(values[:, :, 1, -1], cosine.expand(3, 6), atol=1e-3, rtol=1e-3)
