"""Arguments of blocks: which axes run over prompts, whatever the sizes of a batch are."""

import pytest
import torch
from conformance.tiny_models import tiny_model, word_tokenizer
from torch import Tensor

import interp
from interp.forward.argument_axes import ArgumentAxes, BlockState
from interp.forward.layer_calls import arguments_of, record_layer_calls
from interp.model.model import Model


def loaded(model_type: str) -> Model:
    return interp.load_model(tiny_model(model_type), tokenizer=word_tokenizer())


def test_heads_are_not_taken_for_prompts():
    """MPT's bias is (head, 1, pos), Bloom's (prompt · head, 1, pos); both have four heads."""
    ids = torch.arange(24).view(4, 6)
    rows = torch.tensor([2, 2, 0])
    for model_type, name, heads in (("mpt", "position_bias", 4), ("bloom", "alibi", 12)):
        model = loaded(model_type)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[2, :3] = False
        calls = record_layer_calls(model, ids, mask)
        whole, own = calls.kwargs[0][name], calls.of_rows(0, rows)[name]
        assert len(own) == heads
        if model_type == "bloom":
            torch.testing.assert_close(own.view(3, 4, -1), whole.view(4, 4, -1)[rows])
        else:
            torch.testing.assert_close(own, whole)


@pytest.mark.parametrize(
    ("axes", "shape", "want"),
    [
        (ArgumentAxes(0, 1, (1,)), (3, 5), [6, 10]),
        (ArgumentAxes(0, 2, ()), (6, 1), [4, 5, 0, 1]),
        (ArgumentAxes(None, 1, (1,)), (1, 5), None),
        (ArgumentAxes(1, 1, ()), (1, 3), [2, 0]),
    ],
)
def test_rows_of_an_argument(axes: ArgumentAxes, shape: tuple[int, ...], want: list[int] | None):
    value = torch.arange(torch.Size(shape).numel()).view(shape)
    got = axes.rows(value, 3, torch.tensor([2, 0]))
    if want is None:
        assert got is value
    elif shape == (3, 5):
        assert torch.equal(got, value[[2, 0]])
    else:
        assert got.flatten().tolist() == want


def test_what_a_block_hands_on_is_carried_for_the_rows_of_a_run():
    arguments = arguments_of(loaded("glm_moe_dsa"))
    assert dict(arguments.carried) == {"prev_topk_indices": 1}
    assert not arguments.by_token
    state = BlockState(arguments)
    assert state.given({"prev_topk_indices": 0}) == {"prev_topk_indices": 0}
    handed = torch.arange(6).view(2, 3)
    out: Tensor = state.after((torch.zeros(2), handed))
    assert out.shape == (2,)
    state.join(torch.tensor([1]))
    assert state.given({})["prev_topk_indices"].tolist() == [[0, 1, 2], [3, 4, 5], [3, 4, 5]]


def test_arguments_that_depend_on_the_tokens_are_known():
    assert arguments_of(loaded("zamba2")).of_tokens == {"original_hidden_states"}
    assert arguments_of(loaded("llama")).of_tokens == frozenset()
    assert arguments_of(loaded("llama")).by_token
