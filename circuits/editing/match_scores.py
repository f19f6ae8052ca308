"""Match scores: how strongly an edit would act at other prompts, known before it is made.

The *match score* of keys K at another prompt's key k is tau(k) = 1^T (K^T M K + lambda)^-1 K^T M k:
about 1 at the prompts it is made of, 0 where keys are foreign. A closed form writes its target
times tau; neurons write it where tau / beta, beta standing for the constant 1, is above a
threshold. An edit propagates where other questions through the same fact match it, and does harm
where questions about something else match.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.editing.change import Place
from circuits.editing.fact import Fact, PreservedQuestion
from circuits.editing.fact_prompts import (
    EditPrompt,
    begun_targets,
    contrasts,
    edit_prompts,
    preserved_prompts,
)
from circuits.editing.keys import keys_at
from circuits.editing.methods import Neurons, Stage
from circuits.editing.moments import Moments
from circuits.editing.neurons import queries
from circuits.editing.solver import KeyMetric, solve
from interp.brief import brief
from interp.errors import DataError
from interp.model.model import Model
from interp.statistics import auroc

FALSE_ALARMS = 0.1
"""Part of the questions to be left alone at which value neurons may be half active."""


@brief
@dataclass(frozen=True)
class Propagation:
    """Where an edit of one fact should act, and where not.

    Attributes:
        through: prompts whose answer goes through the fact, other than those it is learnt from.
        others: prompts of the same relation that do not.
        single: single facts to be left alone, too.
    """

    fact: Fact
    through: tuple[EditPrompt, ...]
    others: tuple[EditPrompt, ...]
    preserved: tuple[PreservedQuestion, ...] = ()
    single: tuple[EditPrompt, ...] = ()


@brief
@dataclass(frozen=True)
class MatchScores:
    """Match scores by fact and layer, mean over each fact's prompts.

    Attributes:
        through, others: of the prompts at which an edit should and should not act.
        separation: probability that a prompt of the first kind has the larger score (AUROC).
        threshold: score that a part of `FALSE_ALARMS` of the second kind is above, single facts
            among them.
    """

    layers: tuple[int, ...]
    through: Float[np.ndarray, "fact layer"]
    others: Float[np.ndarray, "fact layer"]
    separation: Float[np.ndarray, " layer"]
    threshold: Float[np.ndarray, " layer"]


def match_scores(
    model: Model,
    facts: Sequence[Propagation],
    stage: Stage | Neurons,
    moments: Moments,
    layers: Sequence[int],
) -> MatchScores:
    """Match scores of the changes that a stage would make in some layers, one fact at a time.

    Raises `DataError` where a fact has no prompts of one of the kinds.
    """
    for one in facts:
        if not one.through or not one.others:
            raise DataError(f"{one.fact.cloze!r} lacks prompts that it should change, or not.")
    parts = [part for one in facts for part in _prompts(model, one, stage)]
    rows = [prompt for part in parts for prompt in part]
    places: list[Place] = [(site_of(stage), layer) for layer in layers]
    keys = keys_at(model, rows, places)
    by_layer: list[tuple[list[float], list[float], float, float]] = []
    for place in places:
        metric = KeyMetric(stage.metric, moments[place])
        through, others, rest = list[Tensor](), list[Tensor](), list[Tensor]()
        split = iter(keys[place].split([len(part) for part in parts]))
        for fact in facts:
            scores = _scores(metric, stage, next(split), next(split), next(split))
            through.append(scores[: len(fact.through)])
            rest.append(scores[len(fact.through) :])
            others.append(rest[-1][: len(fact.others)])
        both = torch.cat([*through, *others]).numpy()
        is_through = np.arange(len(both)) < sum(map(len, through))
        by_layer.append(
            (
                [float(s.mean()) for s in through],
                [float(s.mean()) for s in others],
                float(auroc(both, is_through)),
                float(np.quantile(torch.cat(rest).numpy(), 1 - FALSE_ALARMS)),
            )
        )
    through, others, separation, threshold = map(np.array, zip(*by_layer, strict=True))
    return MatchScores(tuple(layers), through.T, others.T, separation, threshold)


def site_of(stage: Stage | Neurons) -> str:
    """What a stage's keys are the input of."""
    return "gate" if isinstance(stage, Neurons) else "mlp_post"


def _prompts(
    model: Model, one: Propagation, stage: Stage | Neurons
) -> tuple[list[EditPrompt], list[EditPrompt], list[EditPrompt]]:
    """One fact's prompts: those it is learnt from, those scored, those preserved."""
    fact, anchor = one.fact, stage.anchor
    learnt = [p for form in stage.forms for p in edit_prompts(model, fact, form, anchor)]
    if not learnt:
        raise DataError(f"{fact.cloze!r} has no {' or '.join(stage.forms)} prompts.")
    asked = one.preserved + (contrasts(fact, one.preserved) if stage.contrasts else ())
    preserved = preserved_prompts(model, asked, anchor)
    if isinstance(stage, Neurons) and stage.deep:
        preserved += begun_targets(learnt)
    return learnt, [*one.through, *one.others, *one.single], preserved


def _scores(
    metric: KeyMetric,
    stage: Stage | Neurons,
    learnt: Float[Tensor, "learnt d_in"],
    scored: Float[Tensor, "scored d_in"],
    preserved: Float[Tensor, "preserved d_in"],
) -> Float[Tensor, " scored"]:
    """Scores at some keys of the change solved at the learnt ones."""
    weight = stage.preserved_weight
    if isinstance(stage, Neurons):
        fact = torch.zeros(len(learnt), dtype=torch.long)
        found = queries(metric, learnt, fact, stage.rho, preserved, weight)
        return (scored.double() @ found.tau[0]) / (scored.double() @ found.beta)
    unit = torch.ones(1, len(learnt), dtype=torch.float64)
    _, down = solve(metric, learnt.T, unit, stage.rho, preserved.T, weight)
    return scored.double() @ down.sum(1)
