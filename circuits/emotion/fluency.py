"""Is a reply still the model's language? Its surprise under the unmodulated model, as a ratio."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.decoding import ReadPrompts, step
from interp.model import Model

LOGITS = 2**26
"""Logits held at once."""


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
    out = np.full(len(replies), np.nan)
    longest = max((len(reply) for reply in replies), default=0)
    if not longest:
        return out
    size = max(1, LOGITS // (longest * model.unembed.weight.shape[0]))
    order = sorted(range(len(replies)), key=lambda i: len(replies[i]))
    order = [i for i in order if len(replies[i])]
    for first in range(0, len(order), size):
        part = order[first : first + size]
        out[part] = _surprise(model, read, [which[i] for i in part], [replies[i] for i in part])
    return out


def _surprise(
    model: Model, read: ReadPrompts, which: list[int], replies: list[Sequence[int]]
) -> Float[np.ndarray, " reply"]:
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
    hidden, _ = step(model, inputs, mask, read.rows(chosen), ids.shape[1] - 1)
    logits = model.arch.logits_transform(model.unembed(hidden).float())
    losses: Tensor = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), new.flatten(), reduction="none"
    )
    losses = losses.view(real.shape) * real
    return (losses.sum(1) / real.sum(1)).double().cpu().numpy()
