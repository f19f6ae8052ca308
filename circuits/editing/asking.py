"""Asking many questions of many edited models at once: each row under its own edit's changes.

Demonstrations are run once an edit and their keys and values shared by its questions; rows that
have answered leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from circuits.editing.changes import Changes, under
from circuits.editing.prefixed import Row, Run
from interp.errors import PairError
from interp.model import Model

ROWS_AT_ONCE = 96


@dataclass(frozen=True)
class Ask:
    """One question.

    Attributes:
        edit: the number of the edit under which it is asked.
        text: what the model continues.
        prefix: what `text` begins with and other questions of the edit share; may be empty.
    """

    edit: int
    text: str
    prefix: str = ""


def generations(
    model: Model, asks: Sequence[Ask], edits: Sequence[Changes], max_new_tokens: int = 10
) -> list[str]:
    """Continue every question greedily, up to a line's end.

    Args:
        model: the model; its weights are not touched.
        asks: the questions.
        edits: changes by edit.
        max_new_tokens: at most so many tokens an answer.

    Returns:
        One continuation a question, in order, without what follows the first line.

    Raises:
        SiteError: a change names a projection that the model does not have.
        PairError: a question has no tokens.
    """
    out = [""] * len(asks)
    order = sorted(range(len(asks)), key=lambda i: (asks[i].edit, asks[i].prefix))
    for lo in range(0, len(order), ROWS_AT_ONCE):
        group = order[lo : lo + ROWS_AT_ONCE]
        said = _answered(model, [asks[i] for i in group], edits, max_new_tokens)
        for i, text in zip(group, said, strict=True):
            out[i] = text
    return out


@torch.no_grad()
def _answered(
    model: Model, asks: Sequence[Ask], edits: Sequence[Changes], max_new_tokens: int
) -> list[str]:
    run = Run.start(model, [_row(model, ask) for ask in asks], edits, max_new_tokens)
    said: list[list[int]] = [[] for _ in asks]
    rows = torch.arange(len(asks))
    for _ in range(max_new_tokens):
        with under(model, edits, run.owner):
            normed = run.read(model)
        token = model.arch.logits_transform(model.unembed(normed).float()).argmax(-1)
        for row, one in zip(rows.tolist(), token.tolist(), strict=True):
            said[row].append(one)
        going = torch.tensor([not _ended(model, said[row]) for row in rows.tolist()])
        if not going.any():
            break
        run.go_on(token)
        if not going.all():
            run.keep(going.nonzero()[:, 0])
            rows = rows[going]
    return [_text(model, ids) for ids in said]


def _row(model: Model, ask: Ask) -> Row:
    """Tokens of the shared prefix and the rest; no prefix where a token straddles the two."""
    whole = tuple(model.encode(ask.text))
    if not whole:
        raise PairError(f"{ask.text!r} has no tokens for {model.name}; give at least one.")
    prefix = tuple(model.encode(ask.prefix)) if ask.prefix else ()
    if len(prefix) < len(whole) and whole[: len(prefix)] == prefix:
        return Row(ask.edit, prefix, whole[len(prefix) :])
    return Row(ask.edit, (), whole)


def _ended(model: Model, ids: list[int]) -> bool:
    stop = model.hf.generation_config.eos_token_id
    ends = stop if isinstance(stop, list) else [stop]
    return ids[-1] in ends or "\n" in model.tokenizer.decode(ids).lstrip()


def _text(model: Model, ids: list[int]) -> str:
    text = model.tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip().split("\n", 1)[0]
