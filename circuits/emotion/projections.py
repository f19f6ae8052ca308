"""States seen from above: group-centred, on the two principal axes of their layer."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.data import EMOTIONS
from circuits.emotion.states import States, centred

MOST_GROUPS = 120


def shown_layers(n_layers: int, layer: int) -> tuple[int, ...]:
    """The first layer, a third, half and the end of the depth, and the reading layer."""
    return tuple(sorted({0, n_layers // 3, n_layers // 2, layer, n_layers - 1}))


def projections(found: States, layers: Sequence[int], most: int = MOST_GROUPS) -> pd.DataFrame:
    """Where the states of groups lie on the two main axes of their own layer.

    Args:
        found: complete groups, taken at even distances.
        layers: which.
        most: groups at the most.

    Returns:
        Columns ``layer``, ``text``, ``style``, ``emotion``, ``x``, ``y``.

    Source: Wang et al. 2025 (arXiv 2510.11328), projections of states by layer.
    """
    step = -(-len(found) // most)
    part = found.only(range(0, len(found), step))
    moved = centred(part.resid_post)
    rows = [
        (layer, text, style, emotion, float(point[0]), float(point[1]))
        for layer in layers
        for text, style, points in zip(
            part.texts, part.styles, _principal(moved[:, :, layer]), strict=True
        )
        for emotion, point in zip(EMOTIONS, points, strict=True)
    ]
    return pd.DataFrame(rows, columns=["layer", "text", "style", "emotion", "x", "y"])


def _principal(x: Float[Tensor, "group emotion d_model"]) -> Float[Tensor, "group emotion 2"]:
    flat = x.flatten(0, 1)
    axes = torch.linalg.svd(flat, full_matrices=False).Vh[:2]
    turned = (
        axes * axes.sum(-1, keepdim=True).sign()
    )  # a sign of its own would change from run to run
    return (flat @ turned.T).unflatten(0, x.shape[:2])
