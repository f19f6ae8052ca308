"""What is read from an ablated run: a metric, accuracy, or the perplexity of neutral text.

- ``accuracy``: 1 where no other candidate answer has a higher logit than the right one;
- ``vocab_accuracy``: 1 where no token at all has (rank 0);
- ``nll``: mean negative log-likelihood, in nats per token, of a window of neutral text; its
  perplexity is exp of the mean over windows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.ablation.rows import Read
from interp.data.answers import AnswerTable, single_token
from interp.data.pairs import TokenPair
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, PlanError, did_you_mean
from interp.forward.packed import Pack
from interp.forward.readout import LOGITS_AT_ONCE, answer_logits, measure
from interp.metrics import METRICS, AnyMetric, Metric, as_metric
from interp.model.model import Model

UNITS = {metric.name: metric.unit for metric in METRICS.values()} | {
    "accuracy": "right answers",
    "vocab_accuracy": "right answers",
    "nll": "nats per token",
}
READOUTS = tuple(name for name in UNITS if name != "nll")
Functions = Mapping[str, Metric]
"""The readouts that are functions of the user's, by name."""

WINDOW = 64
"""Tokens in a window of neutral text."""


def answer_reader(
    model: Model,
    names: Sequence[str],
    functions: Functions,
    candidates: Int[Tensor, " candidate"],
    answers: AnswerTable,
) -> Read:
    """Reads the prediction at each pair's last token; `accuracy` chooses among `candidates`."""
    known = {**METRICS, **functions}

    def values(name: str, resid: Tensor, pair: Tensor) -> Float[Tensor, " row"]:
        own, last = answers[pair], resid[:, 0]
        if name == "accuracy":
            among = torch.cat([own.first[:, :1], candidates.expand(len(pair), -1)], 1)
            logits = answer_logits(model, last, among).cpu()
            return (logits[:, 1:] <= logits[:, :1]).all(1)
        metric = known["rank" if name == "vocab_accuracy" else name]
        found = measure(model, metric, resid, own, last[pair.to(resid.device)])
        return found == 0 if name == "vocab_accuracy" else found

    def read(hidden: Tensor, pack: Pack, pair: Tensor) -> dict[str, np.ndarray]:
        # the first rows are the pairs unablated, in order
        resid = hidden[pack.read.to(hidden.device)]
        return {name: values(name, resid, pair).double().numpy() for name in names}

    return read


def named_readouts(given: Sequence[AnyMetric]) -> tuple[tuple[str, ...], Functions]:
    """The names of readouts, and those of them that are functions; `PlanError` as in `ablate`."""
    if not given:
        raise PlanError(f"there is nothing to read; choose among {', '.join(READOUTS)}.")
    names = [one if isinstance(one, str) else as_metric(one).name for one in given]
    functions = {m.name: m for m in (as_metric(f) for f in given if not isinstance(f, str))}
    for name in names:
        if name in functions and (name in UNITS or names.count(name) > 1):
            raise PlanError(f"the readout function {name!r} has the name of another; rename it.")
        if name not in READOUTS and name not in functions:
            raise PlanError(f"unknown readout {name!r}. {did_you_mean(name, READOUTS)}")
    return tuple(names), functions


def unit_of(readout: str) -> str:
    """The unit of a readout's values."""
    return UNITS.get(readout, f"{readout} units")


def candidate_tokens(
    model: Model, pairs: Sequence[TokenPair], candidates: Sequence[str] | None
) -> Int[Tensor, " candidate"]:
    """The tokens among which an answer must be the likeliest; by default all of the pairs'."""
    if candidates is None:
        return torch.tensor(sorted({t for pair in pairs for t in (pair.answer, pair.wrong_answer)}))
    prompt, ids = pairs[0].pair.clean, list(pairs[0].clean)
    tokens = {single_token(model, prompt, ids, text, "candidate") for text in candidates}
    for pair in pairs:
        if pair.answer not in tokens:
            raise DataError(
                f"{pair.pair.where}: the answer {pair.pair.answer!r} is not among the "
                f"{len(tokens)} candidates; add it, or leave the pair out."
            )
    return torch.tensor(sorted(tokens))


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
