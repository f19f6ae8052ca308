"""Value scores of one prompt: which layers, heads and neurons raise the answer's log-probability.

Base states: the layer's input for attention, and for the FFN the stream after attention; in a
parallel block too, where that is the layer's input + attention's output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from circuits.query_value.lens import LOGITS_AT_ONCE, Lens, scaled, strongest
from circuits.query_value.trace import TOLERANCE, Trace, output_rows
from interp.brief import brief
from interp.errors import PlanError

BASE = (
    "attention: the layer's input; FFN: the residual stream after attention (of parallel blocks: "
    "layer input + attention output)"
)


@brief
@dataclass(frozen=True)
class ValueNeurons:
    """The strongest value neurons of one kind, by falling score.

    Attributes:
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
    """Scores in nats of whole attention layers and FFNs, whole heads, and the strongest neurons.

    Attributes:
        attention_neurons: coordinates of a head's write from one token.
        projected: how many vectors went through the whole vocabulary.
    """

    layers: Float[Tensor, "sublayer layer"]
    heads: Float[Tensor, "layer head"]
    neurons: ValueNeurons
    attention_neurons: ValueNeurons
    projected: int


def lens_of(run: Trace, answer: int) -> Lens:
    """The bases of all layers: those of attention, then those of the FFNs."""
    mid = torch.stack([run.mid(layer)[-1] for layer in range(run.model.arch.n_layers)])
    return Lens.of(run, answer, torch.cat([run.pre[:, -1], mid]))


def value_scores(run: Trace, lens: Lens, layers: Sequence[int], top: int) -> ValueScores:
    """Score layers and heads exactly, and find the `top` neurons of either kind in `layers`."""
    n = run.model.arch.n_layers
    writes = torch.cat([run.attn[:, -1], run.mlp[:, -1]])
    by_layer = lens.increase(writes, torch.arange(2 * n, device=writes.device))
    heads, slope = _heads(run, lens), lens.gradient()
    neurons, n_first = _strongest(run, lens, slope, "mlp_post", layers, top)
    attention, n_second = _strongest(run, lens, slope, "z", layers, top)
    # bases, their means over the vocabulary, layers and heads; then the neurons
    projected = 6 * n + heads.numel() + n_first + n_second
    return ValueScores(by_layer.view(2, n), heads, neurons, attention, projected)


def _heads(run: Trace, lens: Lens) -> Float[Tensor, "layer head"]:
    a = run.model.arch
    rows: list[Tensor] = []
    for layer in range(a.n_layers):
        out = output_rows(run.model, "z", layer).unflatten(0, (a.n_heads, a.d_head))
        z = run.weighted_values(layer).sum(1)
        rows.append(run.out("z", layer, torch.einsum("hk,hkd->hd", z, out)))
    base = torch.arange(a.n_layers, device=run.pre.device).repeat_interleave(a.n_heads)
    return lens.increase(torch.cat(rows), base).view(a.n_layers, a.n_heads)


def _strongest(
    run: Trace,
    lens: Lens,
    slope: Float[Tensor, "base d_model"],
    site: str,
    layers: Sequence[int],
    top: int,
) -> tuple[ValueNeurons, int]:
    """The strongest units of a projection: a coefficient each, times a row of its weight."""
    if site == "mlp_post":
        size, first = run.neurons[list(layers), -1:], run.model.arch.n_layers
    else:
        by_token = [run.weighted_values(layer).transpose(0, 1).flatten(1) for layer in layers]
        size, first = torch.stack(by_token), 0
    n_places, width = size.shape[1:]  # (layer, place, unit): one place per token of attention
    bounds: list[Tensor] = []
    for i, layer in enumerate(layers):
        read = run.key(site, layer, slope[first + layer, None])[0]
        bounds.append(size[i] * (output_rows(run.model, site, layer) @ read))
    at = torch.tensor(layers, device=run.pre.device)

    def score(chosen: Tensor) -> Tensor:
        which, unit = chosen // (n_places * width), chosen % width
        rows = run.pre.new_zeros(len(chosen), run.pre.shape[-1])
        for i, layer in enumerate(layers):
            mine = which == i
            if mine.any():
                written = output_rows(run.model, site, layer)[unit[mine]]
                rows[mine] = run.out(site, layer, size.flatten()[chosen[mine], None] * written)
        return lens.increase(rows, first + at[which])

    chosen, scores, scored = strongest(torch.stack(bounds).flatten().float(), top, score)
    layer, place = at[chosen // (n_places * width)], chosen // width % n_places
    pos = torch.full_like(place, run.n_pos - 1) if site == "mlp_post" else place
    return ValueNeurons(layer, chosen % width, pos, scores, size.flatten()[chosen].float()), scored


# --- every neuron ------------------------------------------------------------------------------


def every_neuron(
    runs: Sequence[Trace], answers: Sequence[int], layers: Sequence[int]
) -> Float[Tensor, "prompt layer neuron"]:
    """Log-probability increase of every FFN neuron at its prompt's last token, exactly, in nats.

    ``W_U S w_k``, what neuron k writes as the vocabulary sees it, does not depend on the prompt but
    for a factor: the norms' scales and the neuron's coefficient. So each neuron is projected once
    for all prompts, and a prompt adds one exponential per neuron and token of the vocabulary.

    Raises:
        PlanError: a norm's maps at two prompts differ by more than a factor.
    """
    model = runs[0].model
    final = _factors(scaled, runs)
    found: list[Tensor] = []
    with torch.no_grad():
        for layer in layers:
            size = torch.stack([run.neurons[layer, -1] for run in runs])
            factor = final
            if model.parts(layer).ln2_post is not None:
                factor = final * _factors(lambda run, x, at=layer: run.out("mlp_post", at, x), runs)
            written = runs[0].out("mlp_post", layer, output_rows(model, "mlp_post", layer))
            rows = scaled(runs[0], written)
            asked = zip(runs, answers, strict=True)
            lenses = [Lens.of(run, answer, run.mid(layer)[-1:]) for run, answer in asked]
            found.append(_layer(lenses, rows, (size * factor[:, None]).float()))
    return torch.stack(found, 1)


def _layer(
    lenses: Sequence[Lens],
    rows: Float[Tensor, "neuron d_model"],
    size: Float[Tensor, "prompt neuron"],
) -> Float[Tensor, "prompt neuron"]:
    out = torch.zeros_like(size)
    unembedding = lenses[0].run.model.unembedding
    step = max(1, LOGITS_AT_ONCE // len(unembedding))
    # small enough to stay in the cache between the product, the exponential and the sum
    few = max(1, step // 8)
    change = unembedding.new_empty(few, len(unembedding), dtype=torch.float32)
    for lo in range(0, len(rows), step):
        seen = linear(rows[lo : lo + step], unembedding).float()
        for i, lens in enumerate(lenses):
            p = lens.log_p[0].exp()
            for first in range(0, len(seen), few):
                part, at = seen[first : first + few], lo + first
                own = torch.mul(part, size[i, at : at + len(part), None], out=change[: len(part)])
                answer, most = own[:, lens.answer].clone(), own.amax(-1, keepdim=True)
                total = own.sub_(most).exp_() @ p
                out[i, at : at + len(part)] = answer - most[:, 0] - total.log()
    return out


def _factors(apply: Callable[[Trace, Tensor], Tensor], runs: Sequence[Trace]) -> Tensor:
    """By what factor each run's linear map is that of the first run."""
    x = runs[0].final[None]
    mapped = torch.cat([apply(run, x) for run in runs])
    factor = mapped @ mapped[0] / mapped[0].square().sum()
    error = (mapped - factor[:, None] * mapped[0]).norm(dim=1) / mapped.norm(dim=1)
    if float(error.max()) > TOLERANCE:
        raise PlanError(
            f"{runs[0].model.name}: a norm's linear part is not the same up to a factor at two "
            "prompts, so its neurons cannot be projected together; use the `top` neurons."
        )
    return factor
