"""What is read from an ablated run: a metric, accuracy, or the perplexity of neutral text.

- ``accuracy``: 1 where no other candidate answer is likelier than the right one, both whole; a
  candidate that begins with the right answer, or the right answer with it, is no other;
- ``vocab_accuracy``: 1 where greedy decoding writes the answer (rank 0);
- ``nll``: mean negative log-likelihood, in nats per token, of a window of neutral text; its
  perplexity is exp of the mean over windows.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.ablation.rows import Read
from interp.data.answers import Aliases, AnswerTable, continuation
from interp.data.pairs import AnswerMode, TokenPair
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, PlanError, did_you_mean
from interp.forward.packed import Pack
from interp.forward.readout import LOGITS_AT_ONCE, measure
from interp.metrics import METRICS, AnswerScores, AnyMetric, Metric, as_metric
from interp.model.model import Model


def _accuracy(scores: AnswerScores) -> Tensor:
    """The right answer against those behind the wrong one."""
    log_p = scores.of_answers
    return (log_p[:, 2:] <= log_p[:, :1]).all(1).float()


def _vocab_accuracy(scores: AnswerScores) -> Tensor:
    assert scores.rank is not None
    return (scores.rank[:, 0].amin(-1) == 0).float()


READOUTS: Mapping[str, Metric] = {
    **METRICS,
    "accuracy": Metric(
        "accuracy", "right answers", "answers", _accuracy, sys.maxsize, relative=True
    ),
    "vocab_accuracy": Metric("vocab_accuracy", "right answers", "ranks", _vocab_accuracy, 1),
}
Readouts = Mapping[str, Metric]
"""What is read, by name; `accuracy` reads all answers of a row."""

WINDOW = 64
"""Tokens in a window of neutral text."""


def answer_reader(model: Model, readouts: Readouts, answers: AnswerTable) -> Read:
    """Reads the predictions of each pair's answers."""

    def read(hidden: Tensor, pack: Pack, pair: Tensor) -> dict[str, np.ndarray]:
        # the first rows are the pairs unablated, in order
        resid = hidden[pack.read.to(hidden.device)]
        own, clean = answers[pair], resid[pair.to(resid.device), 0]
        return {
            name: measure(model, metric, resid, own, clean).double().numpy()
            for name, metric in readouts.items()
        }

    return read


def named_readouts(given: Sequence[AnyMetric]) -> dict[str, Metric]:
    """Readouts by their names; `PlanError` as in `ablate`."""
    if not given:
        raise PlanError(f"there is nothing to read; choose among {', '.join(READOUTS)}.")
    found: dict[str, Metric] = {}
    for one in given:
        if isinstance(one, str) and one not in READOUTS and ":" not in one:
            try:
                metric = as_metric(one)
            except PlanError:
                raise PlanError(f"unknown readout {one!r}. {did_you_mean(one, READOUTS)}") from None
        else:
            metric = READOUTS[one] if isinstance(one, str) and one in READOUTS else as_metric(one)
        ours = READOUTS.get(metric.name, metric)
        if metric.name in (*found, "nll") or ours is not metric:
            raise PlanError(f"the readout {metric.name!r} has the name of another; rename it.")
        found[metric.name] = metric
    return found


def n_read(readouts: Readouts) -> int:
    """How many of a pair's own two answers are read."""
    return max(min(metric.n_answers, 2) for metric in readouts.values())


def read_answers(
    model: Model,
    pairs: Sequence[TokenPair],
    readouts: Readouts,
    candidates: Sequence[str] | None,
    mode: AnswerMode,
) -> list[tuple[Aliases, ...]]:
    """Of each pair the answers that readouts read: its own two and, for `accuracy`, its rivals.

    Rivals are the other `candidates`, by default all answers and wrong answers of the pairs.
    """
    n = n_read(readouts)
    if "accuracy" not in readouts:
        return [pair.answers[:n] for pair in pairs]
    if candidates is None:
        among = dict.fromkeys(aliases for pair in pairs for aliases in pair.answers)
    else:
        among = dict.fromkeys(spelt(model, pairs[0], text, mode) for text in candidates)
        every = {alias for aliases in among for alias in aliases}
        for pair in pairs:
            if not every.intersection(pair.answers[0]):
                raise DataError(
                    f"{pair.pair.where}: the answer {pair.pair.answer!r} is not among the "
                    f"{len(among)} candidates; add it, or leave the pair out."
                )
    return [(*pair.answers, *rivals(pair.answers[0], list(among))) for pair in pairs]


def spelt(model: Model, pair: TokenPair, text: str, mode: AnswerMode = "whole") -> Aliases:
    """A candidate in tokens, as it continues a pair's clean prompt."""
    tokens = continuation(model, pair.pair.clean, list(pair.clean), text, "candidate")
    return (tokens[:1] if mode == "first" else tokens,)


def rivals(right: Aliases, among: Sequence[Aliases]) -> list[Aliases]:
    """The other answers, without what begins with the right one or the right one with it."""

    def same(alias: tuple[int, ...]) -> bool:
        return any(a[: len(alias)] == alias[: len(a)] for a in right)

    return [own for own in (tuple(a for a in one if not same(a)) for one in among) if own]


def windows(model: Model, text: str) -> list[TokenPrompt]:
    """Cut a text into windows of `WINDOW` tokens, each after what every prompt starts with."""
    prefix = model.encode("")
    body = model.encode(text)[len(prefix) :]
    step = WINDOW - len(prefix)
    cut = [body[i : i + step] for i in range(0, len(body) - step + 1, step)]
    if len(cut) < 2:
        raise PlanError(
            f"the neutral text has {len(body)} tokens; give at least {2 * step} for two windows."
        )
    return [TokenPrompt((*prefix, *tokens)) for tokens in cut]


def text_reader(model: Model, text: Sequence[TokenPrompt]) -> Read:
    """Reads the mean negative log-likelihood, in nats, of windows of one length but their first."""

    def losses(resid: Tensor, tokens: Tensor) -> Float[Tensor, " token"]:
        logits = model.logits(resid)
        tokens = tokens.to(logits.device)
        return torch.nn.functional.cross_entropy(logits, tokens, reduction="none").cpu()

    def read(hidden: Tensor, pack: Pack, window: Tensor) -> dict[str, np.ndarray]:
        ids = torch.tensor([text[i].ids for i in window.tolist()])
        before = hidden.view(*ids.shape, -1)[:, :-1].flatten(0, 1)
        after = ids[:, 1:].flatten()
        step = max(1, LOGITS_AT_ONCE // model.n_vocab)
        parts = zip(before.split(step), after.split(step), strict=True)
        found = torch.cat([losses(resid, tokens) for resid, tokens in parts])
        return {"nll": found.view(len(ids), -1).double().mean(1).numpy()}

    return read
