"""Running prompts with the tree of their answers behind them: masks, positions, and a test of both.

Hugging Face is given the columns with the positions that they have in a plain continuation. The
mask of each layer is the one that it makes for plain prompts (causal, sliding window, chunks),
read at those positions, without what a column does not see. Whether a model computes the same in
such a row as in plain ones is measured, not assumed.
"""

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.data.answers import Aliases, AnswerTree
from interp.data.pairs import Excluded, TokenPair
from interp.data.token_batch import TokenBatch, TreeColumns, laid_out, padded
from interp.errors import PlanError
from interp.forward.argument_axes import BlockState, mapped
from interp.forward.hooks import hooked
from interp.forward.layer_calls import LayerCalls, positions_and_mask, record_layer_calls
from interp.model.model import Model
from interp.model.sites import Site
from interp.model.weights import why_fixed

SMALLEST = 16
"""Columns of the smallest tree that is tried."""
TOLERANCE = 1e-4
"""Mean error of the normed stream in a tree, of its mean deviation."""
BRANCHES = (
    "several answers of several tokens stand behind one prompt",
    "choose answers='first', or answers of one token",
)
GAPS = (
    "two prompts of unequal length are laid side by side",
    "give pairs that are aligned token by token",
)


def record_batch(model: Model, tokens: TokenBatch) -> LayerCalls:
    """What Hugging Face passes to each layer for a batch; `PlanError` where answers branch.

    That is, where they branch, or prompts have gaps, and this model does not read them exactly.
    """
    if tokens.tree is not None and not reads_trees(model, tokens.ids.shape[1]):
        raise PlanError(_refusal(model, GAPS if tokens.tree.plain is not None else BRANCHES))
    return _recorded(model, tokens)


def _refusal(model: Model, why: tuple[str, str]) -> str:
    where = f"{why[0]} (measured against plain forward passes); {why[1]}"
    return f"{model.name} computes other values where {where}."


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
    return replace(calls, kwargs=[_in_tree(tokens.tree, own, made) for own in calls.kwargs])


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
    attention = ""
    with contextlib.suppress(PlanError):  # some blocks attend by code of their own
        attention = model.attention_implementation
    if not model.arch.causal or attention not in ("sdpa", "eager"):
        return False
    size = max(SMALLEST, 1 << (width - 1).bit_length())
    known: dict[Any, bool] = model.__dict__.setdefault("_reads_trees", {})
    key = size, attention
    if key not in known:
        known[key] = _measured(model, size)
    return known[key]


def unread(
    model: Model, pairs: Sequence[TokenPair], n_answers: int, aligned: bool = False
) -> dict[int, str]:
    """Numbers of the pairs that a model does not read exactly, `n_answers` in one row, and why.

    `aligned`: both prompts of a pair lie side by side, as in `aligned_batch`.
    """
    why, width = dict[int, str](), 0
    for n, pair in enumerate(pairs):
        tree, gaps = AnswerTree.of(pair.answers[:n_answers]), aligned and any(pair.unpaired)
        if gaps or tree.branches:
            why[n] = _refusal(model, GAPS if gaps else BRANCHES)
        beside = pair.unpaired[1] if aligned else len(pair.corrupt) - len(pair.clean)
        width = max(width, len(pair.clean) + max(beside, 0) + len(tree.tokens))
    return {} if not why or reads_trees(model, width) else why


def readable(
    model: Model, pairs: Sequence[TokenPair], n_answers: int, aligned: bool = False
) -> tuple[list[TokenPair], list[Excluded]]:
    """The pairs that are read exactly, see `unread`, and the others; `PlanError` where none is."""
    why = unread(model, pairs, n_answers, aligned)
    if len(why) == len(pairs):
        raise PlanError(why[0])
    out = [Excluded(pairs[n].pair.id, pairs[n].pair.where, text) for n, text in why.items()]
    return [pair for n, pair in enumerate(pairs) if n not in why], out


@torch.no_grad()
def _measured(model: Model, width: int) -> bool:
    """Random prompts of two lengths with branching answers, against each branch as plain text.

    In 16 bits rounding alone moves a deep model's logits by 7 % and would hide a wrong mask, so
    copies of the blocks run in fp32. Where weights cannot be cast, twice of what plain text
    changes between a padded batch and single rows, or of one rounding, is taken for rounding.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.hf.get_input_embeddings().weight.shape[0]
    a, b, c, d, *prompt = torch.randint(vocabulary, (width,), generator=generator).tolist()
    answers: tuple[Aliases, ...] = (((a, b, 0), (a, c, 0)), ((d, a, b, 0),))
    longest = getattr(model.hf.config.get_text_config(), "max_position_embeddings", None) or width
    prompts = [prompt[: longest - 3], prompt[: min(len(prompt), longest) // 2]]
    paths = [path for own in AnswerTree.of(answers).paths for path in own]
    read = [alias[:-1] for aliases in answers for alias in aliases]
    rows = [[*ids, *own] for ids in prompts for own in read]
    nodes = [(i, list(path)) for i in range(len(prompts)) for path in paths]
    narrow = model.dtype not in (torch.float32, torch.float64)
    rounds = why_fixed(model.hf) is not None
    try:
        tokens = laid_out(model, prompts, [answers] * 2, [(a, d)] * 2)
        # what stands behind a text cannot change it, so padding on the right is exact everywhere
        calls = [
            _recorded(model, tokens),
            record_layer_calls(model, *padded(model, rows, on_left=False)),
            *(record_layer_calls(model, *padded(model, [row])) for row in rows if rounds),
        ]
        tree, plain, *single = _streams(model, calls, narrow and not rounds)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model's own code, which was not written for this
        return False
    ends = [range(len(row) - len(at), len(row)) for row, (_, at) in zip(rows, nodes, strict=True)]
    got = torch.cat([tree[i, tokens.columns[i, at]] for i, at in nodes])
    wanted = torch.cat([plain[n, end] for n, end in enumerate(ends)])
    size = (wanted - wanted.mean(-1, keepdim=True)).abs().mean()
    allowed = TOLERANCE * size
    if rounds:
        alone = torch.cat([own[0, end] for own, end in zip(single, ends, strict=True)])
        once = torch.finfo(model.dtype).eps * size
        allowed = max(allowed, 2 * once, 2 * (alone - wanted).abs().mean())
    return bool((got - wanted).abs().mean() <= allowed)


def _streams(model: Model, calls: Sequence[LayerCalls], cast: bool) -> list[Tensor]:
    """What the final norm makes of several batches, in fp32; `cast`: and is computed in fp32.

    Blocks are cast one at a time, as copies.
    """

    def taken(module: nn.Module) -> nn.Module:
        return copy.deepcopy(module).float() if cast else module

    def wide(value: Tensor, _: object = None) -> Tensor:
        return value.float() if cast and value.is_floating_point() else value

    streams = [wide(one.embeddings) for one in calls]
    states = [BlockState(one.arguments) for one in calls]
    for layer, block in enumerate(map(taken, model.blocks)):
        for n, (own, state) in enumerate(zip(calls, states, strict=True)):
            given = {k: mapped(v, k, {}, wide) for k, v in own.kwargs[layer].items()}
            streams[n] = state.after(block(streams[n], **state.given(given)))
    norm = taken(model.ln_final)
    return [norm(stream.to(model.unembed_device)).float() for stream in streams]
