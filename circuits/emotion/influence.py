"""How far each sublayer can push the final state towards an emotion: a nudge at the last token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.allocation import Allotted
from circuits.emotion.data import EMOTIONS
from circuits.emotion.directions import STREAMS, Directions, aligned
from circuits.emotion.last_token import Change, Progress, final_states
from circuits.emotion.states import States
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.model.model import Model

PAPER_ALPHAS = (0.1, 0.3, 0.5, 0.7)
SITES_OF = {"resid_mid": "attn_out", "resid_post": "mlp_out"}
Final = Literal["stream", "normed"]


@brief
@dataclass(frozen=True)
class Influence:
    """Rise of the final state along v_ref for each unit of a nudge along a sublayer's direction.

    Attributes:
        values: of every text; sublayer 0 is attention, 1 the MLP.
        alphas: sizes of the nudges, in root mean squares of the stream, over which it is the mean.
        final: whether the final state was read before or after the final norm.
    """

    values: Float[Tensor, "text emotion sublayer layer"]
    alphas: tuple[float, ...]
    final: Final

    def weights(self, emotion: str) -> dict[Allotted, Float[np.ndarray, " layer"]]:
        """What `circuits.emotion.allocation.allocate` shares by: mean over texts, by kind."""
        attention, mlp = self.values[:, EMOTIONS.index(emotion)].mean(0).double().numpy()
        return {"neuron": mlp, "head": attention}


def influence(
    model: Model,
    prompts: Sequence[TokenPrompt],
    directions: Directions,
    scales: Float[Tensor, "sublayer layer"],
    *,
    reference: Float[Tensor, "emotion d_model"] | None = None,
    alphas: Sequence[float] = PAPER_ALPHAS,
    final: Final = "stream",
    tokens: int | None = None,
    progress: Progress | None = None,
) -> Influence:
    """Nudge every sublayer's output at the last token, one at a time, and read the final state.

    A prompt runs once; every nudge is then one token that reads its keys and values, and joins
    the batch in the layer that it changes.

    Args:
        model: the model.
        prompts: neutral ones.
        directions: what a nudge follows, turned to the side of `reference`.
        scales: root mean square of the stream after each sublayer (`stream_scales`).
        reference: v_ref; by default that of `directions`.
        alphas: sizes of the nudges in units of `scales`.
        final: read the last block's ``stream``, or as the paper does after the final norm.
        tokens: most tokens in a batch.
        progress: called with (prompts done, prompts in all).

    Source: Wang et al. 2025 (arXiv 2510.11328), sublayer influence.
    """
    to = directions.reference() if reference is None else reference
    n_layers, n = model.arch.n_layers, len(EMOTIONS)
    own = torch.stack([aligned(getattr(directions, stream), to) for stream in STREAMS], 1)
    sizes = torch.tensor(list(alphas))[:, None, None] * scales  # alpha, sublayer, layer
    nudges = torch.einsum("asl,esld->easld", sizes, own)
    variants = [
        [Change(SITES_OF[stream], layer, nudges[e, a, s, layer])]
        for e in range(n)
        for a in range(len(alphas))
        for s, stream in enumerate(STREAMS)
        for layer in range(n_layers)
    ]

    def read(x: Float[Tensor, "prompt row d_model"]) -> Float[Tensor, "prompt row emotion"]:
        return (normed(model, x) if final == "normed" else x.float().cpu()) @ to.T

    found = final_states(model, prompts, [[], *variants], tokens, progress, read)
    shape = (n, len(alphas), len(STREAMS), n_layers)
    own_rise = found[:, 1:].unflatten(1, shape).diagonal(dim1=1, dim2=-1)  # text, a, s, layer, e
    rise = (own_rise - found[:, 0][:, None, None, None]).permute(0, 4, 1, 2, 3)
    return Influence((rise / sizes).mean(2).contiguous(), tuple(alphas), final)


def stream_scales(found: States) -> Float[Tensor, "sublayer layer"]:
    """sigma: mean over prompts of the root mean square of the stream after each sublayer."""
    return torch.stack(
        [getattr(found, stream).square().mean(-1).sqrt().mean((0, 1)) for stream in STREAMS]
    )


@torch.no_grad()
def normed(model: Model, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """Final states after the final norm."""
    return model.ln_final(x.to(model.unembed_device, model.dtype)).float().cpu()
