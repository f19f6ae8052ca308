"""Ties of scores: equal ones go by place, and those that rounding could turn are named."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

ROUNDINGS = 16
"""By which AVX2 and AVX-512 differ: at most 13, in patched smollm2-135m and gemma-3-270m."""
PLACE, NAMED = ("layer", "pos", "head", "neuron", "expert"), 4


def first_largest(
    scores: Float[Tensor, "*row unit"], n: int
) -> tuple[Float[Tensor, "*row n"], Int[Tensor, "*row n"]]:
    """The `n` largest of each row and their places; of equal ones the first, which topk is not."""
    best = scores.topk(min(n + 1, scores.shape[-1]))
    values, places = (one[..., :n].clone() for one in best)
    tied = (best.values[..., 1:] == best.values[..., :-1]).any(-1)
    rows, into = scores[tied].view(-1, scores.shape[-1]), places[tied].view(-1, n)
    for row, own in zip(rows, into, strict=True):
        at = (~(row < row[own[-1]])).nonzero()[:, 0]  # few, in order of their places
        own.copy_(at[row[at].argsort(descending=True, stable=True)[:n]])
    places[tied] = into.view(places[tied].shape)
    return values, places


def by_size(
    table: pd.DataFrame, column: str, over: Sequence[str], within: float
) -> tuple[pd.DataFrame, str]:
    """Rows by falling size of a column, and `near_ties` of them, named by their axes `over`.

    Equal ones come by layer, position and unit; those with names (edges, spans) as they are.
    """
    by = [-table[column].abs(), *(table[axis] for axis in PLACE if axis in over)]
    table = table.iloc[np.lexsort(by[::-1])]
    rows = table.loc[:, [*over]].head(NAMED).to_dict("records")
    names = [", ".join(f"{a} {at}" if a in PLACE else str(at) for a, at in r.items()) for r in rows]
    return table, near_ties(names, table[column].abs().to_numpy(), within)


def rounding(*values: Any, dtype: str = "float32") -> float:
    """How far scores may be apart and yet change places on another CPU: `ROUNDINGS` eps x scale.

    The scale is the largest of the `values` that are subtracted or averaged, such as logit
    differences; `dtype` the format of the forward pass, ``"bfloat16"``. Searches may amplify it.
    """
    scale = max(float(np.nanmax(np.abs(one))) for one in values)
    return ROUNDINGS * torch.finfo(getattr(torch, dtype.removeprefix("torch."))).eps * scale


def near_ties(names: Sequence[str], scores: Sequence[float] | np.ndarray, within: float) -> str:
    """Which scores lie `within` so much (`rounding`) of the largest, in words; empty if none."""
    flat = np.nan_to_num(np.asarray(scores, float), nan=-np.inf)
    order = np.argsort(-flat, kind="stable")
    order = order[flat[order] >= flat.max(initial=-np.inf) - within]
    if len(order) < 2 or not np.isfinite(flat[order[0]]):
        return ""
    first, *others = [names[int(i)] for i in order[:NAMED]]
    more = f" and {len(order) - NAMED} more" * (len(order) > NAMED)
    return f"Within rounding of {first}: {', '.join(others)}{more}."
