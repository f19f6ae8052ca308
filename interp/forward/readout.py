"""From final residual streams to metric values, computing only the logits a metric reads."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.metrics import Metric
from interp.model.model import Model

LOGITS_AT_ONCE = 2**26
"""How many full-vocabulary logits are held at a time (256 MB in fp32)."""


def measure(
    model: Model,
    metric: Metric,
    resid: Float[Tensor, "row d_model"],
    answers: Int[Tensor, "row 2"],
    clean_resid: Float[Tensor, "row d_model"],
) -> Float[Tensor, " row"]:
    """A metric's value for each row, in fp32, from final residual streams at its last position.

    `answers` are each row's answer and wrong answer; `clean_resid` is the clean run's stream, for
    metrics that compare with it.
    """
    if metric.reads == "answers":
        pair = answer_logits(model, resid, answers)
        empty = pair[:, :0]
        return metric.compute(pair, empty, empty, answers).cpu()
    step = max(1, LOGITS_AT_ONCE // model.n_vocab)
    values: list[Tensor] = []
    for part, clean, pair in zip(
        resid.split(step), clean_resid.split(step), answers.split(step), strict=True
    ):
        logits = model.logits(part)
        reference = model.logits(clean) if metric.name == "kl" else logits
        tokens = pair.to(logits.device)
        values.append(metric.compute(logits.gather(1, tokens), logits, reference, tokens).cpu())
    return torch.cat(values)


def answer_logits(
    model: Model, resid: Float[Tensor, "row d_model"], answers: Int[Tensor, "row 2"]
) -> Float[Tensor, "row 2"]:
    """Logits of each row's two answers: their unembedding rows alone are multiplied, in fp32."""
    weight, device = model.unembedding, model.unembed_device
    normed = model.ln_final(resid.to(device)).float()
    tokens, index = answers.to(device).unique(return_inverse=True)
    logits = normed @ weight[tokens].float().T
    bias: Tensor | None = getattr(model.unembed, "bias", None)
    if bias is not None:
        logits = logits + bias[tokens].float()
    return model.arch.logits_transform(logits).gather(1, index)
