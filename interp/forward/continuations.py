"""Running prompts with the tree of their answers behind them: masks, positions, and a test of both.

Hugging Face is given the columns with the positions that they have in a plain continuation. The
mask of each layer is the one that it makes for plain prompts (causal, sliding window, chunks),
read at those positions, without what a column does not see. Whether a model computes the same in
such a row as in plain ones is measured, not assumed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.data.answers import Aliases, AnswerTree
from interp.data.token_batch import TokenBatch, TreeColumns, laid_out
from interp.errors import PlanError
from interp.forward.argument_axes import BlockState
from interp.forward.hooks import hooked
from interp.forward.layer_calls import LayerCalls, positions_and_mask, record_layer_calls
from interp.model.model import Model
from interp.model.sites import Site

SMALLEST = 16
"""Columns of the smallest tree that is tried."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Mean error of logits in a tree, of their mean deviation; 1e-2 in half precision."""


def record_batch(model: Model, tokens: TokenBatch) -> LayerCalls:
    """What Hugging Face passes to each layer for a batch; `PlanError` where answers branch.

    That is, where they branch, or prompts have gaps, and this model does not read them exactly.
    """
    if tokens.tree is not None and not reads_trees(model, tokens.ids.shape[1]):
        what, instead = (
            (
                "several answers of several tokens stand behind one prompt",
                "choose answers='first', or answers of one token",
            )
            if tokens.tree.plain is None
            else (
                "two prompts of unequal length are laid side by side",
                "give pairs that are aligned token by token",
            )
        )
        raise PlanError(
            f"{model.name} computes other values where {what} (measured against plain forward "
            f"passes); {instead}."
        )
    return _recorded(model, tokens)


def _recorded(model: Model, tokens: TokenBatch) -> LayerCalls:
    if tokens.tree is None:
        return record_layer_calls(model, tokens.ids, tokens.mask)
    plain = tokens.mask if tokens.tree.plain is None else tokens.tree.plain.to(tokens.mask.device)
    given = positions_and_mask(model, plain)
    if "position_ids" in given:
        behind = tokens.tree.position - tokens.left[:, None]
        given["position_ids"] = behind.to(tokens.ids.device).where(tokens.mask, 0).clamp(min=0)
    inputs = {"input_ids": tokens.ids, "use_cache": False, **given}
    calls = record_layer_calls(model, tokens.ids, tokens.mask, inputs)
    made: dict[int, Tensor] = {}
    kwargs = [_in_tree(tokens.tree, own, made) for own in calls.kwargs]
    return replace(calls, kwargs=kwargs)


def _in_tree(tree: TreeColumns, own: Mapping[str, Any], made: dict[int, Tensor]) -> dict[str, Any]:
    """A layer's arguments with its mask at the tree's positions; layers share masks in `made`."""
    mask: Tensor | None = own.get("attention_mask")
    usual = mask is None or (mask.ndim == 4 and mask.shape[1] == 1)
    if "attention_mask" not in own or not usual:
        raise PlanError("a layer takes no mask over queries and keys, so it can read no tree.")
    if id(mask) not in made:
        made[id(mask)] = _tree_mask(tree, mask)
    return {**own, "attention_mask": made[id(mask)]}


def _tree_mask(tree: TreeColumns, mask: Tensor | None) -> Tensor:
    n, width = tree.position.shape
    if mask is None:  # plain causality
        mask = torch.ones(width, width, dtype=torch.bool).tril()[None, None]
    place, seen = tree.position.to(mask.device), tree.visible.to(mask.device)
    row = torch.arange(n, device=mask.device)[:, None, None] * (len(mask) > 1)
    moved = mask[row, 0, place[:, :, None], place[:, None]]
    closed = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return moved.masked_fill(~seen, closed)[:, None]


@torch.no_grad()
def activations_in(
    model: Model, tokens: TokenBatch, points: Sequence[tuple[Site, int]]
) -> list[Float[Tensor, "prompt pos width"]]:
    """Activations at several points of one run of a batch, on the CPU.

    Positions count each prompt's tokens and then those of its answers; zero beyond.
    """
    calls, held = record_batch(model, tokens), dict[int, Tensor]()

    def keep(number: int) -> Callable[[Tensor], None]:
        return lambda activation: held.__setitem__(number, activation.detach().cpu().clone())

    with hooked(model, [(*point, keep(number)) for number, point in enumerate(points)]):
        _through_blocks(model, calls)
    real = tokens.mask.cpu()
    at = torch.arange(real.shape[1]) + tokens.left[:, None]
    there = torch.arange(real.shape[1]) < real.sum(1)[:, None]
    rows = torch.arange(len(real))[:, None]
    moved = at.where(there, 0)
    return [held[n][rows, moved].masked_fill(~there[..., None], 0) for n in range(len(points))]


@torch.no_grad()
def resid_at_nodes(model: Model, tokens: TokenBatch) -> Float[Tensor, "prompt node d_model"]:
    """The stream after the last block at the columns from which answers' tokens are predicted."""
    hidden = _through_blocks(model, record_batch(model, tokens))
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    return hidden[rows, tokens.columns.to(hidden.device)]


def _through_blocks(model: Model, calls: LayerCalls) -> Float[Tensor, "prompt pos d_model"]:
    hidden, state = calls.embeddings, BlockState(calls.arguments)
    for layer, block in enumerate(model.blocks):
        hidden = state.after(block(hidden, **state.given(calls.kwargs[layer])))
    return hidden


# --- the test ----------------------------------------------------------------------------------


def reads_trees(model: Model, width: int) -> bool:
    """Whether a tree gives a model the values of plain forward passes, at up to so many columns.

    Measured once for each power of two, and kept with the model.
    """
    if not model.arch.causal or model.attention_implementation not in ("sdpa", "eager"):
        return False
    size = max(SMALLEST, 1 << (width - 1).bit_length())
    known: dict[Any, bool] = model.__dict__.setdefault("_reads_trees", {})
    key = size, model.attention_implementation
    if key not in known:
        known[key] = _measured(model, size)
    return known[key]


@torch.no_grad()
def _measured(model: Model, width: int) -> bool:
    """Random prompts of two lengths with branching answers, against each branch as plain text."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.hf.get_input_embeddings().weight.shape[0]
    drawn = torch.randint(vocabulary, (width,), generator=generator).tolist()
    a, b, c, d, *prompt = drawn
    answers: tuple[Aliases, ...] = (((a, b, 0), (a, c, 0)), ((d, a, b, 0),))
    longest = getattr(model.hf.config.get_text_config(), "max_position_embeddings", None) or width
    prompts = [prompt[: longest - 3], prompt[: min(len(prompt), longest) // 2]]
    tokens = laid_out(model, prompts, [answers] * 2, [(a, d)] * 2)
    try:
        calls = _recorded(model, tokens)
        hidden = _through_blocks(model, calls)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model's own code, which was not written for this
        return False
    found, wanted = list[Tensor](), list[Tensor]()
    read = [alias[:-1] for aliases in answers for alias in aliases]
    nodes = [path for paths in AnswerTree.of(answers).paths for path in paths]
    for i, ids in enumerate(prompts):
        for path, places in zip(read, nodes, strict=True):
            row = torch.tensor([[*ids, *path]], device=model.device)
            plain = model.hf(input_ids=row, use_cache=False).logits[0, -len(places) :]
            columns = tokens.columns[i, list(places)]
            found.append(model.logits(hidden[i, columns.to(hidden.device)]))
            wanted.append(plain.float().to(found[-1].device))
    got, plain = torch.cat(found), torch.cat(wanted)
    deviation = (plain - plain.mean(-1, keepdim=True)).abs().mean()
    return bool((got - plain).abs().mean() <= TOLERANCE.get(model.dtype, 1e-2) * deviation)
