"""Value scores of one prompt: which layers, heads and neurons raise the answer's log-probability.

Base states: the layer's input for attention, and for the FFN the stream after attention; in a
parallel block too, where that is the layer's input + attention's output.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.query_value.lens import Lens, strongest
from circuits.query_value.trace import Trace, output_rows
from interp.brief import brief

BASE = (
    "attention: the layer's input; FFN: the residual stream after attention (of parallel blocks: "
    "layer input + attention output)"
)


@brief
@dataclass(frozen=True)
class ValueNeurons:
    """The strongest value neurons of one kind, by falling score.

    Attributes:
        layer: of each.
        unit: FFN neuron, or coordinate of the heads' outputs (head x d_head + dim).
        pos: token whose value it carries; for FFN neurons the last token.
        score: log-probability increase, nats.
        coefficient: activation of the neuron; attention weight x value of an attention neuron.
    """

    layer: Int[Tensor, " neuron"]
    unit: Int[Tensor, " neuron"]
    pos: Int[Tensor, " neuron"]
    score: Float[Tensor, " neuron"]
    coefficient: Float[Tensor, " neuron"]


@brief
@dataclass(frozen=True)
class ValueScores:
    """What `value_scores` found, in nats.

    Attributes:
        layers: of whole attention layers and FFNs.
        heads: of whole heads.
        neurons: the strongest FFN neurons.
        attention_neurons: the strongest coordinates of a head's write from one token.
        projected: how many vectors went through the whole vocabulary.
    """

    layers: Float[Tensor, "sublayer layer"]
    heads: Float[Tensor, "layer head"]
    neurons: ValueNeurons
    attention_neurons: ValueNeurons
    projected: int


def lens_of(run: Trace, answer: int) -> Lens:
    """The bases of all layers: those of attention, then those of the FFNs."""
    layers = range(run.model.arch.n_layers)
    mid = torch.stack([run.mid(layer)[-1] for layer in layers])
    return Lens.of(run.model, run.final, answer, torch.cat([run.pre[:, -1], mid]))


def value_scores(run: Trace, lens: Lens, layers: Sequence[int], top: int) -> ValueScores:
    """Score layers and heads exactly, and find the `top` neurons of either kind exactly.

    Args:
        run: the prompt's run.
        lens: from `lens_of`.
        layers: where neurons are looked for.
        top: how many of either kind.
    """
    n = run.model.arch.n_layers
    writes = torch.cat([run.attn[:, -1], run.mlp[:, -1]])
    by_layer = lens.increase(writes, torch.arange(2 * n, device=writes.device))
    heads = _heads(run, lens)
    slope = lens.gradient()
    neurons, n_first = _strongest(run, lens, slope, _mlp_units(run, layers), top)
    attention, n_second = _strongest(run, lens, slope, _attention_units(run, layers), top)
    # bases, their means over the vocabulary, layers and heads; then the neurons
    projected = 6 * n + heads.numel() + n_first + n_second
    last = torch.full_like(neurons.pos, run.n_pos - 1)
    neurons = dataclasses.replace(neurons, pos=last)
    return ValueScores(by_layer.view(2, n), heads, neurons, attention, projected)


def _heads(run: Trace, lens: Lens) -> Float[Tensor, "layer head"]:
    a = run.model.arch
    rows: list[Tensor] = []
    for layer in range(a.n_layers):
        out = output_rows(run.model, "z", layer).unflatten(0, (a.n_heads, a.d_head))
        z = run.weighted_values(layer).sum(1)
        rows.append(run.out_of_attention(layer, torch.einsum("hk,hkd->hd", z, out)))
    base = torch.arange(a.n_layers, device=run.pre.device).repeat_interleave(a.n_heads)
    return lens.increase(torch.cat(rows), base).view(a.n_layers, a.n_heads)


@dataclass(frozen=True)
class _Units:
    """Neurons of one kind: a coefficient each, times a row of the output projection.

    Attributes:
        site: the projection's input.
        layers: of the coefficients.
        coefficient: FFN neurons have one place, attention neurons one a token.
        base: the lens's base of layer 0.
        key: a direction in the stream, as the projection of a layer is read with it.
        out: what rows of the projection of a layer add to the stream.
    """

    site: str
    layers: Sequence[int]
    coefficient: Float[Tensor, "layer place unit"]
    base: int
    key: Callable[[int, Float[Tensor, "1 d_model"]], Float[Tensor, "1 d_model"]]
    out: Callable[[int, Float[Tensor, "row d_model"]], Float[Tensor, "row d_model"]]


def _mlp_units(run: Trace, layers: Sequence[int]) -> _Units:
    n = run.model.arch.n_layers
    coefficient = run.neurons[list(layers), -1:]
    return _Units("mlp_post", layers, coefficient, n, run.key_at_last_mlp, run.out_of_mlp)


def _attention_units(run: Trace, layers: Sequence[int]) -> _Units:
    by_token = [run.weighted_values(layer).transpose(0, 1).flatten(1) for layer in layers]
    return _Units("z", layers, torch.stack(by_token), 0, run.key_at_attention, run.out_of_attention)


def _strongest(
    run: Trace, lens: Lens, slope: Float[Tensor, "base d_model"], units: _Units, top: int
) -> tuple[ValueNeurons, int]:
    n_places, width = units.coefficient.shape[1:]
    bounds: list[Tensor] = []
    for i, layer in enumerate(units.layers):
        key = units.key(layer, slope[units.base + layer, None])[0]
        bounds.append(units.coefficient[i] * (output_rows(run.model, units.site, layer) @ key))
    at = torch.tensor(units.layers, device=run.pre.device)

    def score(chosen: Tensor) -> Tensor:
        which, unit = chosen // (n_places * width), chosen % width
        size = units.coefficient.flatten()[chosen]
        rows = run.pre.new_zeros(len(chosen), run.pre.shape[-1])
        for i, layer in enumerate(units.layers):
            mine = which == i
            if mine.any():
                written = output_rows(run.model, units.site, layer)[unit[mine]]
                rows[mine] = units.out(layer, size[mine, None] * written)
        return lens.increase(rows, units.base + at[which])

    chosen, scores, scored = strongest(torch.stack(bounds).flatten().float(), top, score)
    layer, place = at[chosen // (n_places * width)], chosen // width % n_places
    size = units.coefficient.flatten()[chosen].float()
    return ValueNeurons(layer, chosen % width, place, scores, size), scored
