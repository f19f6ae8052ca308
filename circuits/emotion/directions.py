"""`Directions`: where each emotion points in the residual stream, and reading states by them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from circuits.emotion.states import States, centred
from circuits.emotion.texts import EMOTIONS

STREAMS = ("resid_mid", "resid_post")
WINDOW = (0.75, 0.89)
"""Depths between which the reference direction is taken: layers 21 to 25 of 28 in the paper."""
MOST_GROUPS = 120
"""Groups in a figure of states."""


@dataclass(frozen=True)
class Directions:
    """A unit vector for each emotion in each layer, after attention and after the block.

    They are the mean over `styles`, and come from `n_groups` complete groups.
    """

    resid_mid: Float[Tensor, "emotion layer d_model"]
    resid_post: Float[Tensor, "emotion layer d_model"]
    styles: tuple[str, ...]
    n_groups: int

    @classmethod
    def of(cls, found: States) -> "Directions":
        """Group-centred mean difference of each style, each of unit length, averaged over styles.

        With one style these are the paper's directions. Styles count alike however large their
        states are, so what they share outweighs what is one style's own, such as the word.

        Source: Wang et al. 2025 (arXiv 2510.11328), emotion directions.
        """
        return cls.pooled(list(cls.by_style(found).values()))

    @classmethod
    def by_style(cls, found: States) -> dict[str, "Directions"]:
        """The directions of each style alone."""
        out: dict[str, Directions] = {}
        for style in dict.fromkeys(found.styles):
            own = found.of_style(style)
            mid, post = (unit(centred(getattr(own, site)).mean(0)) for site in STREAMS)
            out[style] = cls(mid, post, (style,), len(own))
        return out

    @classmethod
    def pooled(cls, several: Sequence["Directions"]) -> "Directions":
        """The unit mean of directions, such as those of two styles out of three."""
        mid, post = (
            unit(torch.stack([getattr(one, site) for one in several]).sum(0)) for site in STREAMS
        )
        styles = tuple(style for one in several for style in one.styles)
        return cls(mid, post, styles, sum(one.n_groups for one in several))

    def read(
        self,
        x: Float[Tensor, "... layer d_model"],
        origin: Float[Tensor, "layer d_model"] | None = None,
    ) -> Int[Tensor, "... layer"]:
        """The emotion whose direction a state is nearest to, as its place in `EMOTIONS`.

        An origin, such as a neutral state, is subtracted; by default states are read as groups:
        the axis before the last two is that of the emotions, whose mean is subtracted.
        """
        return nearest(
            x - (x.mean(-3, keepdim=True) if origin is None else origin), self.resid_post
        )

    def similarity(self, layer: int) -> Float[Tensor, "to from"]:
        """Cosines between the emotions in one layer; centring alone makes their mean -1/5."""
        own = self.resid_post[:, layer]
        return own @ own.T

    def reference(self) -> Float[Tensor, "emotion d_model"]:
        """v_ref: the unit sum of the directions of both streams in `WINDOW`.

        Those that oppose the first of them are reversed.

        Source: Wang et al. 2025 (arXiv 2510.11328), reference direction.
        """
        first, last = window_layers(self.resid_mid.shape[1])
        both = torch.stack([self.resid_mid, self.resid_post], 2)[:, first : last + 1].flatten(1, 2)
        return unit(aligned(both, both[:, 0]).sum(1))

    def __repr__(self) -> str:
        n = self.resid_post.shape[1]
        return f"Directions({len(EMOTIONS)} emotions, {n} layers, {', '.join(self.styles)})"


def nearest(
    x: Float[Tensor, "... layer d_model"], vectors: Float[Tensor, "emotion layer d_model"]
) -> Int[Tensor, "... layer"]:
    """The vector to which a state has the largest cosine, by its place, in each layer."""
    return torch.einsum("...ld,eld->...le", unit(x), unit(vectors)).argmax(-1)


def unit(x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """Vectors of unit length; the zero vector stays."""
    return normalize(x, dim=-1, eps=1e-12)


def aligned(
    x: Float[Tensor, "emotion place d_model"], to: Float[Tensor, "emotion d_model"]
) -> Float[Tensor, "emotion place d_model"]:
    """Vectors, reversed where they oppose another one."""
    against = torch.einsum("epd,ed->ep", x, to) < 0
    return torch.where(against[..., None], -x, x)


def window_layers(n_layers: int) -> tuple[int, int]:
    """First and last layer of `WINDOW`: 21 and 25 of 28."""
    low, high = (min(round(part * n_layers), n_layers - 1) for part in WINDOW)
    return low, high


def shown_layers(n_layers: int, layer: int) -> tuple[int, ...]:
    """The first layer, a third, half and the end of the depth, and the reading layer."""
    return tuple(sorted({0, n_layers // 3, n_layers // 2, layer, n_layers - 1}))


def projections(found: States, layers: Sequence[int], most: int = MOST_GROUPS) -> pd.DataFrame:
    """2-D PCA of group-centred states, of each layer alone, at most `most` groups evenly taken.

    Columns: ``layer``, ``text``, ``style``, ``emotion``, ``x``, ``y``.

    Source: Wang et al. 2025 (arXiv 2510.11328), projections of states by layer.
    """
    part = found.only(range(0, len(found), -(-len(found) // most)))
    moved = centred(part.resid_post)
    rows: list[tuple[int, str, str, str, float, float]] = []
    for layer in layers:
        points = _principal(moved[:, :, layer]).tolist()
        for text, style, group in zip(part.texts, part.styles, points, strict=True):
            rows += [(layer, text, style, e, *at) for e, at in zip(EMOTIONS, group, strict=True)]
    return pd.DataFrame(rows, columns=["layer", "text", "style", "emotion", "x", "y"])


def _principal(x: Float[Tensor, "group emotion d_model"]) -> Float[Tensor, "group emotion 2"]:
    flat = x.flatten(0, 1)
    axes = torch.linalg.svd(flat, full_matrices=False).Vh[:2]
    fixed = axes * axes.sum(-1, keepdim=True).sign()  # else signs would change from run to run
    return (flat @ fixed.T).unflatten(0, x.shape[:2])
