"""Plans over batches and in sweeps: padding and splits change nothing, nothing stays hooked."""

import dataclasses

import pytest
import torch
from conftest import tiny, word_pairs, word_tokenizer
from plan_examples import assert_untouched, every_kind, prompts_for, vector

import interp
from interp import Ablate, Add, KnockOut, Patch, Plan, Scale
from interp.data.pairs import tokenise
from interp.data.prompts import TokenPrompt, batches
from interp.errors import InterpWarning, PlanError
from interp.forward.layer_calls import positions_and_mask
from interp.model.model import Model


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_context_manager_follows_either_padding(tiny_model: Model, side: str):
    model = dataclasses.replace(tiny_model, tokenizer=word_tokenizer(side))
    rows = prompts_for(model)
    plan = Plan.of(
        Add("resid_post", vector(model, "resid_post"), layers=0, positions="last"),
        Ablate("z", units=1, positions="s"),
        KnockOut("last", "s_last", layers=2),
    )
    texts = [pair.clean for pair in word_pairs()]
    inputs = model.tokenizer(texts, return_tensors="pt", padding=True)
    mask = inputs["attention_mask"].bool()
    with torch.no_grad(), interp.applied(model, plan, rows):
        logits = model.hf(inputs["input_ids"], **positions_and_mask(model, mask)).logits
    last = mask.long().cumsum(-1).argmax(-1)
    want = interp.forward(model, rows, plan).logits
    torch.testing.assert_close(logits[range(3), last], want, atol=1e-5, rtol=0)


def test_a_batch_equals_its_prompts_alone(tiny_model: Model):
    rows = prompts_for(tiny_model)
    plan = every_kind(tiny_model)
    plan = Plan.of(*(step for step in plan if not isinstance(step, Patch)))
    together = interp.forward(tiny_model, rows, plan).logits
    for i, row in enumerate(rows):
        alone = interp.forward(tiny_model, [row], plan).logits[0]
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=0)


def test_any_batch_split_gives_the_same_numbers(monkeypatch):
    model = tiny("qwen2")
    rows = prompts_for(model)
    plan = every_kind(model)
    whole = interp.forward(model, rows, plan).logits
    pairs = word_pairs()
    plans = {"none": (), "all": plan, "scale": Scale("z", 0.1)}
    swept = interp.sweep_plans(model, pairs, plans)
    for budget in (1, 9, 20):
        monkeypatch.setattr("interp.interventions.run.default_budget", lambda model, b=budget: b)
        torch.testing.assert_close(
            interp.forward(model, rows, plan).logits, whole, atol=1e-5, rtol=0
        )
        again = interp.sweep_plans(model, pairs, plans)
        assert float(abs(again - swept).max()) < 1e-5


def test_pairs_that_cannot_be_used_are_said():
    model, good = tiny("llama"), word_pairs()
    bad = dataclasses.replace(good[0], id="bad", wrong_answer=good[0].answer)
    rows = interp.PromptPairs((bad, *good), "pairs")
    says = "^1 of 4 pairs are left out; first: .*the same token 'w20'"
    for call, given in ((interp.sweep_plans, {"none": ()}), (interp.path_patch, ["m0->logits"])):
        with pytest.warns(InterpWarning, match=says):
            found = call(model, rows, given)
        assert list(found.attrs["excluded"]) == ["bad"]
    with pytest.warns(InterpWarning, match=says):
        interp.ablate(model, good, "a1.h2", "mean", reference=rows, n_random=0)


def test_batches_hold_every_prompt_once_within_the_budget(tiny_model: Model):
    rows = [TokenPrompt(tuple(range(n))) for n in (3, 9, 1, 9, 4, 2)]
    groups = batches(tiny_model, rows, 18)
    assert sorted(i for group in groups for i in group) == list(range(6))
    assert all(len(g) * max(len(rows[i].ids) for i in g) <= 18 for g in groups)


def test_sweeps_of_plans_read_kl_and_give_each_pair_its_own_value():
    """Other metrics: `test_ablated_answers`."""
    model = tiny("gemma3")
    pairs, _ = tokenise(model, word_pairs())
    clean = interp.activations(model, pairs, "resid_mid", 1)[1]
    plans = {"none": (), "patch": Patch("resid_mid", clean, layers=1, positions="s")}
    got = interp.sweep_plans(model, pairs, plans, "kl", "corrupt")
    assert got.dims == ("pair", "plan")
    assert list(got.plan.values) == list(plans)
    plain = interp.forward(model, pairs).logits.log_softmax(-1)
    for i, pair in enumerate(pairs):
        prompt = TokenPrompt(pair.corrupt, pair.spans)
        own = {"none": (), "patch": Patch("resid_mid", clean[i], layers=1, positions="s")}
        for name, plan in own.items():
            log_p = interp.forward(model, [prompt], plan).logits[0].log_softmax(-1)
            want = float((plain[i].exp() * (plain[i] - log_p)).sum())
            assert float(got.sel(plan=name)[i]) == pytest.approx(want, abs=1e-4)


def test_nothing_stays_hooked_after_an_exception(tiny_model: Model):
    rows, plan = prompts_for(tiny_model), every_kind(tiny_model)
    before = interp.forward(tiny_model, rows).logits
    with pytest.raises(ZeroDivisionError), interp.applied(tiny_model, plan, rows):
        assert any(m._forward_hooks or m._forward_pre_hooks for m in tiny_model.hf.modules())
        raise ZeroDivisionError
    assert_untouched(tiny_model)
    blind = KnockOut("all", "all", layers=1)
    with pytest.raises(PlanError, match="nothing to attend to"):
        interp.forward(tiny_model, rows, plan + blind)
    assert_untouched(tiny_model)
    torch.testing.assert_close(interp.forward(tiny_model, rows).logits, before, atol=0, rtol=0)
