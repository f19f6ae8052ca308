"""A prefix cache: what was read once is as if each row had been run alone."""

import contextlib

import pytest
import torch
import transformers
from conformance.tiny_models import tiny_model
from conftest import FAMILIES, tiny, word_tokenizer

import interp
from interp.data.prompts import TokenPrompt
from interp.forward.prefix_cache import PrefixCache, can_share, common_prefix
from interp.model.model import Model

ALIKE = [
    TokenPrompt((5, 6, 7, 8, 9, 10)),
    TokenPrompt((5, 6, 7, 11, 12)),
    TokenPrompt((5, 6, 7, 13, 14, 15, 16, 17)),
]
UNLIKE = [TokenPrompt((20, 21, 22)), TokenPrompt((30, 31)), TokenPrompt((40, 41, 42, 43, 44))]


def alone(model: Model, ids: tuple[int, ...]) -> torch.Tensor:
    """The last token's state of a whole run of one row."""
    ids_ = torch.tensor([ids])
    return model.hf.base_model(input_ids=ids_, use_cache=False).last_hidden_state[0, -1]


def assert_last(model: Model, found: torch.Tensor, rows: list[tuple[int, ...]]) -> None:
    want = torch.stack([alone(model, row) for row in rows])
    torch.testing.assert_close(found[:, -1], want, atol=2e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("prompts", [ALIKE, UNLIKE], ids=["alike", "unlike"])
@pytest.mark.parametrize("family", [*FAMILIES, "mpt", "bloom"])
def test_rows_that_go_on_are_as_if_run_alone(family: str, prompts: list[TokenPrompt]):
    if family in FAMILIES:
        model = tiny(family)
    else:
        model = interp.load_model(tiny_model(family), tokenizer=word_tokenizer())
    cache = PrefixCache.sharing(model, prompts, [common_prefix(prompts)] * 3)
    cache.read(model, leave=1)
    rows = cache.branch([2, 0, 0, 1])
    told = [prompts[i].ids for i in (2, 0, 0, 1)]
    assert_last(model, rows.read(model), told)
    new = torch.tensor([50, 51, 52, 53])
    rows.append(new)
    assert_last(model, rows.read(model), [(*ids, int(t)) for ids, t in zip(told, new, strict=True)])
    rows.select([3, 1])
    rows.append(torch.tensor([[60, 61], [62, 0]]), torch.tensor([[True, True], [True, False]]))
    states = rows.read(model)
    want = [(*told[3], 53, 60, 61), (*told[1], 51, 62)]
    assert_last(model, torch.stack([states[0, -1:], states[1, :1]]), want)
    # the cache that they branched from is as it was
    assert_last(model, cache.read(model), [prompt.ids for prompt in prompts])


@torch.no_grad()
def test_beginnings_are_read_once_for_each_owner():
    model = tiny("llama")
    calls: list[list[int]] = []

    def during(owners: torch.Tensor) -> contextlib.AbstractContextManager[None]:
        calls.append(owners.tolist())
        return contextlib.nullcontext()

    prompts, owner = [ALIKE[0], ALIKE[1], ALIKE[2], UNLIKE[2]], [0, 1, 1, 0]
    cache = PrefixCache.sharing(model, prompts, [3, 3, 3, 0], owner=owner, during=during)
    assert calls == [[0, 1, 0]]  # rows 1 and 2 share; row 3 shares nothing, an empty beginning
    assert_last(model, cache.read(model), [prompt.ids for prompt in prompts])


def test_what_all_share_leaves_everyone_a_token():
    assert common_prefix(ALIKE) == 3
    assert common_prefix([ALIKE[0], ALIKE[0]]) == 5
    assert common_prefix([TokenPrompt((5,)), ALIKE[0]]) == 0
    assert common_prefix(UNLIKE) == 0


def test_where_columns_count_nothing_is_shared():
    assert can_share(tiny("llama"), 1000)
    assert not can_share(tiny("mistral"), 10)  # its window is 4
    mpt = interp.load_model(tiny_model("mpt").bfloat16(), tokenizer=word_tokenizer())
    for model in (tiny("mistral"), mpt):  # of MPT, the bias of position counts columns
        cache = PrefixCache.sharing(model, ALIKE, [3, 3, 3])
        assert cache.n_read == 0 and cache.ids.shape == (3, 8)


@torch.no_grad()
def test_a_model_without_keys_runs_everything_again():
    config = transformers.MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=1)
    model = interp.load_model(transformers.MambaForCausalLM(config), tokenizer=word_tokenizer())
    cache = PrefixCache.sharing(model, UNLIKE, [1, 1, 1])
    assert cache.kv is None and cache.n_read == 0
    cache.read(model, leave=1)
    assert cache.read(model).shape == (3, 1, 16)
    cache.append(torch.tensor([1, 2, 3]))
    assert_last(model, cache.read(model)[2:], [(*UNLIKE[2].ids, 3)])


def test_gradients_go_through_what_is_read_last():
    model = tiny("llama")
    cache = PrefixCache.of(model, ALIKE)
    with torch.no_grad():
        cache.read(model, leave=2)
    weight = model.ln_final.weight.requires_grad_()
    try:
        cache.read(model).sum().backward()
        assert float(weight.grad.norm()) > 0
    finally:
        weight.requires_grad_(False).grad = None
