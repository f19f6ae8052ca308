"""Contrast pairs (a positive and a negative text or chat), and the steering vector made of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.data.prompts import Positions, Prompt, TokenPrompt, as_prompts
from interp.data.records import Row, Text, checked_rows
from interp.errors import DataError, PlanError, did_you_mean, shown
from interp.interventions.binding import site_layers
from interp.interventions.steering_vector import SITE, SteeringVector, mean_states
from interp.model.model import Model

Method = Literal["mean", "pca_diff", "pca_center"]
ContrastPairs = str | Path | Iterable[tuple[Prompt, Prompt]]
"""A file as `load_contrast_pairs` takes it, or (positive, negative) texts, chats or tokens."""

LEAST = 3
"""Pairs, so that a principal component of the differences of two is left when one is held out."""
FOLDS = 10
"""Parts of the pairs that are held out in turn, at most."""

States = Float[Tensor, "pair d_model"]


class ContrastRow(Row):
    """A line of a file of contrast pairs: two texts, or two chats as lists of messages."""

    positive: Text | list[dict[str, Any]]
    negative: Text | list[dict[str, Any]]


def load_contrast_pairs(source: str | Path) -> list[tuple[Prompt, Prompt]]:
    """Contrast pairs of a JSONL or JSON file, each with ``positive`` and ``negative``.

    Raises:
        DataError: the file or a row cannot be used; the row is named.
    """
    rows = checked_rows(ContrastRow, source, "contrast pairs")
    return [(row.positive, row.negative) for row in rows]


def steering_vector(
    model: Model,
    pairs: ContrastPairs,
    layers: int | Sequence[int] | None = None,
    *,
    method: Method = "mean",
    at: Positions = "last",
) -> SteeringVector:
    """A steering vector from contrast pairs, for each of some layers.

    Args:
        model: the model.
        pairs: (positive, negative) texts, chats or token prompts, or a file of them.
        layers: the blocks behind which the residual stream is read; all by default.
        method: how the direction is found. ``"mean"``: the mean difference of the pairs (Turner
            et al., arXiv 2308.10248; Rimsky et al., arXiv 2312.06681). ``"pca_diff"`` and
            ``"pca_center"`` as repeng has them (Vogel 2024, after Zou et al., arXiv 2310.01405):
            the first principal component of the differences, or of both sides after the mean of
            each pair is taken away. ``"pca_diff"`` subtracts the mean difference, so it is the
            direction in which pairs differ from each other.
        at: which tokens are read, as in `interp.activations`; the mean of several. ``"prompt"`` is
            all but the first, an attention sink, whose state is many times as large as others.

    Returns:
        v of each layer, which leads from the mean of the negative to that of the positive texts;
        for the principal components, along that direction, positive texts at its end.

    Raises:
        DataError: fewer than three pairs, or one that is not two different prompts.
        PlanError: an unknown method, layer or token, or the sides do not differ in a layer.
    """
    if method not in get_args(Method):
        raise PlanError(f"unknown method {shown(method)}. {did_you_mean(method, get_args(Method))}")
    chosen = tuple(sorted(site_layers(model, SITE, layers)[1]))
    rows = _sides(model, load_contrast_pairs(pairs) if isinstance(pairs, str | Path) else pairs)
    n = len(rows[0])
    states = mean_states(model, [*rows[0], *rows[1]], chosen, at)
    positive, negative = states[:n].transpose(0, 1), states[n:].transpose(0, 1)
    found = [_vector(*side, method) for side in zip(positive, negative, strict=True)]
    ordered = [_in_order(*side, method) for side in zip(positive, negative, strict=True)]
    origins = [
        v * (side.mean(0) @ v) / v.square().sum() for v, side in zip(found, negative, strict=True)
    ]
    return SteeringVector(
        torch.stack(found).float(),
        chosen,
        model.name,
        str(model.hf.config.model_type),
        method,
        n,
        torch.stack(origins).float(),
        tuple(states.norm(dim=-1).mean(0).tolist()),
        tuple(ordered),
    )


def _sides(
    model: Model, pairs: Iterable[tuple[Prompt, Prompt]]
) -> tuple[list[TokenPrompt], list[TokenPrompt]]:
    """The positive and the negative prompts in tokens."""
    given: list[Any] = list(pairs)
    for number, pair in enumerate(given, 1):
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise DataError(
                f"contrast pair {number} is {shown(pair, 80)}; give (positive, negative) prompts."
            )
    if len(given) < LEAST:
        raise DataError(f"there are {len(given)} contrast pairs; give {LEAST} or more.")
    positive, negative = (as_prompts(model, [pair[side] for pair in given]) for side in (0, 1))
    for number, (one, other) in enumerate(zip(positive, negative, strict=True), 1):
        if one.ids == other.ids:
            raise DataError(f"the sides of contrast pair {number} are the same; give two prompts.")
    return positive, negative


def _vector(positive: States, negative: States, method: Method) -> Float[Tensor, " d_model"]:
    """The direction, as long as the mean difference of the sides along it."""
    apart = positive - negative
    mean = apart.mean(0)
    if method == "mean":
        return mean
    # both sides of a centred pair are +/- half its difference, whose mean is zero
    spread = apart - mean if method == "pca_diff" else apart
    if spread.norm() <= 1e-9 * apart.norm():
        return torch.zeros_like(mean)  # pairs that all differ alike: there is no component
    direction = torch.linalg.svd(spread, full_matrices=False).Vh[0]
    return direction * (mean @ direction)


def _in_order(positive: States, negative: States, method: Method) -> int:
    """In how many pairs the positive state is further along a direction made of other pairs."""
    n = len(positive)
    fold: Int[Tensor, " pair"] = torch.arange(n) % min(FOLDS, n)
    right = 0
    for number in fold.unique().tolist():
        held = fold == number
        v = _vector(positive[~held], negative[~held], method)
        right += int(((positive - negative)[held] @ v > 0).sum())
    return right
