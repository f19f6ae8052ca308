"""Batches: prompts padded to one length, each with the tree of its answers behind it.

The answers' tokens are further columns behind the prompt. A column sees the prompt and its own
branch alone and has the position that it has in a plain continuation, so every answer is read in
one row as in a row of its own::

    column     0    1    2    3    4        mask   the  cap  is   New  Los
    token      the  cap  is   New  Los      New     x    x    x    x
    position   0    1    2    3    3        Los     x    x    x         x
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.brief import brief
from interp.data.answers import Aliases, AnswerTable, AnswerTree
from interp.data.pairs import TokenPair
from interp.errors import PlanError
from interp.model.model import Model


@brief
@dataclass(frozen=True)
class TreeColumns:
    """Where columns stand and what they see, in a batch with branching answers.

    `position` is the column that each would be in a plain continuation; `visible` is what may be
    seen of what causality and padding allow. `plain` are the real columns of plain continuations,
    where they are not those of the batch.
    """

    position: Int[Tensor, "prompt pos"]
    visible: Bool[Tensor, "prompt pos pos"]
    plain: Bool[Tensor, "prompt pos"] | None = None


@brief
@dataclass(frozen=True)
class TokenBatch:
    """Prompts at one length, and behind each its answers' tokens.

    Attributes:
        ids, mask: the tokens, and which are real.
        left: padding before each prompt.
        columns: column of each node, from which the next token is predicted; rows with fewer
            nodes repeat node 0, the prompt's last token.
        answers: what is predicted at the nodes.
        tree: ``None`` where every column sees all real ones before it, as in plain prompts.
    """

    ids: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]
    left: Int[Tensor, " prompt"]
    columns: Int[Tensor, "prompt node"]
    answers: AnswerTable
    tree: TreeColumns | None


def batch(model: Model, pairs: Sequence[TokenPair], n_answers: int = 2) -> TokenBatch:
    """Pairs in rows 2i (the clean prompt) and 2i + 1 (corrupt), padded as the tokenizer pads.

    Both prompts of a pair have the same answers behind them: the first `n_answers` of answer and
    wrong answer.
    """
    prompts = [tokens for pair in pairs for tokens in (pair.clean, pair.corrupt)]
    twice = [pair for pair in pairs for _ in range(2)]
    on_left = model.tokenizer.padding_side == "left"
    answers = [pair.answers[:n_answers] for pair in twice]
    first = [(pair.answer, pair.wrong_answer) for pair in twice]
    return laid_out(model, prompts, answers, first, on_left)


def aligned_batch(model: Model, pairs: Sequence[TokenPair], n_answers: int = 2) -> TokenBatch:
    """As `batch`, with partners, and each token of the answers, in one column of both rows.

    A token without a partner has a column of its own, a gap in the other row that nothing sees::

        clean     the  cap  of  New  Zealand  is
        corrupt   the  cap  of   .   France   is

    `left` is 0 for all rows. Prompts that are aligned token by token are those of `batch`.
    """
    if all(pair.partner == tuple(range(len(pair.corrupt))) for pair in pairs):
        return batch(model, pairs, n_answers)
    sides = [both for pair in pairs for both in _own_columns(pair)]
    prompts = [tokens for pair in pairs for tokens in (pair.clean, pair.corrupt)]
    answers = [pair.answers[:n_answers] for pair in pairs for _ in range(2)]
    trees = [AnswerTree.of(own) for own in answers]
    stops = [1 + own[-1] + len(tree.tokens) for own, tree in zip(sides, trees, strict=True)]
    n, width, n_nodes = len(sides), max(stops), 1 + max(len(tree.tokens) for tree in trees)
    ids = torch.full((n, width), model.blank)
    mask, plain = torch.zeros(n, width, dtype=torch.bool), torch.zeros(n, width, dtype=torch.bool)
    position = torch.zeros(n, width, dtype=torch.long)
    visible = torch.eye(width, dtype=torch.bool).repeat(n, 1, 1)
    columns = torch.zeros(n, n_nodes, dtype=torch.long)
    on_left = model.tokenizer.padding_side == "left" and model.arch.left_padding
    for i, (prompt, own, tree) in enumerate(zip(prompts, sides, trees, strict=True)):
        shift = width - stops[i] if on_left else 0
        behind = torch.arange(len(tree.tokens)) + own[-1] + 1 + shift
        at = torch.cat([torch.tensor(own) + shift, behind])
        ids[i, at] = torch.tensor([*prompt, *tree.tokens])
        mask[i, at] = plain[i, : len(at)] = True
        depths = torch.tensor(tree.depths, dtype=torch.long)
        position[i, at] = torch.cat([torch.arange(len(prompt)), len(prompt) - 1 + depths])
        visible[i, at[:, None], at] = True
        visible[i, behind[:, None], behind] = tree.visible
        columns[i] = own[-1] + shift
        columns[i, 1 : 1 + len(behind)] = behind
    first = [(pair.answer, pair.wrong_answer) for pair in pairs for _ in range(2)]
    return TokenBatch(
        ids=ids.to(model.device),
        mask=mask.to(model.device),
        left=torch.zeros(n, dtype=torch.long),
        columns=columns,
        answers=AnswerTable.of(trees, answers, first),
        tree=TreeColumns(position, visible, plain),
    )


def _own_columns(pair: TokenPair) -> tuple[list[int], list[int]]:
    """Columns of the clean and of the corrupt tokens, partners in the same."""
    clean, corrupt = list[int](), list[int]()
    for partner in pair.partner:
        at = max([-1, *clean[-1:], *corrupt[-1:]]) + 1
        if partner is not None:
            corrupt += range(at, at + partner - len(corrupt) + 1)
            at = corrupt[-1]
        clean.append(at)
    return clean, corrupt


def laid_out(
    model: Model,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Aliases]],
    first: Sequence[tuple[int, int]],
    on_left: bool = True,
) -> TokenBatch:
    """Prompts with their answers' trees; padded on the right where the model reads padding."""
    on_left = on_left and model.arch.left_padding
    trees = [AnswerTree.of(own) for own in answers]
    rows = [(*ids, *tree.tokens) for ids, tree in zip(prompts, trees, strict=True)]
    ids, mask = padded(model, rows, on_left)
    left = (~mask).sum(1).cpu() if on_left else torch.zeros(len(rows), dtype=torch.long)
    last = left + torch.tensor([len(one) for one in prompts]) - 1
    n_nodes = torch.tensor([len(tree.tokens) for tree in trees])
    node = torch.arange(int(n_nodes.max()) + 1)
    columns = last[:, None] + torch.where(node <= n_nodes[:, None], node, 0)
    layout = None
    if any(tree.branches for tree in trees):
        layout = _tree_columns(trees, last + 1, ids.shape[1])
    return TokenBatch(ids, mask, left, columns, AnswerTable.of(trees, answers, first), layout)


def _tree_columns(
    trees: Sequence[AnswerTree], start: Int[Tensor, " prompt"], width: int
) -> TreeColumns:
    position = torch.arange(width).repeat(len(trees), 1)
    visible = torch.ones(len(trees), width, width, dtype=torch.bool)
    for i, (tree, lo) in enumerate(zip(trees, start.tolist(), strict=True)):
        hi = lo + len(tree.tokens)
        position[i, lo:hi] = lo - 1 + torch.tensor(tree.depths, dtype=torch.long)
        visible[i, lo:hi, lo:hi] = tree.visible
    return TreeColumns(position, visible)


def padded(
    model: Model, prompts: Sequence[Sequence[int]], on_left: bool = True
) -> tuple[Int[Tensor, "prompt pos"], Bool[Tensor, "prompt pos"]]:
    """Token ids of prompts at one length, and which of them are real.

    `PlanError` where padding would be on the left of a model that reads it.
    """
    width = max(map(len, prompts))
    if on_left and not model.arch.left_padding and min(map(len, prompts)) < width:
        raise PlanError(
            f"{model.name} reads padding in front of a prompt as if it were text, so prompts of "
            f"{min(map(len, prompts))} and of {width} tokens cannot run in one batch; give prompts "
            "of one length."
        )
    ids = torch.full((len(prompts), width), model.blank)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, tokens in enumerate(prompts):
        at = slice(width - len(tokens), width) if on_left else slice(len(tokens))
        ids[row, at] = torch.tensor(tokens)
        mask[row, at] = True
    return ids.to(model.device), mask.to(model.device)
