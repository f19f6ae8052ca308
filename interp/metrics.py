"""Metrics: how far a prediction favours the answer. Every definition of the toolkit is here.

A metric gives one number per row. Of a whole answer, with its aliases a and their tokens t:

- log p(answer) = logsumexp over a of the sum over t of log p(t | prompt, tokens of a before t);
- ``logit_diff``: log p(answer) - log p(wrong answer); of one token each, the difference of their
  two logits. What both begin with cancels. Zhang & Nanda, arXiv 2309.16042, prefer it;
- ``logprob``, ``prob``: log p(answer), and p(answer);
- ``logprob_per_token``: log p of the alias for which it is highest, per token;
- ``rank``: how many tokens greedy decoding prefers to the answer's, at that of its tokens where
  most are; of several aliases the lowest. 0: greedy decoding writes the answer. It prefers what is
  likelier and, among equals (16-bit logits often are), the lower token number;
- ``kl``: KL(clean || patched) over the vocabulary at the prompt's last token; 0: the clean
  prediction.

All but `kl` and `rank` grow as the answer becomes more likely. A function of the user's is a
metric, too.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.errors import DegenerateGap, PlanError, did_you_mean, first_line, shown

DEGENERATE = 1e-4
"""A mean clean-corrupt gap below this, in the metric's own unit, can localise nothing."""
ENTRY_POINTS = "interp.metrics"
"""Entry point group in which packages offer metrics by name."""


@brief
@dataclass(frozen=True)
class AnswerScores:
    """What a row's prediction says of whole answers; -inf and 0 where there is no such alias.

    Attributes:
        logprob: log p of each alias, in nats; for metrics that are `relative`, what all aliases
            of all answers share may be left out.
        n_tokens: how many tokens each alias has.
        rank: of each alias, the most tokens that are preferred to one of its own; ``None`` where no
            metric asks.
    """

    logprob: Float[Tensor, "row answer alias"]
    n_tokens: Int[Tensor, "row answer alias"]
    rank: Float[Tensor, "row answer alias"] | None = None

    @property
    def of_answers(self) -> Float[Tensor, "row answer"]:
        """Log p of each answer, all its aliases together."""
        return self.logprob.logsumexp(-1)


@brief
@dataclass(frozen=True)
class NextToken:
    """Predictions at the prompts' last token: logits, the clean run's, and first tokens."""

    logits: Float[Tensor, "row vocab"]
    clean: Float[Tensor, "row vocab"]
    first: Int[Tensor, "row 2"]


@brief
@dataclass(frozen=True)
class Metric:
    """A metric and what it must be given.

    Attributes:
        reads: ``"answers"`` or ``"ranks"`` where `compute` takes `AnswerScores`, ``"logits"`` or
            ``"clean"`` (also the clean run's) where it takes `NextToken`.
        n_answers: how many whole answers it reads: both, the right one, or none.
        relative: whether only differences between answers count.
        source: digest of a function's source, by which run folders know it; ``None`` where a
            function has none, empty for the toolkit's own.
    """

    name: str
    unit: str
    reads: Literal["answers", "ranks", "logits", "clean"]
    compute: Callable[[Any], Tensor]
    n_answers: int = 2
    relative: bool = False
    source: str | None = ""

    @property
    def identity(self) -> str:
        """What run folders know it by; `PlanError` for a function without a source text."""
        if self.source is None:
            raise PlanError(
                f"the metric function {self.name!r} has no source text by which a run folder "
                "could tell whether it is the same when it resumes; leave `out` away and save the "
                "result."
            )
        return f"{self.name} {self.source}".rstrip()


AnyMetric = str | Metric | Callable[..., Float[Tensor, " row"]]
"""A name in `METRICS`, of `interp.metric`, of an entry point, or ``"module:function"``; or a
function of the logits at each prompt's last token, ``[row, vocab]`` in fp32, and if it takes two
arguments of the first tokens of the pair's answer and wrong answer, ``[row, 2]``, that returns one
number per row, ``[row]``. Rows are independent of each other and may come in any order, several
prompts and cells together."""


# --- the toolkit's own -------------------------------------------------------------------------


def _logit_diff(scores: AnswerScores) -> Tensor:
    log_p = scores.of_answers
    return log_p[:, 0] - log_p[:, 1]


def _per_token(scores: AnswerScores) -> Tensor:
    return (scores.logprob[:, 0] / scores.n_tokens[:, 0].clamp(min=1)).amax(-1)


def _kl(at: NextToken) -> Tensor:
    p = at.clean.log_softmax(-1)
    return (p.exp() * (p - at.logits.log_softmax(-1))).sum(-1)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("logit_diff", "logits", "answers", _logit_diff, relative=True),
        Metric("logprob", "nats", "answers", lambda s: s.of_answers[:, 0], 1),
        Metric("logprob_per_token", "nats per token", "answers", _per_token, 1),
        Metric("prob", "probability", "answers", lambda s: s.of_answers[:, 0].exp(), 1),
        Metric("kl", "nats", "clean", _kl, 0),
        Metric("rank", "tokens", "ranks", lambda s: s.rank[:, 0].amin(-1), 1),
    )
}
NO_GRADIENT = ("kl", "rank")
"""Metrics without a gradient at the clean run."""


def with_gradient(metric: AnyMetric) -> Metric:
    """A metric to attribute by; `PlanError` where it has no gradient at the clean run."""
    chosen = as_metric(metric)
    if chosen.name in NO_GRADIENT:
        raise PlanError(
            f"{chosen.name!r} has no gradient at the clean run; use 'logit_diff', 'logprob' or "
            "'prob'."
        )
    return chosen


# --- the user's --------------------------------------------------------------------------------

F = TypeVar("F", bound=Callable[..., Any])
_registered: dict[str, tuple[Callable[..., Any], Metric]] = {}


def metric(
    name: str | None = None, unit: str | None = None, reads: Literal["logits", "answers"] = "logits"
) -> Callable[[F], F]:
    """Decorator: make a function a metric, which may then be given by its name or itself.

    Args:
        name: by default the function's own.
        unit: of its values, for tables and axes; by default ``"<name> units"``.
        reads: ``"logits"``: the function takes the logits at the prompts' last token ``[row,
            vocab]`` in fp32 and, if it has a second argument, the first tokens of answer and wrong
            answer ``[row, 2]``; ``"answers"``: the log-probabilities of both whole answers
            ``[row, 2]``, in nats. It returns one number per row, ``[row]``; where it is
            differentiable, attribution takes it, too.

    Raises:
        PlanError: the name is another metric's; the function takes other arguments.
    """

    def register(function: F) -> F:
        made = _of_function(function, name, unit, reads)
        before, _ = _registered.get(made.name, (function, made))
        if (before.__module__, before.__qualname__) != (function.__module__, function.__qualname__):
            raise PlanError(
                f"there is a metric {made.name!r} already, of {before.__module__}; give another "
                "name."
            )
        _registered[made.name] = (function, made)
        return function

    return register


def as_metric(given: AnyMetric) -> Metric:
    """A metric by its name, or made of a function, whose name results record.

    Raises:
        PlanError: unknown name (the message suggests the nearest), a module or function that
            cannot be imported; or a function that takes neither one nor two arguments, has no
            name of its own (lambda, partial), or the name of a metric in `METRICS`.
    """
    if isinstance(given, Metric):
        return given
    if isinstance(given, str):
        return _named(given)
    if not callable(given):
        raise PlanError(
            f"metric is {shown(given, 80)}; give one of {', '.join(METRICS)}, or a function of the "
            "logits."
        )
    own = (made for function, made in _registered.values() if function is given)
    return next(own, None) or _of_function(given)


def refuse_no_gap(
    metric: Metric,
    clean: Float[np.ndarray, " pair"],
    corrupt: Float[np.ndarray, " pair"],
    ids: Sequence[str],
) -> None:
    """`DegenerateGap` where nothing can be localised between two means of a metric over pairs."""
    high, low = float(clean.mean()), float(corrupt.mean())
    if not abs(high - low) >= DEGENERATE:
        raise DegenerateGap(
            f"degenerate clean/corrupt gap: mean {metric.name} is {high:.6g} on clean and "
            f"{low:.6g} on corrupt prompts ({len(ids)} pairs, first {ids[0]!r}); choose pairs or a "
            "metric that tell them apart."
        )


def _named(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    if name in _registered:
        return _registered[name][1]
    offered = entry_points()
    if name not in offered and ":" not in name:
        known = [*METRICS, *_registered, *offered]
        raise PlanError(f"unknown metric {name!r}. {did_you_mean(name, known)}")
    try:
        if name in offered:
            found: Any = offered[name].load()
        else:
            module, _, attribute = name.partition(":")
            found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, str):
            raise TypeError("it is text")
    except Exception as error:  # the user's own module
        raise PlanError(
            f"cannot load the metric {shown(name, 80)} ({first_line(error)}); name a function "
            "as module:function, of a module that Python finds."
        ) from error
    return as_metric(found)


def entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """The metrics that installed packages offer, by name."""
    return {one.name: one for one in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _of_function(
    given: Callable[..., Any], name: str | None = None, unit: str | None = None, reads: str = ""
) -> Metric:
    own: str = getattr(given, "__name__", type(given).__name__)
    if name is None and (own == "<lambda>" or isinstance(given, functools.partial)):
        raise PlanError(
            "the metric is a lambda or a partial function, which has no name that results could "
            "tell it by; name the function (def)."
        )
    name = own if name is None else name
    if name in METRICS:
        raise PlanError(
            f"the metric function is named {name!r}, as a metric of the toolkit is; rename it, so "
            "that results tell them apart."
        )
    if reads not in ("", "logits", "answers"):
        raise PlanError(f"a metric cannot read {shown(reads)}; it reads 'logits' or 'answers'.")
    n_arguments = _n_arguments(given, name, 1 if reads == "answers" else 2)

    def compute(at: Any) -> Tensor:
        if isinstance(at, AnswerScores):
            taken = (at.of_answers,)
        else:
            taken = (at.logits, at.first)[:n_arguments]
        values: Any = given(*taken)
        if not isinstance(values, Tensor) or values.shape != taken[0].shape[:1]:
            found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise PlanError(
                f"the metric function {name!r} returned {found} for {len(taken[0])} rows; it must "
                f"return one number per row, a tensor of shape ({len(taken[0])},)."
            )
        return values.float()

    what, n = ("answers", 2) if reads == "answers" else ("logits", 0)
    return Metric(name, unit or f"{name} units", what, compute, n, source=_source(given))


def _source(function: Callable[..., Any]) -> str | None:
    """Digest of the file that defines a function, else of its own text, if there is any."""
    try:
        text = inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):
        try:
            text = inspect.getsource(function)
        except (OSError, TypeError):
            return None
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _n_arguments(given: Callable[..., Any], name: str, most: int) -> int:
    """1 or 2, at `most`; a function that needs others is refused."""
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
    if not 1 <= needed <= most or by_name:
        also = f" and needs {', '.join(by_name)} by name" if by_name else ""
        takes = "the logits [row, vocab], or the logits and the answers' token ids [row, 2]"
        takes = "the log-probabilities of both answers [row, 2]" if most == 1 else takes
        raise PlanError(
            f"the metric function {name!r} takes {needed} arguments{also}; it must take {takes}."
        )
    return needed
