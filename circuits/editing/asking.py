"""Asking many questions of many edited models at once: each row under its own edit's changes.

Demonstrations are run once an edit and their keys and values shared by its questions; rows that
have answered leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from circuits.editing.change import Changes, under
from circuits.editing.evaluation.prompts import Shots
from circuits.editing.prefixed import Row, Run
from interp.errors import DataError
from interp.model.model import Model

ROWS_AT_ONCE = 96


@dataclass(frozen=True)
class Ask:
    """One question.

    Attributes:
        edit: the number of the edit under which it is asked.
        text: what the model continues.
        prefix: what `text` begins with and other questions of the edit share; may be empty.
        stop: text at which the reply has ended; ``None`` for none.
        n_tokens: of the reply, at most.
    """

    edit: int
    text: str
    prefix: str = ""
    stop: str | None = "\n"
    n_tokens: int = 10


def asking(shots: Shots, question: str, edit: int = 0, before: str = "") -> Ask:
    """A question behind demonstrations, and behind text that stands between the two."""
    prefix = shots.prefix + before
    return Ask(edit, prefix + shots.suffix(question), prefix, shots.stop, shots.n_tokens)


def generations(model: Model, asks: Sequence[Ask], edits: Sequence[Changes]) -> list[str]:
    """Continue every question greedily, up to where its reply ends.

    Args:
        model: the model; its weights are not touched.
        asks: the questions.
        edits: changes by edit.

    Returns:
        One continuation a question, in order, without what follows its stop.

    Raises:
        PlanError: a change names a projection that the model does not have.
        DataError: a question has no tokens.
    """
    out = [""] * len(asks)
    order = sorted(range(len(asks)), key=lambda i: (asks[i].edit, asks[i].prefix))
    for lo in range(0, len(order), ROWS_AT_ONCE):
        group = order[lo : lo + ROWS_AT_ONCE]
        said = _answered(model, [asks[i] for i in group], edits)
        for i, text in zip(group, said, strict=True):
            out[i] = text
    return out


@torch.no_grad()
def _answered(model: Model, asks: Sequence[Ask], edits: Sequence[Changes]) -> list[str]:
    longest = max(ask.n_tokens for ask in asks)
    run = Run.start(model, [_row(model, ask) for ask in asks], edits, longest)
    said: list[list[int]] = [[] for _ in asks]
    rows = torch.arange(len(asks))
    for _ in range(longest):
        with under(model, edits, run.owner):
            normed = run.read(model)
        token = model.arch.logits_transform(model.unembed(normed).float()).argmax(-1)
        for row, one in zip(rows.tolist(), token.tolist(), strict=True):
            said[row].append(one)
        going = torch.tensor([not _ended(model, asks[row], said[row]) for row in rows.tolist()])
        if not going.any():
            break
        run.go_on(token)
        if not going.all():
            run.keep(going.nonzero()[:, 0])
            rows = rows[going]
    return [_text(model, ask, ids) for ask, ids in zip(asks, said, strict=True)]


def _row(model: Model, ask: Ask) -> Row:
    """Tokens of the shared prefix and the rest; no prefix where a token straddles the two."""
    whole = tuple(model.encode(ask.text))
    if not whole:
        raise DataError(f"{ask.text!r} has no tokens for {model.name}; give at least one.")
    prefix = tuple(model.encode(ask.prefix)) if ask.prefix else ()
    if len(prefix) < len(whole) and whole[: len(prefix)] == prefix:
        return Row(ask.edit, prefix, whole[len(prefix) :])
    return Row(ask.edit, (), whole)


def _ended(model: Model, ask: Ask, ids: list[int]) -> bool:
    stop = model.hf.generation_config.eos_token_id
    ends = stop if isinstance(stop, list) else [stop]
    if ids[-1] in ends or len(ids) == ask.n_tokens:
        return True
    return ask.stop is not None and ask.stop in model.tokenizer.decode(ids).lstrip()


def _text(model: Model, ask: Ask, ids: list[int]) -> str:
    text = model.tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip().split(ask.stop, 1)[0] if ask.stop else text.strip()
