"""What neurons, heads and sublayers do for an emotion: scores, and influence by perturbation.

Neurons are scored analytically. A head's score is exact zeroing, and still costs no forward: only
its own layer's stream at the last token is read, so the head's output is taken off what was seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.emotion.directions import STREAMS, Directions, aligned
from circuits.emotion.states import States
from circuits.emotion.texts import EMOTIONS
from interp.attribution.estimators import with_fixed_scale
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import PlanError
from interp.forward.blocks import head_writes, norm, projection, weight_of
from interp.interventions.last_token import final_states
from interp.interventions.plan import Add, Plan
from interp.model.model import Model
from interp.progress import Progress

ScoreKind = Literal["paper", "centred"]
Part = Literal["neurons", "heads"]
PARTS: tuple[Part, ...] = get_args(Part)
AT_ONCE = 512
"""Prompts whose heads are zeroed together."""


@brief
@dataclass(frozen=True)
class ComponentScores:
    """Scores of all components for all emotions; larger is more of the emotion.

    Of neurons the mean contribution to the direction after the block, of heads the mean loss along
    the direction after attention when the head is zeroed.
    """

    neurons: Float[Tensor, "emotion layer neuron"]
    heads: Float[Tensor, "emotion layer head"]

    def of(self, part: Part) -> Float[Tensor, "emotion layer unit"]:
        """Those of the neurons or of the heads."""
        return self.neurons if part == "neurons" else self.heads


def component_scores(
    model: Model, found: States, directions: Directions
) -> dict[ScoreKind, ComponentScores]:
    """Score every component, from states alone.

    ``paper``: the mean over an emotion's own prompts (Wang et al. 2025, arXiv 2510.11328, neuron
    and head attribution); heads are scored, as released, on what the MLP reads after its norm,
    which parallel blocks do not have. ``centred``: minus the mean over all emotions' prompts of the
    same texts, each read along the same direction, so what a component always writes does not
    count; heads are read on the stream itself.
    """
    own = torch.arange(len(EMOTIONS))
    neurons = neuron_table(model, found, directions)
    heads = head_table(model, found, directions)
    parallel = model.parts(0).parallel
    paper_heads = heads if parallel else head_table(model, found, directions, normed=True)
    return {
        "paper": ComponentScores(neurons[own, own], paper_heads[own, own]),
        "centred": ComponentScores(*(t[own, own] - t.mean(0) for t in (neurons, heads))),
    }


def neuron_table(
    model: Model, found: States, directions: Directions
) -> Float[Tensor, "prompt_emotion direction layer neuron"]:
    """Mean contribution of each neuron under each emotion's prompts along each direction.

    A neuron contributes a_n (W_out^T v)_n; a post-norm's scale is that of the prompt, held fixed,
    so the contributions to a direction sum to what the MLP adds, an output bias aside.
    """
    out: list[Tensor] = []
    for layer in range(model.arch.n_layers):
        a = found.mlp_post[:, :, layer]  # group, emotion, neuron
        scale, weight = post_norm(model, "mlp_post", layer, a.flatten(0, 1))
        mean = (a * scale.unflatten(0, a.shape[:2])[..., None]).mean(0)
        v = directions.resid_post[:, layer] * weight
        out.append(mean[:, None] * (v @ weight_of(model, "mlp_post", layer).detach().float().cpu()))
    return torch.stack(out, 2)


def post_norm(
    model: Model, site: str, layer: int, x: Float[Tensor, "row width"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, " d_model"]]:
    """How a norm on a sublayer's output scales each row's writes: by scale[row] * weight.

    Where there is none, by the block's own multiplier alone; in every family such norms are
    root-mean-square norms.
    """
    parts = model.parts(layer)
    path, times = (
        (parts.ln1_post, parts.attn_scale) if site == "z" else (parts.ln2_post, parts.mlp_scale)
    )
    if path is None:
        return torch.full((len(x),), times), torch.ones(model.arch.d_model)
    with torch.no_grad():
        module = projection(model, site, layer)
        total = torch.cat([module(part) for part in _chunks(model, x)])[None]
        ones = torch.ones_like(total)
        factors = with_fixed_scale(model, norm(model, layer, path), total, ones)[0].float().cpu()
    weight = factors[0]
    return times * (factors @ weight) / (weight @ weight), weight


def head_table(
    model: Model, found: States, directions: Directions, normed: bool = False
) -> Float[Tensor, "prompt_emotion direction layer head"]:
    """Mean loss, over groups, of each head zeroed under each emotion's prompts."""
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
    """What a state loses along directions v when each head of its own layer is zeroed: s - s'.

    With `normed`, s is what the MLP reads, after its norm, instead of the stream after attention.

    Raises:
        PlanError: `normed` for a model whose attention and MLP run in parallel.
    """
    parts = model.parts(layer)
    if normed and parts.parallel:
        raise PlanError(
            f"{model.name} runs attention and MLP in parallel, so nothing normed follows its "
            "attention; score heads with normed=False."
        )
    post, read = norm(model, layer, parts.ln1_post), norm(model, layer, parts.ln2)
    out: list[Tensor] = []
    for rows, mid in zip(_chunks(model, z), _chunks(model, resid_mid), strict=True):
        flat = rows.flatten(-2)
        total = projection(model, "z", layer)(flat)
        own = head_writes(model, layer, flat[:, None])[:, :, 0]  # row, head, d_model
        lost = parts.attn_scale * (post(total)[:, None] - post(total[:, None] - own))
        if normed:
            lost = read(mid)[:, None] - read(mid[:, None] - lost)
        out.append(torch.einsum("rhd,ed->reh", lost.float().cpu(), v))
    return torch.cat(out)


def _chunks(model: Model, x: Float[Tensor, "row ..."]) -> Iterator[Float[Tensor, "part ..."]]:
    for part in x.split(AT_ONCE):
        yield part.to(model.device, model.dtype)


SITES_OF = {"resid_mid": "attn_out", "resid_post": "mlp_out"}


@brief
@dataclass(frozen=True)
class Influence:
    """Rise of the final state along v_ref per unit of perturbation along a sublayer's direction.

    Sublayer 0 is attention, 1 the MLP; it is the mean over perturbations of several sizes.
    """

    values: Float[Tensor, "text emotion sublayer layer"]

    def of(self, emotion: str) -> dict[Part, Float[np.ndarray, " layer"]]:
        """Mean over texts, by the kind of component that the sublayer holds."""
        attention, mlp = self.values[:, EMOTIONS.index(emotion)].mean(0).double().numpy()
        return {"neurons": mlp, "heads": attention}


def influence(
    model: Model,
    prompts: Sequence[TokenPrompt],
    directions: Directions,
    scales: Float[Tensor, "sublayer layer"],
    *,
    alphas: Sequence[float] = (0.3,),
    final: Literal["stream", "normed"] = "stream",
    progress: Progress | None = None,
) -> Influence:
    """Perturb every sublayer's output at the last token, one at a time; read the final state.

    Args:
        model: the model.
        prompts: neutral ones.
        directions: what a perturbation follows, on the side of the reference direction v_ref.
        scales: root mean square of the stream after each sublayer (`stream_scales`).
        alphas: sizes of the perturbations in units of `scales`.
        final: read the last block's ``stream``, or as the paper does after the final norm.
        progress: called with (prompts done, prompts in all).

    Source: Wang et al. 2025 (arXiv 2510.11328), sublayer influence.
    """
    to, n = directions.reference(), len(EMOTIONS)
    own = torch.stack([aligned(getattr(directions, stream), to) for stream in STREAMS], 1)
    sizes = torch.tensor(list(alphas))[:, None, None] * scales  # alpha, sublayer, layer
    nudges = torch.einsum("asl,esld->easld", sizes, own)
    plans = [
        Plan.of(Add(SITES_OF[stream], nudge, layers=layer, positions="last"))
        for of_emotion in nudges
        for of_size in of_emotion
        for stream, of_stream in zip(STREAMS, of_size, strict=True)
        for layer, nudge in enumerate(of_stream)
    ]

    def along(x: Float[Tensor, "prompt row d_model"]) -> Float[Tensor, "prompt row emotion"]:
        return (normed(model, x) if final == "normed" else x.float().cpu()) @ to.T

    found = final_states(model, prompts, [Plan(), *plans], progress, along)
    shape = (n, len(alphas), len(STREAMS), model.arch.n_layers)
    own_rise = found[:, 1:].unflatten(1, shape).diagonal(dim1=1, dim2=-1)  # text, a, s, layer, e
    rise = (own_rise - found[:, 0][:, None, None, None]).permute(0, 4, 1, 2, 3)
    return Influence((rise / sizes).mean(2).contiguous())


def stream_scales(found: States) -> Float[Tensor, "sublayer layer"]:
    """Mean over prompts of the root mean square of the stream after each sublayer."""
    return torch.stack(
        [getattr(found, stream).square().mean(-1).sqrt().mean((0, 1)) for stream in STREAMS]
    )


@torch.no_grad()
def normed(model: Model, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """Final states after the final norm."""
    return model.ln_final(x.to(model.unembed_device, model.dtype)).float().cpu()
