"""Which models read trees of answers exactly: told from rounding in every number format."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conformance.tiny_models import tiny_model
from conftest import tiny, tiny_hf, word_tokenizer
from whole_answers import pairs

import interp
from interp.data.token_batch import TokenBatch, TreeColumns
from interp.forward import continuations
from interp.forward.continuations import reads_trees

FORMATS = ["float32", "bfloat16", "float16"]


def in_format(family: str, dtype: str) -> interp.Model:
    hf = tiny_hf(family) if family in ("llama", "gemma3", "gpt_neo") else tiny_model(family)
    return interp.load_model(hf, word_tokenizer(), dtype=dtype)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe", "gpt_neo", "bloom", "mpt"])
def test_windows_and_distances_by_column_are_told_from_rounding(family: str, dtype: str):
    model = in_format(family, dtype)
    before = [p.dtype for p in model.hf.parameters()]
    assert [reads_trees(model, width) for width in (16, 40)] == 2 * [
        family not in ("gpt_neo", "bloom", "mpt")
    ]
    assert [p.dtype for p in model.hf.parameters()] == before


def _one_sees_too_much(tree: TreeColumns) -> TreeColumns:
    visible = tree.visible.clone()
    row = next(i for i in range(len(visible[0])) if not visible[0, i, : i + 1].all())
    visible[0, row, : row + 1] = True
    return dataclasses.replace(tree, visible=visible)


def _one_stands_elsewhere(tree: TreeColumns) -> TreeColumns:
    position = tree.position.clone()
    position[0, -1] += 1
    return dataclasses.replace(tree, position=position)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("wrong", [_one_sees_too_much, _one_stands_elsewhere])
def test_one_wrong_token_is_found(
    wrong: Callable[[TreeColumns], TreeColumns], dtype: str, monkeypatch: pytest.MonkeyPatch
):
    model, laid_out = in_format("llama", dtype), continuations.laid_out

    def planted(*given: Any) -> TokenBatch:
        tokens = laid_out(*given)
        assert tokens.tree is not None
        return dataclasses.replace(tokens, tree=wrong(tokens.tree))

    monkeypatch.setattr(continuations, "laid_out", planted)
    assert not reads_trees(model, 16)


@pytest.mark.parametrize("cannot_cast", [False, True])
def test_weights_that_cannot_be_cast_are_compared_with_rounding(
    cannot_cast: bool, monkeypatch: pytest.MonkeyPatch
):
    if cannot_cast:
        monkeypatch.setattr(continuations, "why_fixed", lambda _: "they are packed")
    for family in ("llama", "gpt_neo"):
        assert reads_trees(in_format(family, "bfloat16"), 40) == (family == "llama")


def test_whole_answers_in_bf16_are_those_of_fp32_but_for_rounding():
    half, whole = in_format("llama", "bfloat16"), tiny("llama")
    one, other = (interp.patch(m, pairs(), "resid_pre", "layer,span") for m in (half, whole))
    gap = float(abs(other.clean - other.corrupt).mean())
    np.testing.assert_allclose(one.values, other.values, atol=0.05 * gap)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-3-270m", "qwen2.5-coder-0.5b"])
def test_built_in_models_read_trees_in_bf16(name: str):
    assert reads_trees(interp.load_model(name, dtype="bfloat16"), 40)
