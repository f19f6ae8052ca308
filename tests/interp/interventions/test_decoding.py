"""One decoder: Hugging Face's loop without a plan, uncached whole forwards with one."""

from typing import Any

import pytest
import torch
from conftest import hooks_left, tiny, tiny_hf, word_tokenizer

import interp
from interp import Ablate, Add, KnockOut, Plan, Scale
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.forward.hooks import hooked
from interp.forward.prefix_cache import PrefixCache, common_prefix
from interp.interventions.generate import decode, generate
from interp.interventions.plan import Intervention
from interp.model.model import Model
from interp.model.sites import SITES

N = 8
OPTIONS: dict[str, Any] = {
    "min_new_tokens": 2,
    "repetition_penalty": 1.05,
    "no_repeat_ngram_size": 3,
}
ALIKE = ["w1 w2 w3 w4 w5 w6", "w1 w2 w3 w7 w8", "w1 w2 w3 w9 w10 w11 w12 w13"]
UNLIKE = ["w20 w21 w22 w23", "w30 w31", "w40 w41 w42 w43 w44 w45 w46"]
CONDITIONS = 4


def prompts_of(model: Model, texts: list[str]) -> list[TokenPrompt]:
    return [TokenPrompt(tuple(model.encode(text))) for text in texts]


def read(model: Model, rows: list[TokenPrompt]) -> PrefixCache:
    cache = PrefixCache.sharing(model, rows, [common_prefix(rows)] * len(rows))
    with torch.no_grad():
        cache.read(model, leave=1)
    return cache


def by_hugging_face(model: Model, prompt: TokenPrompt, ends: list[int]) -> tuple[int, ...]:
    """The new tokens of one prompt alone, by the library's own loop."""
    ids = torch.tensor([prompt.ids])
    both = model.hf.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=N,
        eos_token_id=ends,
        pad_token_id=0,
        **OPTIONS,
    )
    return tuple(both[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("texts", [ALIKE, UNLIKE], ids=["alike", "unlike"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2"])
def test_without_a_plan_it_is_hugging_faces_loop(family: str, texts: list[str]):
    model = tiny(family)
    rows, ends = prompts_of(model, texts), [2, 9, 17]
    found = decode(model, read(model, rows), (), N, ends=ends, **OPTIONS)
    assert found == [by_hugging_face(model, row, ends) for row in rows]


def test_a_row_that_ends_leaves_the_others_as_they_are():
    plain = tiny("llama")
    rows = prompts_of(plain, UNLIKE)
    hf = tiny_hf("llama")
    hf.generation_config.eos_token_id = [2, by_hugging_face(plain, rows[0], [2])[3]]
    model = interp.load_model(hf, tokenizer=word_tokenizer())
    cache = read(model, rows)
    v = torch.randn(len(rows), 1, model.arch.d_model, generator=torch.Generator().manual_seed(1))
    for plan in (Plan(), Plan.of(Add("resid_post", v, layers=1, positions="generating"))):
        found = decode(model, cache.branch(), plan, N)
        if not len(plan):
            assert len(found[0]) <= 4 < max(map(len, found))
        assert found == [
            decode(model, cache.branch([i]), plan, N, entries=[i])[0] for i in range(len(rows))
        ]


# --- steering as a plan --------------------------------------------------------------------------


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def steering(model: Model) -> dict[str, tuple[Intervention, ...]]:
    """Plans with an entry per condition, at the last prompt token and at every new one."""
    a = model.arch

    def add(site: str, layers: tuple[int, ...], width: int, scale: float, **options: Any) -> Add:
        vectors = drawn(len(site), len(layers), CONDITIONS, 1, width)
        return Add(site, vectors, scale, layers=layers, positions="generating", **options)

    heads = add("z", (0, 2), a.n_heads * a.d_head, 0.7)
    neurons = add("mlp_post", (1,), a.d_mlp or 0, 0.35)
    return {
        "stream": (add("resid_post", (0, 1), a.d_model, 0.15, relative="norm"),),
        "components": (heads, neurons),
    }


def naive(
    model: Model, prompt: TokenPrompt, entry: int, plan: tuple[Intervention, ...]
) -> tuple[int, ...]:
    """Whole forwards of one row without a cache, with hooks written by hand."""
    ids, first = list(prompt.ids), len(prompt.ids) - 1
    for _ in range(N):
        hooks = [
            (SITES[step.site], layer, adding(step, step.vector[i, entry, 0], first))
            for step in plan
            if isinstance(step, Add)
            for i, layer in enumerate(step.layers)  # pyright: ignore
        ]
        with torch.no_grad(), hooked(model, hooks):
            logits = model.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] == 2:
            break
    return tuple(ids[first + 1 :])


def adding(step: Add, vector: torch.Tensor, first: int):
    def edit(x: torch.Tensor) -> None:
        for place in range(first, x.shape[1]):
            now = x[0, place].clone()
            size = float(now.norm()) if step.relative else 1.0
            x[0, place] = now + step.scale * size * vector

    return edit


@pytest.mark.parametrize("kind", ["stream", "components"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_steering_several_conditions_equals_uncached_loops(family: str, kind: str):
    model = tiny(family)
    plan, rows = steering(model)[kind], prompts_of(model, ALIKE)
    which, entries = [0, 0, 1, 2], [0, 3, 3, 1]
    cache = read(model, rows)
    found = decode(model, cache.branch(which), plan, N, entries=entries)
    wanted = [naive(model, rows[i], e, plan) for i, e in zip(which, entries, strict=True)]
    assert found == wanted
    assert found != decode(model, cache.branch(which), (), N, entries=entries)
    assert not hooks_left(model)
    # the same rows as prompts: whole forwards, and equal prompts read once
    together = [rows[i] for i in which]
    by_row = tuple(of_rows(step, entries) for step in plan)
    for use_cache in (False, True):
        texts = generate(model, together, by_row, N, use_cache=use_cache)
        assert [one.ids for one in texts] == wanted


def of_rows(step: Intervention, entries: list[int]) -> Intervention:
    """A step whose entries are the rows' own, as `generate` takes it."""
    assert isinstance(step, Add)
    options = {"layers": step.layers, "positions": step.positions, "relative": step.relative}
    return Add(step.site, step.vector[:, entries], step.scale, **options)  # pyright: ignore


def test_equal_prompts_are_read_once_if_the_plan_lets_them(monkeypatch: pytest.MonkeyPatch):
    model = tiny("llama")
    rows = prompts_of(model, [ALIKE[0], ALIKE[0], ALIKE[1]])
    sizes: list[tuple[int, ...]] = []
    read_ = PrefixCache.read

    def counted(self: PrefixCache, model: Model, leave: int = 0) -> torch.Tensor:
        states = read_(self, model, leave)
        sizes.append(tuple(states.shape[:2]))
        return states

    monkeypatch.setattr(PrefixCache, "read", counted)
    last = Add("resid_post", drawn(0, 3, 1, 32), layers=1, positions="generating")
    generate(model, rows, last, 2)
    assert sizes[:2] == [(2, 5), (3, 1)]
    sizes.clear()
    generate(model, rows, KnockOut("decoded", (0,), layers=1), 2)
    assert sizes[0] == (2, 5)
    sizes.clear()
    generate(model, rows, Scale("z", 0.5), 2)
    assert sizes[0] == (3, 6)


def test_a_plan_for_tokens_that_are_read_is_refused():
    model = tiny("llama")
    cache = read(model, prompts_of(model, ALIKE))
    for plan in (Scale("z", 0.5), Ablate("z", positions=(0,)), KnockOut("prompt", (0,))):
        with pytest.raises(PlanError, match="read before it was applied"):
            decode(model, cache.branch(), plan, 2)
    with pytest.raises(PlanError, match="entry for each of 2 prompts"):
        decode(model, cache, Add("resid_post", drawn(0, 2, 1, 32), positions="generating"), 2)
    assert not hooks_left(model)
