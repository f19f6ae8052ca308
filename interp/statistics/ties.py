"""Ties of scores: equal ones go by place, and those that rounding could turn are named."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

ROUNDINGS = 16
"""Roundings by which two CPUs' scores differ: at most 13 between AVX2 and AVX-512, 1 or 2 threads.

Measured over cells of a patched `smollm2-135m` and `gemma-3-270m`, in fp32.
"""


def first_largest(
    scores: Float[Tensor, "*row unit"], n: int
) -> tuple[Float[Tensor, "*row n"], Int[Tensor, "*row n"]]:
    """The `n` largest of each row and their places; of equal ones the first, which topk is not."""
    best = scores.topk(min(n + 1, scores.shape[-1]))
    values, places = (one[..., :n].clone() for one in best)
    tied = (best.values[..., 1:] == best.values[..., :-1]).any(-1)
    rows, into = scores[tied].view(-1, scores.shape[-1]), places[tied].view(-1, n)
    for row, own in zip(rows, into, strict=True):
        least = row[own[-1]]
        at = (~(row < least)).nonzero()[:, 0]  # one more look at few, in order of their places
        own.copy_(at[row[at].argsort(descending=True, stable=True)[:n]])
    places[tied] = into.view(places[tied].shape)
    return values, places


def rounding(scale: float, dtype: str = "float32") -> float:
    """How far scores may be apart and yet change places on another CPU: `ROUNDINGS` eps x scale.

    `scale` is the size of what is subtracted or averaged, such as the largest logit difference;
    `dtype` the format of the forward pass, such as ``"bfloat16"``. Searches may amplify it.
    """
    eps = torch.finfo(getattr(torch, dtype.removeprefix("torch."))).eps
    return ROUNDINGS * eps * abs(scale)


def near_ties(
    names: Sequence[str], scores: Sequence[float] | np.ndarray, scale: float, dtype: str = "float32"
) -> str:
    """Which scores lie within `rounding` of the largest, in words; empty where none does."""
    flat = np.nan_to_num(np.asarray(scores, float), nan=-np.inf)
    order = np.argsort(-flat, kind="stable")
    order = order[flat[order] >= flat.max(initial=-np.inf) - rounding(scale, dtype)]
    if len(order) < 2 or not np.isfinite(flat[order[0]]):
        return ""
    first, *others = (names[i] for i in order[:4])
    more = f" and {len(order) - 4} more" * (len(order) > 4)
    return f"Within rounding of {first}: {', '.join(others)}{more}."
