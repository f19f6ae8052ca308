"""`Directions`: where each emotion points in the residual stream, and reading states by them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from circuits.emotion.circuit import manifest, read_of
from circuits.emotion.data import EMOTIONS
from circuits.emotion.states import States, centred
from interp.model.model import Model
from interp.results import folder

Stream = Literal["resid_mid", "resid_post"]
STREAMS: tuple[Stream, ...] = ("resid_mid", "resid_post")
WINDOW = (0.75, 0.89)
"""Depths between which the reference direction is taken: layers 21 to 25 of 28 in the paper."""


@dataclass(frozen=True)
class Directions:
    """A unit vector for each emotion in each layer, in the stream after either sublayer.

    Attributes:
        resid_mid: after attention.
        resid_post: after the block.
        styles: the styles that they are the mean of.
        n_groups: the complete groups that they come from.
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
        own = [found.of_style(style) for style in dict.fromkeys(found.styles)]
        return cls.pooled([cls._of_style(one) for one in own])

    @classmethod
    def _of_style(cls, found: States) -> "Directions":
        mid, post = (unit(centred(getattr(found, site)).mean(0)) for site in STREAMS)
        return cls(mid, post, found.styles[:1], len(found))

    @classmethod
    def pooled(cls, several: Sequence["Directions"]) -> "Directions":
        """The unit mean of directions, such as those of two styles out of three."""
        mid, post = (
            unit(torch.stack([getattr(one, site) for one in several]).sum(0)) for site in STREAMS
        )
        styles = tuple(style for one in several for style in one.styles)
        return cls(mid, post, styles, sum(one.n_groups for one in several))

    def cosines(
        self, x: Float[Tensor, "... layer d_model"], stream: Stream = "resid_post"
    ) -> Float[Tensor, "... layer emotion"]:
        """Cosine of states with each emotion's direction of their layer."""
        return torch.einsum("...ld,eld->...le", normalize(x, dim=-1), getattr(self, stream))

    def read(
        self,
        x: Float[Tensor, "... layer d_model"],
        origin: Float[Tensor, "layer d_model"] | None = None,
        stream: Stream = "resid_post",
    ) -> Int[Tensor, "... layer"]:
        """The emotion whose direction a state is nearest to, as its place in `EMOTIONS`.

        Args:
            x: states.
            origin: what is taken off them, such as a neutral state; by default they are read as
                groups: the axis before the last two is that of the emotions, whose mean goes.
            stream: which directions.
        """
        moved = x - (x.mean(-3, keepdim=True) if origin is None else origin)
        return self.cosines(moved, stream).argmax(-1)

    def similarity(self, layer: int, stream: Stream = "resid_post") -> Float[Tensor, "to from"]:
        """Cosines between the emotions in one layer; centring alone makes their mean -1/5."""
        own = getattr(self, stream)[:, layer]
        return own @ own.T

    def along(self, emotion: int) -> Float[Tensor, "place other"]:
        """Cosines between the places of one emotion: attention 0, MLP 0, attention 1, ..."""
        places = torch.stack([self.resid_mid[emotion], self.resid_post[emotion]], 1).flatten(0, 1)
        return places @ places.T

    def reference(self, window: tuple[float, float] = WINDOW) -> Float[Tensor, "emotion d_model"]:
        """v_ref: the unit sum of the directions of both streams in a window of depth.

        Those that oppose the first of them are turned round.

        Source: Wang et al. 2025 (arXiv 2510.11328), reference direction.
        """
        first, last = window_layers(self.resid_mid.shape[1], window)
        both = torch.stack([self.resid_mid, self.resid_post], 2)[:, first : last + 1].flatten(1, 2)
        return unit(aligned(both, both[:, 0]).sum(1))

    def save(self, path: str | Path, model: Model, note: Mapping[str, Any] | None = None) -> Path:
        """Write a folder that names the model's weights."""
        arrays = {site: getattr(self, site).numpy() for site in STREAMS}
        said = {"styles": list(self.styles), "n_groups": self.n_groups} | dict(note or {})
        about = manifest("emotion directions", model.name, model.weights_hash)
        return folder.write(Path(path), about | said, {}, arrays)

    @classmethod
    def load(cls, path: str | Path, model: Model) -> "Directions":
        """Read what `save` wrote.

        Raises:
            PlanError: they are of other weights.
            RunFolderError: the folder is missing or damaged.
        """
        read, arrays = read_of(Path(path), "emotion directions", model)
        with folder.reading(path):
            mid, post = (torch.from_numpy(arrays[site]) for site in STREAMS)
            return cls(mid, post, tuple(read["styles"]), read["n_groups"])

    def __repr__(self) -> str:
        n = self.resid_post.shape[1]
        return f"Directions({len(EMOTIONS)} emotions, {n} layers, {', '.join(self.styles)})"


def unit(x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """Vectors of unit length; the zero vector stays."""
    return normalize(x, dim=-1, eps=1e-12)


def aligned(
    x: Float[Tensor, "emotion place d_model"], to: Float[Tensor, "emotion d_model"]
) -> Float[Tensor, "emotion place d_model"]:
    """Vectors turned round where they oppose another one."""
    against = torch.einsum("epd,ed->ep", x, to) < 0
    return torch.where(against[..., None], -x, x)


def window_layers(n_layers: int, window: tuple[float, float] = WINDOW) -> tuple[int, int]:
    """First and last layer of a window of depth: 21 and 25 of 28 by default."""
    low, high = (min(round(part * n_layers), n_layers - 1) for part in window)
    return low, high
