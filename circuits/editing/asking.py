"""Asking many questions of many edited models at once: each row under its own edit's changes.

Demonstrations are run once an edit and their keys and values shared by its questions; rows that
have answered leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import DynamicCache

from circuits.editing.changes import Changes, under
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
    split = [_split(model, ask) for ask in asks]
    longest = max(len(prefix) for prefix, _ in split) + max(len(rest) for _, rest in split)
    if not _sees(model, longest + max_new_tokens):
        split = [((), prefix + rest) for prefix, rest in split]
    shared = list(dict.fromkeys((ask.edit, s[0]) for ask, s in zip(asks, split, strict=True)))
    row_of = {key: i for i, key in enumerate(shared)}
    source = torch.tensor([row_of[ask.edit, s[0]] for ask, s in zip(asks, split, strict=True)])
    owner = torch.tensor([ask.edit for ask in asks])
    prefix_ids, prefix_mask = _left_padded(model, [prefix for _, prefix in shared])
    ids, mask = _left_padded(model, [suffix for _, suffix in split])
    cache = DynamicCache()
    if prefix_ids.shape[1]:
        with under(model, edits, torch.tensor([edit for edit, _ in shared])):
            _forward(model, prefix_ids, prefix_mask, prefix_mask, cache)
        cache.batch_select_indices(source.to(model.device))
    mask_all = torch.cat([prefix_mask[source.to(model.device)], mask], 1)
    said: list[list[int]] = [[] for _ in asks]
    rows = torch.arange(len(asks))
    for _ in range(max_new_tokens):
        with under(model, edits, owner[rows]):
            token = _forward(model, ids, mask, mask_all, cache)
        for row, one in zip(rows.tolist(), token.tolist(), strict=True):
            said[row].append(one)
        going = torch.tensor([not _ended(model, said[row]) for row in rows.tolist()])
        if not going.any():
            break
        if not going.all():
            keep = going.nonzero()[:, 0].to(model.device)
            cache.batch_select_indices(keep)
            token, mask_all, rows = token[keep], mask_all[keep], rows[going]
        ids, mask = token[:, None], torch.ones_like(token[:, None], dtype=torch.bool)
        mask_all = torch.cat([mask_all, mask], 1)
    return [_text(model, ids) for ids in said]


def _split(model: Model, ask: Ask) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of the shared prefix and the rest; no prefix where a token straddles the two."""
    whole = tuple(model.encode(ask.text))
    if not whole:
        raise PairError(f"{ask.text!r} has no tokens for {model.name}; give at least one.")
    prefix = tuple(model.encode(ask.prefix)) if ask.prefix else ()
    if len(prefix) < len(whole) and whole[: len(prefix)] == prefix:
        return prefix, whole[len(prefix) :]
    return (), whole


def _sees(model: Model, n_columns: int) -> bool:
    """Whether no attention window is shorter than a batch.

    Windows count columns, and there is padding between a shared prefix and a question.
    """
    window = getattr(model.hf.config, "sliding_window", None)
    return window is None or n_columns <= window


def _left_padded(
    model: Model, rows: Sequence[tuple[int, ...]]
) -> tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), model.tokenizer.pad_token_id or 0)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        if row:
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = True
    return ids.to(model.device), mask.to(model.device)


def _forward(
    model: Model,
    ids: Int[Tensor, "row new"],
    mask: Bool[Tensor, "row new"],
    mask_all: Bool[Tensor, "row pos"],
    cache: DynamicCache,
) -> Int[Tensor, " row"]:
    """Run new tokens and return the likeliest next one."""
    positions = (mask_all.long().cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    out = model.hf.base_model(
        input_ids=ids,
        attention_mask=mask_all.long(),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    normed = out.last_hidden_state[:, -1]
    return model.arch.logits_transform(model.unembed(normed).float()).argmax(-1)


def _ended(model: Model, ids: list[int]) -> bool:
    stop = model.hf.generation_config.eos_token_id
    ends = stop if isinstance(stop, list) else [stop]
    return ids[-1] in ends or "\n" in model.tokenizer.decode(ids).lstrip()


def _text(model: Model, ids: list[int]) -> str:
    text = model.tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip().split("\n", 1)[0]
