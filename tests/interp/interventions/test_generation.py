"""Generation under plans: plain without one, the same with and without cache, alone and batched."""

import inspect

import pytest
import torch
import transformers
from conftest import FAMILIES, tiny
from plan_examples import assert_untouched, prompts_for, vector

import interp
from interp import Ablate, Add, KnockOut, Patch, Plan, ProjectOut, Scale
from interp.data.prompts import pad
from interp.errors import PlanError
from interp.forward.prefix_cache import attention_window, cache_argument, cache_in
from interp.model.model import Model

N = 6
SCOPES = ("all", "prompt", "last", "decoded", "s", "s_last", (1, 2))


def logits_of(model: Model, rows, plan, use_cache: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and step-by-step logits of Hugging Face's own loop inside `applied`."""
    ids, mask = pad(model, rows)
    with interp.applied(model, plan, rows):
        out = model.hf.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            max_new_tokens=N,
            min_new_tokens=N,
            do_sample=False,
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return out.sequences[:, ids.shape[1] :], torch.stack(out.logits, 1).float()


def kinds(model: Model, scope) -> dict[str, Plan]:
    """One plan of each kind at a scope."""
    v = vector(model, "resid_post")
    by_row = vector(model, "mlp_out", 3, 8)
    plans = {
        "patch": Plan.of(Patch("attn_out", v, layers=1, positions=scope)),
        "zero": Plan.of(Ablate("z", layers=(0, 1), units=1, positions=scope)),
        "add": Plan.of(Add("resid_post", v, layers=0, positions=scope)),
        "scale": Plan.of(Scale("mlp_post", 3.0, units=(1, 7, 30), positions=scope)),
        "keys": Plan.of(Scale("k", -1.0, layers=1, positions=scope)),
        "project": Plan.of(ProjectOut("resid_pre", v, layers=2, positions=scope)),
    }
    if scope not in ("all", "decoded"):
        noise = Ablate("mlp_out", by_row, kind="noise", layers=1, positions=scope)
        plans |= {"noise": Plan.of(noise), "knock-out": Plan.of(KnockOut("last", scope, heads=1))}
        plans["late knock-out"] = Plan.of(KnockOut("decoded", scope, layers=(0, 2)))
    return plans


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_cached_equals_uncached_for_every_kind(scope):
    model = tiny("gemma3")
    rows = prompts_for(model)
    for name, plan in kinds(model, scope).items():
        if name == "knock-out" and scope in ("prompt", "all"):
            continue  # it leaves the last token nothing to read
        (tokens, logits), (tokens_, logits_) = (
            logits_of(model, rows, plan, cached) for cached in (True, False)
        )
        torch.testing.assert_close(logits, logits_, atol=1e-4, rtol=0, msg=name)
        assert torch.equal(tokens, tokens_), name


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_uncached_on_every_family(family: str):
    model = tiny(family)
    rows = prompts_for(model)
    v = vector(model, "resid_post")
    plan = Plan.of(
        Add("resid_post", v, layers=0, positions="decoded"),
        Ablate("z", units=1, positions="last"),
        Scale("attn_out", 1.5, layers=1),
        KnockOut("decoded", "s_last", layers=(1, 2)),
        KnockOut("decoded", "last", layers=2, heads=0),
    )
    tokens, logits = logits_of(model, rows, plan, True)
    tokens_, logits_ = logits_of(model, rows, plan, False)
    torch.testing.assert_close(logits, logits_, atol=1e-4, rtol=0)
    assert torch.equal(tokens, tokens_)
    assert not torch.allclose(logits, logits_of(model, rows, (), True)[1], atol=1e-2)


def test_an_empty_plan_is_plain_generation(tiny_model: Model):
    rows = prompts_for(tiny_model)
    ours = interp.generate(tiny_model, rows, max_new_tokens=N)
    for row, generation in zip(rows, ours, strict=True):
        alone = torch.tensor([row.ids])
        plain = tiny_model.hf.generate(
            alone, attention_mask=torch.ones_like(alone), max_new_tokens=N, do_sample=False
        )
        assert list(generation.ids) == plain[0, len(row.ids) :].tolist()
        assert generation.prompt == row.ids


def test_a_batch_equals_its_prompts_alone(tiny_model: Model):
    rows = prompts_for(tiny_model)
    v = vector(tiny_model, "resid_post")
    plan = Plan.of(
        Add("resid_post", v, layers=0),
        Ablate("z", units=2, positions="s"),
        KnockOut("decoded", "s", layers=1),
    )
    together = interp.generate(tiny_model, rows, plan, N)
    assert together == [interp.generate(tiny_model, [row], plan, N)[0] for row in rows]
    assert_untouched(tiny_model)


def test_generation_equals_a_hook_written_by_hand():
    model = tiny("llama")
    rows = prompts_for(model)
    v = vector(model, "resid_post")
    calls = 0

    def steer(module, args, output):
        nonlocal calls
        calls += 1
        if calls > 1:  # the first call is the prompt
            output += v

    ids, mask = pad(model, rows)
    handle = model.blocks[1].register_forward_hook(steer)
    want = model.hf.generate(
        ids, attention_mask=mask.long(), max_new_tokens=N, min_new_tokens=N, do_sample=False
    )
    handle.remove()
    got, _ = logits_of(model, rows, Add("resid_post", v, layers=1, positions="decoded"), True)
    assert torch.equal(got, want[:, ids.shape[1] :])
    assert calls == N


def test_a_value_for_the_prompt_cannot_reach_decoded_tokens():
    model = tiny("llama")
    rows = prompts_for(model)
    plan = Patch("attn_out", vector(model, "attn_out", 8), layers=1)
    with pytest.raises(PlanError, match="position axis of 8 .*positions='prompt'"):
        interp.generate(model, rows, plan, N)
    assert_untouched(model)


def test_sampling_follows_its_seed():
    model = tiny("llama")
    rows = prompts_for(model)
    state = torch.random.get_rng_state()

    def draw(seed: int) -> list:
        return interp.generate(model, rows, Scale("z", 0.5), 12, temperature=1.5, seed=seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_copies_of_a_prompt_draw_their_own_replies_in_every_batch(monkeypatch):
    model = tiny("llama")

    def draw(n: int) -> list:
        found = interp.generate(model, ["w1 w2 w3"] * n, (), N, temperature=3.0, seed=1)
        return [one.ids for one in found]

    three = draw(3)
    monkeypatch.setattr("interp.interventions.generate.default_budget", lambda model: 9)
    many = draw(12)
    assert len(set(many)) == 12
    assert many[:3] == three and many == draw(12)


def test_long_lists_are_split_into_batches(monkeypatch):
    model = tiny("qwen3")
    rows = prompts_for(model)
    plan = Ablate("mlp_out", vector(model, "mlp_out", 3, 8), kind="noise", positions="prompt")
    whole = interp.generate(model, rows, plan, N)
    monkeypatch.setattr("interp.interventions.generate.default_budget", lambda model: 8)
    assert interp.generate(model, rows, plan, N) == whole


def test_conformance_notices_a_plan_that_does_not_see_the_cache(monkeypatch):
    model = tiny("llama")
    name = "generating under a plan equals running everything again per token"
    assert {check.name: check.holds for check in interp.validate(model)}[name]
    monkeypatch.setattr("interp.interventions.native.cache_in", lambda kwargs: None)
    held = {check.name: check.holds for check in interp.validate(model)}
    assert [check for check, holds in held.items() if not holds] == [name]


def test_the_cache_is_found_by_either_name():
    cache = transformers.DynamicCache()  # empty, so false where it is taken for a truth value
    assert cache_in({"cache": cache, "use_cache": True}) is cache
    assert cache_in({"past_key_values": cache, "cache": None}) is cache
    assert cache_in({"use_cache": True}) is None
    (name,) = cache_argument(tiny("llama").hf.base_model, cache)
    assert name in inspect.signature(tiny("llama").hf.base_model.forward).parameters


def test_the_shortest_window_counts_whatever_it_is_called():
    sizes = {family: attention_window(tiny(family).hf.config) for family in FAMILIES}
    assert {family: size for family, size in sizes.items() if size} == {
        "mistral": 4,
        "gemma2": 4,
        "gemma3": 4,
        "gpt_neo": 4,
    }


def test_windows_of_a_model_of_text_and_images_count():
    text = {"vocab_size": 97, "sliding_window": 4, "hidden_size": 32, "num_hidden_layers": 2}
    assert attention_window(transformers.Gemma3Config(text_config=text)) == 4
    assert attention_window(transformers.LlamaConfig()) is None


# --- real weights --------------------------------------------------------------------------------


def test_without_attention_in_layer_23_the_capital_is_another(smollm: Model):
    """The example of README and docs: what it prints is what they say."""
    texts = [
        interp.generate(smollm, "The capital of France is", plan, max_new_tokens=3)[0].text
        for plan in (Plan(), Ablate("attn_out", layers=23))
    ]
    assert texts[0].startswith(" Paris")
    assert texts[1] == " New York City"
