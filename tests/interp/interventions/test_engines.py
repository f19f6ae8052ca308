"""One plan, three engines: native hooks, a user's TransformerBridge, and nnsight agree."""

import copy

import pytest
import torch
from conftest import FAMILIES, tiny
from plan_examples import prompts_for, vector

import interp
from interp import Ablate, Add, Clamp, KnockOut, Patch, Plan, ProjectOut, Scale
from interp.data.prompts import pad
from interp.errors import PlanError
from interp.forward.layer_calls import positions_and_mask
from interp.interventions import nnsight as nnsight_engine
from interp.interventions.bridge import BridgeHook, bridge_hooks
from interp.model.adapters import bridge
from interp.model.model import Model


def edits_of(model: Model) -> dict[str, Plan]:
    """Every site once, every kind once, and all of it together."""
    plans = {"none": Plan()}
    for name in model.arch.sites:
        v = vector(model, name)
        plans[name] = Plan.of(Add(name, v, layers=1, positions="s"))
    rows = prompts_for(model)
    noise = interp.noise_ablation(model, rows, positions="s")
    plans |= {
        "heads": Plan.of(Ablate("z", units=(0, 3), layers=(0, 2))),
        "keys": Plan.of(Scale("k", -1.0, layers=1, units=0)),
        "neurons": Plan.of(Patch("mlp_post", vector(model, "mlp_post", 8), units=(1, 9))),
        "clamp": Plan.of(
            Clamp("mlp_out", vector(model, "mlp_out"), 0.1, 0.2, origin=torch.ones(32)),
            Clamp("resid_post", vector(model, "resid_post"), 0.1, relative="norm", layers=1),
        ),
        "project": Plan.of(ProjectOut("resid_post", torch.eye(32)[:3] + 0.1, layers=1)),
        "noise": noise,
    }
    return plans | {"together": sum(plans.values(), Plan())}


KNOCK_OUTS = {
    "edges": Plan.of(KnockOut("last", "s", layers=1)),
    "edges of a head": Plan.of(KnockOut("last", "s_last", heads=(1,)), Scale("q", 2.0)),
}


def of_bridge(wrapped, model: Model, plan: Plan, rows) -> torch.Tensor:
    ids, mask = pad(model, rows)
    with torch.no_grad():
        logits = wrapped.run_with_hooks(
            ids, **positions_and_mask(model, mask), fwd_hooks=bridge_hooks(model, plan, rows)
        )
    return logits[:, -1].float()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_transformer_bridge_computes_the_same(family: str):
    model = tiny(family)
    rows, wrapped = prompts_for(model), bridge(copy.deepcopy(model.hf))
    plans = edits_of(model) | (KNOCK_OUTS if family not in ("gptj", "gpt_neo") else {})
    for name, plan in plans.items():
        want = interp.forward(model, rows, plan).logits
        got = of_bridge(wrapped, model, plan, rows)
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("family", ["gptj", "gpt_neo"])
def test_a_bridge_that_ignores_edits_of_scores_is_refused(family: str):
    model = tiny(family)
    with pytest.raises(PlanError, match=r"takes no edits .* run .* interp\.forward"):
        bridge_hooks(model, KNOCK_OUTS["edges"], prompts_for(model))


def test_a_bridge_with_its_own_model_leaves_no_hooks():
    wrapped = bridge(copy.deepcopy(tiny("llama").hf))
    wrapped.tokenizer = tiny("llama").tokenizer
    model = interp.load_model(wrapped)
    rows = prompts_for(model)
    plan = edits_of(model)["together"] + KNOCK_OUTS["edges"]
    want = interp.forward(model, rows, plan).logits
    torch.testing.assert_close(of_bridge(wrapped, model, plan, rows), want, atol=1e-4, rtol=0)
    plain = of_bridge(wrapped, model, Plan(), rows)
    torch.testing.assert_close(plain, interp.forward(model, rows).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("scope", ["all", "last", "decoded", "s"])
def test_a_bridge_generates_the_same(family: str, scope: str):
    model = tiny(family)
    rows, wrapped = prompts_for(model)[2:], bridge(copy.deepcopy(model.hf))
    ids, _ = pad(model, rows)
    plan = Plan.of(
        Add("resid_post", vector(model, "resid_post"), layers=0, positions=scope),
        Ablate("z", units=1, layers=1, positions=scope),
        KnockOut("decoded", "s", layers=2),
    )
    want = interp.generate(model, rows, plan, 6)[0].ids

    n_keys: list[int] = []

    def count(scores: torch.Tensor, hook) -> torch.Tensor:
        n_keys.append(scores.shape[-1])
        return scores

    def generated(hooks: list[BridgeHook], cached: bool) -> tuple[int, ...]:
        options = {"do_sample": False, "stop_at_eos": False, "verbose": False}
        with torch.no_grad(), wrapped.hooks(fwd_hooks=hooks):
            out = wrapped.generate(ids, 6, use_past_kv_cache=cached, **options)
        return tuple(out[0, ids.shape[1] :].tolist())[: len(want)]

    hooks = bridge_hooks(model, plan, rows)
    assert generated(hooks, False) == want
    generated([("blocks.1.attn.hook_attn_scores", count)], True)
    if n_keys[-1] > 1:
        assert generated(hooks, True) == want
    else:  # this TransformerLens does not know this transformers' name for the cache
        with pytest.raises(PlanError, match=r"KV cache .* use_past_kv_cache=False"):
            generated(hooks, True)


@pytest.mark.parametrize("family", FAMILIES)
def test_nnsight_computes_the_same(family: str):
    model = tiny(family)
    rows = prompts_for(model)
    wrapped, shipped = nnsight_engine.traced(model), nnsight_engine.remote_traced(model)
    for name, plan in (edits_of(model) | KNOCK_OUTS).items():
        want = interp.forward(model, rows, plan).logits
        got = {
            "local": nnsight_engine.run_plan(wrapped, model, plan, rows),
            "dry run of remote": nnsight_engine.run_plan(shipped, model, plan, rows, "local"),
        }
        for how, logits in got.items():
            torch.testing.assert_close(
                logits, want, atol=1e-4, rtol=0, msg=lambda m, n=name, h=how: f"{n}, {h}: {m}"
            )


def test_every_engine_refuses_to_blind_a_token():
    model = tiny("llama")
    rows, plan = prompts_for(model), KnockOut("s", "all", layers=1)
    with pytest.raises(PlanError, match="nothing to attend to"):
        interp.forward(model, rows, plan)
    with pytest.raises(PlanError, match="nothing to attend to"):
        of_bridge(bridge(copy.deepcopy(model.hf)), model, Plan.of(plan), rows)
    with pytest.raises(PlanError, match="nothing to attend to"):
        nnsight_engine.run_plan(nnsight_engine.traced(model), model, plan, rows)
