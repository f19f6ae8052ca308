"""Metrics: how far the final logits favour the answer. Every definition of the toolkit is here.

A metric maps the logits at a prompt's last token to one number per row; all but `kl` and `rank`
grow as the answer becomes more likely. A function of the user's is one, too.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from interp.brief import brief
from interp.errors import PlanError, did_you_mean, shown

DEGENERATE = 1e-4
"""A mean clean-corrupt gap below this, in the metric's own unit, can localise nothing."""


@brief
@dataclass(frozen=True)
class Metric:
    """A metric and what it must be given.

    `reads` is ``"answers"`` where the two answers' logits suffice. `compute` takes the logits of
    answer and wrong answer ``[row, 2]``, all logits and the clean run's ``[row, vocab]`` (empty
    where only answers are read) and both answers' token ids ``[row, 2]``; it returns ``[row]``.
    """

    name: str
    unit: str
    reads: Literal["answers", "vocab"]
    compute: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


AnyMetric = str | Callable[..., Float[Tensor, " row"]]
"""A name in `METRICS`; or a function of the logits at each prompt's last token, ``[row, vocab]`` in
fp32, and if it takes two arguments of the token ids of the pair's answer and wrong answer,
``[row, 2]``, that returns one number per row, ``[row]``. Rows are independent of each other and may
come in any order, several prompts and cells together."""


def _kl(answers: Tensor, logits: Tensor, clean: Tensor, tokens: Tensor) -> Tensor:
    p = clean.log_softmax(-1)
    return (p.exp() * (p - logits.log_softmax(-1))).sum(-1)


def _logprob(answers: Tensor, logits: Tensor, *_: Tensor) -> Tensor:
    return answers[:, 0] - logits.logsumexp(-1)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # logit(answer) - logit(wrong answer); Zhang & Nanda 2309.16042 prefer it.
        Metric("logit_diff", "logits", "answers", lambda a, *_: a[:, 0] - a[:, 1]),
        # log p(answer) and p(answer).
        Metric("logprob", "nats", "vocab", _logprob),
        Metric("prob", "probability", "vocab", lambda *given: _logprob(*given).exp()),
        # KL(clean || patched) over the vocabulary: 0 = the clean prediction.
        Metric("kl", "nats", "vocab", _kl),
        # How many tokens are likelier than the answer: 0 = the top prediction.
        Metric("rank", "tokens", "vocab", lambda a, x, *_: (x > a[:, :1]).sum(-1).float()),
    )
}


def as_metric(given: AnyMetric) -> Metric:
    """A metric by its name, or made of a function, whose name results record.

    Raises:
        PlanError: unknown name (the message suggests the nearest); or a function that takes
            neither one nor two arguments, has no name of its own (lambda, partial), or the
            name of a metric in `METRICS`.
    """
    if isinstance(given, str):
        if given not in METRICS:
            raise PlanError(f"unknown metric {given!r}. {did_you_mean(given, METRICS)}")
        return METRICS[given]
    if not callable(given):
        raise PlanError(
            f"metric is {shown(given, 80)}; give one of {', '.join(METRICS)}, or a function of the "
            "logits."
        )
    name = getattr(given, "__name__", type(given).__name__)
    if name == "<lambda>" or isinstance(given, functools.partial):
        raise PlanError(
            "the metric is a lambda or a partial function, which has no name that results could "
            "tell it by; name the function (def)."
        )
    if name in METRICS:
        raise PlanError(
            f"the metric function is named {name!r}, as a metric of the toolkit is; rename it, so "
            "that results tell them apart."
        )
    n_arguments = _n_arguments(given, name)

    def compute(answers: Tensor, logits: Tensor, clean: Tensor, tokens: Tensor) -> Tensor:
        values: Any = given(logits) if n_arguments == 1 else given(logits, tokens)
        if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
            found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise PlanError(
                f"the metric function {name!r} returned {found} for {len(logits)} rows; it must "
                f"return one number per row, a tensor of shape ({len(logits)},)."
            )
        return values.float()

    return Metric(name, f"{name} units", "vocab", compute)


def _n_arguments(given: Callable[..., Any], name: str) -> int:
    """1 or 2; a function that needs others is refused."""
    try:
        parameters = inspect.signature(given).parameters.values()
    except (ValueError, TypeError):  # compiled functions have none
        raise PlanError(
            f"the metric function {name!r} does not say what it takes; wrap it in a function of "
            "the logits [row, vocab]."
        ) from None
    required = [p for p in parameters if p.default is p.empty]
    needed = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in required)
    by_name = [p.name for p in required if p.kind is p.KEYWORD_ONLY]
    if needed not in (1, 2) or by_name:
        also = f" and needs {', '.join(by_name)} by name" if by_name else ""
        raise PlanError(
            f"the metric function {name!r} takes {needed} arguments{also}; it must take the logits "
            "[row, vocab], or the logits and the answers' token ids [row, 2]."
        )
    return needed
