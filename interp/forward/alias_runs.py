"""Whole answers on models that read no trees: a run per alias, and metrics of all runs together.

A single continuation needs no mask of its own, so every causal model reads it as plain text.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from interp.data.pairs import TokenPair
from interp.metrics import AnswerScores, Metric

ALIAS = {
    "answers": Metric("log p of one alias", "nats", "answers", lambda s: s.logprob[:, 0, 0], 1),
    "ranks": Metric("rank of one alias", "tokens", "ranks", lambda s: s.rank[:, 0, 0], 1),
}
"""What is read in each run, by what the metric reads."""

OneRun = Callable[[list[TokenPair], Metric], list[np.ndarray]]
"""(pairs whose right answer is one alias, metric of it) -> arrays that begin with the pair axis."""


def by_alias(metric: Metric, pairs: Sequence[TokenPair], run: OneRun) -> list[np.ndarray]:
    """The metric's arrays, made of those of one run per alias of each answer."""
    n_answers = min(metric.n_answers, 2)
    n_aliases = max(len(own) for pair in pairs for own in pair.answers[:n_answers])
    n_tokens = torch.zeros(len(pairs), n_answers, n_aliases, dtype=torch.long)
    found: list[np.ndarray] = []
    for answer, alias in np.ndindex(n_answers, n_aliases):
        own = [pair.answers[answer] for pair in pairs]
        there = np.array([alias < len(aliases) for aliases in own])
        chosen = [aliases[min(alias, len(aliases) - 1)] for aliases in own]
        lengths = torch.tensor([len(one) for one in chosen])
        n_tokens[:, answer, alias] = lengths * torch.from_numpy(there)
        both = zip(pairs, chosen, strict=True)
        alone = [replace(pair, answers=((one,), (one,))) for pair, one in both]
        parts = run(alone, ALIAS[metric.reads])
        empty = np.inf if metric.reads == "ranks" else -np.inf
        found = found or [np.full((*x.shape, n_answers, n_aliases), empty) for x in parts]
        for whole, part in zip(found, parts, strict=True):
            whole[there, ..., answer, alias] = part[there]
    return [_computed(metric, values, n_tokens) for values in found]


def _computed(metric: Metric, values: np.ndarray, n_tokens: Tensor) -> np.ndarray:
    """The metric of values with the axes pair, …, answer and alias."""
    rows = torch.from_numpy(values).flatten(0, -3)
    own = n_tokens.repeat_interleave(len(rows) // len(n_tokens), 0)
    scores = AnswerScores(rows, own, rows if metric.reads == "ranks" else None)
    return metric.compute(scores).double().numpy().reshape(values.shape[:-2])
