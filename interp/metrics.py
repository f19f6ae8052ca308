"""Metrics: how far the final logits favour the answer. Every definition of the toolkit is here.

A metric maps the logits at a prompt's last token to one number a row; all but `kl` and `rank`
grow as the answer becomes more likely.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from interp.errors import MetricError, did_you_mean

DEGENERATE = 1e-4
"""A mean clean-corrupt gap below this, in the metric's own unit, can localise nothing."""


@dataclass(frozen=True)
class Metric:
    """A metric and what it must be given.

    Attributes:
        name: what results and the command line call it.
        unit: of its values.
        reads: ``"answers"`` where the two answers' logits suffice, else ``"vocab"``.
        compute: (logits of answer and wrong answer, all logits, the clean run's logits) ->
            one value a row; the last two are empty where only the answers are read.
    """

    name: str
    unit: str
    reads: Literal["answers", "vocab"]
    compute: Callable[
        [Float[Tensor, "row answer"], Float[Tensor, "row vocab"], Float[Tensor, "row vocab"]],
        Float[Tensor, " row"],
    ]


def _logit_diff(answers: Tensor, logits: Tensor, clean: Tensor) -> Tensor:
    return answers[:, 0] - answers[:, 1]


def _logprob(answers: Tensor, logits: Tensor, clean: Tensor) -> Tensor:
    return answers[:, 0] - logits.logsumexp(-1)


def _prob(answers: Tensor, logits: Tensor, clean: Tensor) -> Tensor:
    return _logprob(answers, logits, clean).exp()


def _kl(answers: Tensor, logits: Tensor, clean: Tensor) -> Tensor:
    p = clean.log_softmax(-1)
    return (p.exp() * (p - logits.log_softmax(-1))).sum(-1)


def _rank(answers: Tensor, logits: Tensor, clean: Tensor) -> Tensor:
    return (logits > answers[:, :1]).sum(-1).float()


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # logit(answer) - logit(wrong answer); Zhang & Nanda 2309.16042 prefer it.
        Metric("logit_diff", "logits", "answers", _logit_diff),
        # log p(answer).
        Metric("logprob", "nats", "vocab", _logprob),
        # p(answer).
        Metric("prob", "probability", "vocab", _prob),
        # KL(clean || patched) over the vocabulary: 0 = the clean prediction.
        Metric("kl", "nats", "vocab", _kl),
        # How many tokens are likelier than the answer: 0 = the top prediction.
        Metric("rank", "tokens", "vocab", _rank),
    )
}


def metric_named(name: str) -> Metric:
    """Look a metric up.

    Raises:
        MetricError: unknown name; the message suggests the nearest.
    """
    if name in METRICS:
        return METRICS[name]
    raise MetricError(f"unknown metric {name!r}. {did_you_mean(name, METRICS)}")
