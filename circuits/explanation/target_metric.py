"""What is explained: a prompt, alone or against a corrupt one, and the metric of its target.

Targets of a prompt alone, and single ones, are logits less their mean over the vocabulary, summed
over the target's tokens: linear in the logits, so that all of it can be attributed. Differences
between a clean and a corrupt prompt's answers are the toolkit's ``logit_diff``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.explanation.prompt_record import PromptRecord
from interp.attribution.contrast import Contrast
from interp.brief import brief
from interp.data.alignment import align
from interp.data.answers import Aliases, continuation
from interp.data.pairs import AnswerMode, Pair, TokenPair
from interp.data.prompts import TokenPrompt, pairs_of, prompt
from interp.data.token_batch import TokenBatch, aligned_batch
from interp.errors import DataError, PlanError, shown
from interp.forward.continuations import record_batch, resid_at_nodes
from interp.forward.readout import LOGITS_AT_ONCE, chosen_logits, measure
from interp.metrics import AnyMetric, as_metric, with_gradient
from interp.model.model import Model
from interp.statistics.ties import first_largest

Target = str | tuple[str, str] | int | None
"""A text of one or more tokens, two whose difference counts, so many likeliest tokens, or
``None``: a pair's answers, else the likeliest token."""
Parts = Callable[[Float[Tensor, "row pos d_model"], Int[Tensor, " row"]], Float[Tensor, "row part"]]
"""(residual stream after the last block, zeros) -> what each logits node adds to the metric."""


@brief
@dataclass(frozen=True)
class ExplainedPrompt:
    """A prompt ready to be explained; positions count its tokens, and then the target's.

    Attributes:
        contrast: it and the corrupt prompt, or itself where there is none.
        paired: whether there is a corrupt prompt.
        columns: the column of the contrast's batch in which each position lies.
        n_prompt: how many positions are the prompt's own.
        parts: the metric by logits node; it sums to what `contrast.read` gives.
        labels: the token or tokens that each logits node stands for.
        record: from which it can be read again.
    """

    contrast: Contrast
    paired: bool
    columns: Int[Tensor, " pos"]
    n_prompt: int
    tokens: tuple[str, ...]
    corrupt_tokens: tuple[str, ...]
    target: str
    metric: str
    unit: str
    parts: Parts
    labels: tuple[str, ...]
    record: PromptRecord


def explained_prompt(
    model: Model,
    given: Any,
    target: Target = None,
    corrupt: Any = None,
    metric: AnyMetric | None = None,
    answers: AnswerMode = "whole",
) -> ExplainedPrompt:
    """Read a prompt and its target; arguments and errors as in `explain`."""
    pair, paired, own = _as_pair(model, given, corrupt, target, answers)
    if metric is not None and (not paired or not own):
        raise PlanError(
            "a metric can be chosen for the answers of a clean and a corrupt prompt only; leave "
            "`metric` out, or give `corrupt` and a target of two answers."
        )
    if own and paired:
        return _prepared(model, pair, paired, as_metric(metric or "logit_diff").name, metric)
    if target is None or isinstance(target, int):
        return _prepared(model, pair, paired, f"top {1 if target is None else target}")
    return _prepared(model, pair, paired, f"centred {1 if isinstance(target, str) else 2}")


def recorded_prompt(model: Model, record: PromptRecord) -> ExplainedPrompt:
    """A recorded prompt, read again; `PlanError` where its metric has no name to find it by."""
    roles = [(role, i) for i, role in enumerate(record.roles) if role]
    spans = {name: tuple(i for role, i in roles if role == name) for name, _ in roles}
    named, partner = Pair("prompt", *record.texts, "", ""), record.partner
    pair = TokenPair(named, record.clean, record.corrupt, record.answers, spans, {}, partner)
    return _prepared(model, pair, record.paired, record.reads)


# --- prompts and targets in tokens -------------------------------------------------------------


def _as_pair(
    model: Model, given: Any, corrupt: Any, target: Target, answers: AnswerMode
) -> tuple[TokenPair, bool, bool]:
    """The pair, whether its sides differ, and whether two answers are what is compared."""
    found = pairs_of(model, [given], answers)
    if found is not None:
        if corrupt is not None:
            raise DataError("a pair has a corrupt prompt of its own; leave `corrupt` out.")
        pair = found[0]
        if target is None:
            return pair, True, True
        texts = pair.pair.clean, pair.pair.corrupt
        prompts = [TokenPrompt(pair.clean, {}, texts[0]), TokenPrompt(pair.corrupt, {}, texts[1])]
    else:
        prompts = [_read(model, one) for one in (given, corrupt) if one is not None]
        sides = [one.ids for one in (prompts[0], prompts[-1])]
        if corrupt is not None and sides[0] == sides[1]:
            raise DataError("the corrupt prompt has the tokens of the prompt; leave it out.")
        partner = align(sides[0], sides[1], prompts[0].spans, prompts[-1].spans)
        named = Pair("prompt", prompts[0].text, prompts[-1].text, "", "")
        spans, others = prompts[0].spans, prompts[-1].spans
        pair = TokenPair(named, sides[0], sides[1], ((), ()), spans, others, partner)
    both = None
    if not (target is None or isinstance(target, int)):
        wanted = (target,) if isinstance(target, str) else target
        if len(wanted) not in (1, 2):
            raise DataError(f"the target is {shown(target)}; give one text, or two to compare.")
        both = tuple(_aliases(model, prompts, text, answers) for text in wanted)
        if len(both) == 2:
            _refuse_alike(model, both)
        pair = replace(pair, answers=(both[0], both[-1]))
    return pair, len(prompts) == 2, both is not None and len(both) == 2


def _read(model: Model, given: Any) -> TokenPrompt:
    found = given if isinstance(given, TokenPrompt) else prompt(model, given)
    if not found.ids:
        raise DataError("the prompt has no tokens; give at least one.")
    return found


def _aliases(
    model: Model, prompts: Sequence[TokenPrompt], text: str, answers: AnswerMode
) -> Aliases:
    if not isinstance(text, str) or not text.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"the target is {shown(text)}; give the text that follows the prompt.")
    if not all(one.text for one in prompts):
        raise DataError("a prompt given in tokens alone has no text that a target could continue.")
    found = {continuation(model, one.text, one.ids, text, "target") for one in prompts}
    if len(found) > 1:
        raise DataError(f"target {shown(text)} is other tokens behind the corrupt prompt.")
    tokens = found.pop()
    return (tokens[:1] if answers == "first" else tokens,)


def _refuse_alike(model: Model, both: Sequence[Aliases]) -> None:
    (a,), (b,) = both
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        texts = [shown("".join(map(model.token, one))) for one in (a, b)]
        raise DataError(f"the targets {texts[0]} and {texts[1]} begin with the same {n} tokens.")


# --- metrics -----------------------------------------------------------------------------------

Made = tuple[TokenBatch, Parts, str, str, str, tuple[str, ...]]
"""The batch; the metric by part, its target, name and unit; and the parts' labels."""


def _by_metric(model: Model, pair: TokenPair, metric: AnyMetric) -> Made:
    chosen = with_gradient(metric)
    tokens = aligned_batch(model, [pair], chosen.n_answers)

    def parts(resid: Tensor, row: Tensor) -> Tensor:
        at = resid[:, tokens.columns[0].to(resid.device)]
        return measure(model, chosen, at, tokens.answers[torch.zeros_like(row)])[:, None]

    right, wrong = (_text(model, aliases) for aliases in pair.answers)
    named = f"{right} - {wrong}" if chosen.n_answers == 2 else right
    return tokens, parts, named, chosen.name, chosen.unit, (named,)


def _centred(model: Model, pair: TokenPair, signs: Sequence[float]) -> Made:
    """Sums of logits less their mean over the vocabulary, of one answer or less another's."""
    tokens = aligned_batch(model, [pair], len(signs))
    table = tokens.answers.only(len(signs))
    real = table.real[0]
    places, wanted = table.node[0][real], table.token[0][real]
    sign = torch.tensor(signs)[:, None, None].expand(real.shape)[real]

    def parts(resid: Tensor, row: Tensor) -> Tensor:
        columns = tokens.columns[0][places]
        return (_centred_logits(model, resid, columns, wanted) * sign).sum(1, keepdim=True)

    texts = [_text(model, aliases) for aliases in pair.answers[: len(signs)]]
    named, name = " - ".join(texts), "logit" if len(signs) == 1 else "logit_diff"
    return tokens, parts, named, name, "logits", (named,)


def _top(model: Model, pair: TokenPair, n: int) -> Made:
    """The likeliest tokens' logits less the mean, weighted by their probabilities among them."""
    if not 1 <= n <= model.n_vocab:
        raise PlanError(f"target={n} is not a number of tokens; give 1 to {model.n_vocab}.")
    blank: Aliases = ((0,),)
    tokens = aligned_batch(model, [replace(pair, answers=(blank, blank))], 1)
    last = tokens.columns[0, 0]
    with torch.no_grad():
        p = model.logits(resid_at_nodes(model, tokens)[0, :1])[0].softmax(-1)
    best, wanted = (one.cpu() for one in first_largest(p, n))
    weights = best / best.sum()

    def parts(resid: Tensor, row: Tensor) -> Tensor:
        return _centred_logits(model, resid, last.expand(n), wanted) * weights

    labels = tuple(repr(model.token(i)) for i in wanted.tolist())
    named = labels[0] if n == 1 else f"the {n} likeliest tokens ({', '.join(labels[:3])}, …)"
    return tokens, parts, named, "logit", "logits", labels


def _centred_logits(
    model: Model,
    resid: Float[Tensor, "row pos d_model"],
    columns: Int[Tensor, " token"],
    wanted: Int[Tensor, " token"],
) -> Float[Tensor, "row token"]:
    """Logits of tokens, each predicted at a column, less the mean over the vocabulary; on CPU.

    In fp32: rounded to 16 bits, a logit would hide what most single nodes do to it. Of the mean,
    so many roundings leave nothing.
    """
    places, line = columns.unique(return_inverse=True)
    flat = resid[:, places.to(resid.device)].flatten(0, 1)
    step = max(1, LOGITS_AT_ONCE // model.n_vocab)
    means = [model.logits(rows).mean(-1) for rows in flat.split(step)]
    at = (torch.arange(len(resid))[:, None] * len(places) + line).flatten()
    own = chosen_logits(model, flat, at.to(flat.device), wanted.repeat(len(resid)))
    centred = own - torch.cat(means)[at.to(own.device)]
    return centred.view(len(resid), -1).cpu()


def _text(model: Model, aliases: Aliases) -> str:
    return repr("".join(map(model.token, aliases[0])))


def _prepared(
    model: Model, pair: TokenPair, paired: bool, reads: str, metric: AnyMetric | None = None
) -> ExplainedPrompt:
    """A pair and what is read of it: ``"top N"``, ``"centred N"``, or a metric's name."""
    kind, _, n = reads.partition(" ")
    if kind == "top":
        made = _top(model, pair, int(n))
    elif kind == "centred":
        made = _centred(model, pair, (1.0, -1.0)[: int(n)])
    else:
        made = _by_metric(model, pair, metric or reads)
    tokens, parts, target, name, unit, labels = made
    calls = record_batch(model, tokens)
    mask = tokens.mask[0::2].cpu()
    within = torch.arange(mask.shape[1]) <= tokens.columns[0, 0]
    own = (mask & within).to(tokens.mask.device)
    contrast = Contrast(calls, own, lambda resid, row: parts(resid, row).sum(1))
    columns = mask[0].nonzero()[:, 0]
    texts = [[model.token(i) for i in row] for row in tokens.ids.tolist()]
    other = tokens.mask[1].cpu().tolist()
    corrupt = tuple(texts[1][i] if other[i] else "" for i in columns.tolist()) if paired else ()
    return ExplainedPrompt(
        contrast=contrast,
        paired=paired,
        columns=columns,
        n_prompt=len(pair.clean),
        tokens=tuple(texts[0][i] for i in columns.tolist()),
        corrupt_tokens=corrupt,
        target=target,
        metric=name,
        unit=unit,
        parts=parts,
        labels=labels,
        record=PromptRecord(
            clean=pair.clean,
            corrupt=pair.corrupt,
            answers=pair.answers,
            partner=pair.partner,
            paired=paired,
            reads=reads,
            roles=pair.roles,
            texts=(pair.pair.clean, pair.pair.corrupt),
        ),
    )
