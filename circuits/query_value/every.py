"""Every FFN neuron's value score, exactly, for many prompts at the cost of one model projection.

``W_U S w_k``, what neuron k writes as the vocabulary sees it, does not depend on the prompt but for
a factor: the norms' scales and the neuron's coefficient. So each neuron is projected once for all
prompts, and a prompt adds one exponential a neuron and token of the vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from circuits.query_value.lens import LOGITS_AT_ONCE, Lens, scaled
from circuits.query_value.trace import TOLERANCE, Trace, output_rows
from interp.errors import PlanError


def every_neuron(
    runs: Sequence[Trace],
    answers: Sequence[int],
    layers: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "prompt layer neuron"]:
    """Log-probability increase of every neuron at its prompt's last token, in nats.

    Args:
        runs: the prompts, of one model.
        answers: token of each prompt's answer.
        layers: which layers.
        progress: called with (layers done, layers in all).

    Raises:
        PlanError: a norm's maps at two prompts differ by more than a factor.
    """
    model = runs[0].model
    final = _factors(lambda run, x: scaled(model, run.final, x), runs)
    found: list[Tensor] = []
    with torch.no_grad():
        for done, layer in enumerate(layers, 1):
            size = torch.stack([run.neurons[layer, -1] for run in runs])
            size = size * (final * _post_factors(runs, layer))[:, None]
            rows = output_rows(model, "mlp_post", layer)
            rows = scaled(model, runs[0].final, runs[0].out_of_mlp(layer, rows))
            lenses = [
                Lens.of(model, run.final, answer, run.mid(layer)[-1:])
                for run, answer in zip(runs, answers, strict=True)
            ]
            found.append(_layer(lenses, rows, size.float()))
            if progress:
                progress(done, len(layers))
    return torch.stack(found, 1)


def _layer(
    lenses: Sequence[Lens],
    rows: Float[Tensor, "neuron d_model"],
    size: Float[Tensor, "prompt neuron"],
) -> Float[Tensor, "prompt neuron"]:
    out = torch.zeros_like(size)
    unembedding = lenses[0].model.unembed.weight
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
                own = size[i, at : at + len(part), None]
                torch.mul(part, own, out=change[: len(part)])
                out[i, at : at + len(part)] = _increase(change[: len(part)], p, lens.answer)
    return out


def _increase(
    change: Float[Tensor, "neuron vocab"], p: Float[Tensor, " vocab"], answer: int
) -> Float[Tensor, " neuron"]:
    """I of changes of the logits; overwrites `change`."""
    gain, most = change[:, answer].clone(), change.amax(-1, keepdim=True)
    return gain - most[:, 0] - (change.sub_(most).exp_() @ p).log()


def _post_factors(runs: Sequence[Trace], layer: int) -> Float[Tensor, " prompt"]:
    if runs[0].model.arch.parts.ln2_post is None:
        return torch.ones(len(runs)).to(runs[0].final)
    return _factors(lambda run, x: run.out_of_mlp(layer, x), runs)


def _factors(
    apply: Callable[[Trace, Tensor], Tensor], runs: Sequence[Trace]
) -> Float[Tensor, " prompt"]:
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
