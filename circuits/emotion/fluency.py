"""Is a reply still the model's language? Its surprise under the unmodulated model."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.emotion.decoding import ReadPrompts, step
from interp.model.model import Model

LOGITS = 2**26
"""Logits held at once."""
ROWS = 96
"""Replies run at once, of like length."""


@torch.no_grad()
def surprise(
    model: Model, read: ReadPrompts, which: Sequence[int], replies: Sequence[Sequence[int]]
) -> Float[np.ndarray, " reply"]:
    """Mean negative log-probability of each reply's tokens, in nats, under the model as it is.

    Args:
        model: the model.
        read: the prompts that the replies are scored after; the neutral ones, for every arm.
        which: each reply's prompt.
        replies: token ids; NaN comes out for one without any.
    """
    keys = [(i, tuple(map(int, reply))) for i, reply in zip(which, replies, strict=True)]
    order = sorted({key for key in keys if key[1]}, key=lambda key: len(key[1]))
    found: dict[tuple[int, tuple[int, ...]], float] = {}
    for first in range(0, len(order), ROWS):
        part = order[first : first + ROWS]
        values = _surprise(model, read, [i for i, _ in part], [reply for _, reply in part])
        found |= zip(part, values.tolist(), strict=True)
    return np.array([found.get(key, np.nan) for key in keys])


def _surprise(
    model: Model, read: ReadPrompts, which: list[int], replies: list[tuple[int, ...]]
) -> Float[Tensor, " reply"]:
    chosen = torch.tensor(which, device=model.device)
    width = max(map(len, replies))
    new = torch.zeros(len(replies), width, dtype=torch.long, device=model.device)
    real = torch.zeros(len(replies), width, dtype=torch.bool, device=model.device)
    for row, reply in enumerate(replies):
        new[row, : len(reply)] = torch.tensor(reply)
        real[row, : len(reply)] = True
    ids, mask = read.ids[chosen], read.mask[chosen]
    # the last prompt token predicts the first of the reply; the reply's last predicts nothing here
    inputs = torch.cat([ids[:, -1:], new[:, :-1]], 1)
    mask = torch.cat([mask, real[:, :-1]], 1)
    hidden = step(model, inputs, mask, read.rows(chosen), ids.shape[1] - 1)
    losses = torch.zeros(real.shape, dtype=torch.double, device=model.device)
    losses[real] = _losses(model, hidden[real], new[real])
    return losses.sum(1) / real.sum(1)


def _losses(
    model: Model, hidden: Float[Tensor, "token d_model"], wanted: Int[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Negative log-probability of each token, a part of them at a time."""
    size = max(1, LOGITS // model.unembed.weight.shape[0])
    parts = [
        torch.nn.functional.cross_entropy(
            model.arch.logits_transform(model.unembed(states).float()), tokens, reduction="none"
        )
        for states, tokens in zip(hidden.split(size), wanted.split(size), strict=True)
    ]
    return torch.cat(parts).double()
