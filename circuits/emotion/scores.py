"""What each neuron and head writes along an emotion's direction, at prompts' last tokens.

Neurons are scored analytically. A head's score is exact zeroing, and still costs no forward: only
its own layer's stream at the last token is read, so the head's output is taken off what was seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.circuit import Part
from circuits.emotion.directions import Directions
from circuits.emotion.states import States
from interp.attribution.jacobians import with_fixed_scale
from interp.brief import brief
from interp.errors import PlanError
from interp.forward.blocks import head_writes, norm, weight_of
from interp.forward.projections import writer
from interp.model.model import Model

Kind = Literal["paper", "centred"]
KINDS: tuple[Kind, ...] = get_args(Kind)
AT_ONCE = 512
"""Prompts whose heads are taken off together."""


@brief
@dataclass(frozen=True)
class Scores:
    """Scores of all components for all emotions; larger is more of the emotion.

    Attributes:
        neurons: mean contribution to the direction after the block.
        heads: mean loss along the direction after attention when the head is zeroed.
    """

    neurons: Float[Tensor, "emotion layer neuron"]
    heads: Float[Tensor, "emotion layer head"]

    def of(self, part: Part) -> Float[Tensor, "emotion layer unit"]:
        """Those of the neurons or of the heads."""
        return self.neurons if part == "neurons" else self.heads


def scores(
    model: Model, found: States, directions: Directions, *, normed_heads: bool = True
) -> dict[Kind, Scores]:
    """Score every component, from states alone.

    ``paper``: the mean over an emotion's own prompts (Wang et al. 2025, arXiv 2510.11328, neuron
    and head attribution). ``centred``: less the mean over all emotions' prompts of the same
    texts, each read along the same direction, so what a component always writes does not count.

    Args:
        model: whose weights.
        found: complete groups.
        directions: where the emotions point.
        normed_heads: score ``paper`` heads as the released code does, on what the MLP reads after
            its norm; ``centred`` ones are read on the stream itself. Parallel blocks have no such
            norm after attention.

    Raises:
        PlanError: `normed_heads` for a model whose attention and MLP run in parallel.
    """
    own = torch.arange(found.resid_mid.shape[1])
    neurons = neuron_table(model, found, directions)
    heads = head_table(model, found, directions, normed=False)
    paper_heads = head_table(model, found, directions, normed=True) if normed_heads else heads
    return {
        "paper": Scores(neurons[own, own], paper_heads[own, own]),
        "centred": Scores(*(t[own, own] - t.mean(0) for t in (neurons, heads))),
    }


def neuron_table(
    model: Model, found: States, directions: Directions
) -> Float[Tensor, "prompt_emotion direction layer neuron"]:
    """Mean contribution of each neuron under each emotion's prompts along each direction."""
    out: list[Tensor] = []
    for layer in range(model.arch.n_layers):
        a = found.mlp_post[:, :, layer]  # group, emotion, neuron
        scale, gain = post_norm(model, "mlp_post", layer, a.flatten(0, 1))
        mean = (a * scale.unflatten(0, a.shape[:2])[..., None]).mean(0)
        v = directions.resid_post[:, layer] * gain
        out.append(mean[:, None] * _betas(model, layer, v))
    return torch.stack(out, 2)


def neuron_parts(
    model: Model,
    layer: int,
    mlp_post: Float[Tensor, "row neuron"],
    v: Float[Tensor, "direction d_model"],
) -> Float[Tensor, "row direction neuron"]:
    """What each neuron contributes to the MLP's output along directions: a_n (W_out^T v)_n.

    A post-norm's scale is that of the row, held fixed, so the parts of a row sum to what its MLP
    adds to the stream, an output bias aside.
    """
    scale, gain = post_norm(model, "mlp_post", layer, mlp_post)
    return (mlp_post * scale[:, None])[:, None] * _betas(model, layer, v * gain)


def _betas(
    model: Model, layer: int, v: Float[Tensor, "direction d_model"]
) -> Float[Tensor, "direction neuron"]:
    return v @ weight_of(model, "mlp_post", layer).detach().float().cpu()


def post_norm(
    model: Model, site: str, layer: int, x: Float[Tensor, "row width"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, " d_model"]]:
    """How a norm on a sublayer's output scales each row's writes: by scale[row] * gain.

    Both are 1 where there is none. Such norms are root-mean-square norms in every family that
    has them, so one factor a row is all that tells rows apart.
    """
    parts = model.arch.parts
    path = parts.ln1_post if site == "z" else parts.ln2_post
    if path is None:
        return torch.ones(len(x)), torch.ones(model.arch.d_model)
    with torch.no_grad():
        total = torch.cat([writer(model, site, layer)(part) for part in _chunks(model, x)])[None]
        ones = torch.ones_like(total)
        factors = with_fixed_scale(model, norm(model, layer, path), total, ones)[0].float().cpu()
    gain = factors[0]
    return (factors @ gain) / (gain @ gain), gain


# --- heads ---------------------------------------------------------------------------------------


def head_table(
    model: Model, found: States, directions: Directions, normed: bool
) -> Float[Tensor, "prompt_emotion direction layer head"]:
    """Mean loss, over groups, of each head zeroed under each emotion's prompts.

    Raises:
        PlanError: as `scores`.
    """
    n_groups, n = len(found), found.z.shape[1]
    out: list[Tensor] = []
    for layer in range(model.arch.n_layers):
        mid, z = found.resid_mid[:, :, layer].flatten(0, 1), found.z[:, :, layer].flatten(0, 1)
        own = head_parts(model, layer, mid, z, directions.resid_mid[:, layer], normed)
        out.append(own.unflatten(0, (n_groups, n)).mean(0))
    return torch.stack(out, 2)


@torch.no_grad()
def head_parts(
    model: Model,
    layer: int,
    resid_mid: Float[Tensor, "row d_model"],
    z: Float[Tensor, "row head d_head"],
    v: Float[Tensor, "direction d_model"],
    normed: bool = False,
) -> Float[Tensor, "row direction head"]:
    """What a state loses along directions when each head of its own layer is zeroed: s - s'.

    Args:
        model: the model.
        layer: which.
        resid_mid: the stream after attention.
        z: what the output projection reads.
        v: directions.
        normed: read what the MLP reads, after its norm, instead of the stream.

    Raises:
        PlanError: as `scores`.
    """
    parts = model.arch.parts
    if normed and parts.parallel:
        raise PlanError(
            f"{model.name} runs attention and MLP in parallel, so nothing normed follows its "
            "attention; score heads with normed_heads=False."
        )
    post, read = norm(model, layer, parts.ln1_post), norm(model, layer, parts.ln2)
    out: list[Tensor] = []
    for rows, mid in zip(_chunks(model, z), _chunks(model, resid_mid), strict=True):
        flat = rows.flatten(-2)
        total = writer(model, "z", layer)(flat)
        own = head_writes(model, layer, flat[:, None])[:, :, 0]  # row, head, d_model
        lost = post(total)[:, None] - post(total[:, None] - own)
        if normed:
            lost = read(mid)[:, None] - read(mid[:, None] - lost)
        out.append(torch.einsum("rhd,ed->reh", lost.float().cpu(), v))
    return torch.cat(out)


def _chunks(model: Model, x: Float[Tensor, "row ..."]) -> Iterator[Float[Tensor, "part ..."]]:
    for part in x.split(AT_ONCE):
        yield part.to(model.device, model.dtype)
