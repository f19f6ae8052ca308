"""Metrics: how far the final logits favour the answer. Every definition of the toolkit is here.

A metric maps the logits at a prompt's last token to one number per row; all but `kl` and `rank`
grow as the answer becomes more likely. A function of the user's is one, too.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.errors import PlanError, did_you_mean, shown

DEGENERATE = 1e-4
"""A mean clean-corrupt gap below this, in the metric's own unit, can localise nothing."""


@brief
@dataclass(frozen=True)
class Metric:
    """A metric and what it must be given.

    Attributes:
        name: what results and the command line call it.
        unit: of its values.
        reads: ``"answers"`` where the two answers' logits suffice, else ``"vocab"``.
        compute: (logits of answer and wrong answer, all logits, the clean run's logits, token ids
            of both answers) -> one value per row; all logits and the clean run's are empty where
            only the answers are read.
    """

    name: str
    unit: str
    reads: Literal["answers", "vocab"]
    compute: Callable[
        [
            Float[Tensor, "row answer"],
            Float[Tensor, "row vocab"],
            Float[Tensor, "row vocab"],
            Int[Tensor, "row answer"],
        ],
        Float[Tensor, " row"],
    ]


AnyMetric = str | Callable[..., Float[Tensor, " row"]]
"""A name in `METRICS`; or a function of the logits at each prompt's last token, ``[row, vocab]`` in
fp32, and if it takes two arguments of the token ids of the pair's answer and wrong answer,
``[row, 2]``, that returns one number per row, ``[row]``. Rows are independent of each other and may
come in any order, several prompts and cells together."""


def _logit_diff(answers: Tensor, logits: Tensor, clean: Tensor, tokens: Tensor) -> Tensor:
    return answers[:, 0] - answers[:, 1]


def _logprob(answers: Tensor, logits: Tensor, clean: Tensor, tokens: Tensor) -> Tensor:
    return answers[:, 0] - logits.logsumexp(-1)


def _prob(answers: Tensor, logits: Tensor, clean: Tensor, tokens: Tensor) -> Tensor:
    return _logprob(answers, logits, clean, tokens).exp()


def _kl(answers: Tensor, logits: Tensor, clean: Tensor, tokens: Tensor) -> Tensor:
    p = clean.log_softmax(-1)
    return (p.exp() * (p - logits.log_softmax(-1))).sum(-1)


def _rank(answers: Tensor, logits: Tensor, clean: Tensor, tokens: Tensor) -> Tensor:
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


def as_metric(given: AnyMetric) -> Metric:
    """A metric by its name, or made of a function, whose name results record.

    Raises:
        PlanError: unknown name (the message suggests the nearest); or a function that takes
            neither one nor two arguments, has no name of its own (lambda, partial), or the
            name of a metric in `METRICS`.
    """
    if isinstance(given, str):
        if given in METRICS:
            return METRICS[given]
        raise PlanError(f"unknown metric {given!r}. {did_you_mean(given, METRICS)}")
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
    return Metric(name, f"{name} units", "vocab", _checked(given, name))


def _checked(given: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    """The user's function in the form of `Metric.compute`; what it returns is checked."""
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

    def compute(answers: Tensor, logits: Tensor, clean: Tensor, tokens: Tensor) -> Tensor:
        values = given(logits) if needed == 1 else given(logits, tokens)
        if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
            found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise PlanError(
                f"the metric function {name!r} returned {found} for {len(logits)} rows; it must "
                f"return one number per row, a tensor of shape ({len(logits)},)."
            )
        return values.float()

    return compute
