"""Gains: what an edit would write at other prompts, known before anything is edited.

The *gain* of keys K at another prompt's key k is tau(k) = 1^T (K^T M K + lambda)^-1 K^T M k: about
1 at the prompts it is made of, 0 where keys are foreign. A closed form writes its target times
tau; neurons write it where tau / beta, beta standing for the constant 1, is above a threshold. An
edit is useful in later reasoning where its gain reaches other questions through the same fact
(`same`), and harmless where it does not reach questions with the same relation about something
else (`other`). Both are known from forward passes of the unedited model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.editing.facts import Fact
from circuits.editing.keys import Place, keys_at
from circuits.editing.methods import Neurons, Stage
from circuits.editing.moments import Moments
from circuits.editing.neurons import queries
from circuits.editing.prompting import (
    EditPrompt,
    Kept,
    begun,
    contrasts,
    edit_prompts,
    kept_prompts,
)
from circuits.editing.solving import Metric, solve
from interp.brief import brief
from interp.errors import DataError
from interp.model.model import Model
from interp.statistics import auroc

FALSE_ALARMS = 0.1
"""Part of the questions to be left alone that value neurons may half fire at."""


@brief
@dataclass(frozen=True)
class Reach:
    """What an edit of one fact should reach, and what not.

    Attributes:
        fact: the fact.
        same: prompts whose answer goes through the fact, other than those it is learnt from.
        other: prompts of the same relation that do not.
        kept: preserved questions, as an editor is given them.
        single: single facts to be left alone, too: of the same relation, with the same old
            answer, about the same subject.
    """

    fact: Fact
    same: tuple[EditPrompt, ...]
    other: tuple[EditPrompt, ...]
    kept: tuple[Kept, ...] = ()
    single: tuple[EditPrompt, ...] = ()


@brief
@dataclass(frozen=True)
class Gains:
    """Gains by fact and layer, mean over each fact's prompts.

    Attributes:
        layers: which.
        same, other: of the prompts that should and should not be reached.
        separation: probability that a prompt of the first kind has the larger gain (AUROC).
        threshold: gain that a part of `FALSE_ALARMS` of the second kind is above, single facts
            among them.
    """

    layers: tuple[int, ...]
    same: Float[np.ndarray, "fact layer"]
    other: Float[np.ndarray, "fact layer"]
    separation: Float[np.ndarray, " layer"]
    threshold: Float[np.ndarray, " layer"]

    @property
    def selectivity(self) -> Float[np.ndarray, "fact layer"]:
        """`same` minus `other`: what is written where it belongs, less what is elsewhere."""
        return self.same - self.other


def gains(
    model: Model,
    reaches: Sequence[Reach],
    stage: Stage | Neurons,
    moments: Moments,
    layers: Sequence[int],
) -> Gains:
    """Gains that an edit of each fact in each single layer would have.

    Args:
        model: the unedited model.
        reaches: facts with the prompts to be reached and not; facts without prompts of the
            stage's forms are refused.
        stage: forms, anchor, metric, rho and weight of preserved questions; its layers do not
            matter. Keys are what its projections read: the down-projection's input of a `Stage`,
            the FFN's of `Neurons`.
        moments: of those keys in all layers scored.
        layers: which to score.

    Raises:
        DataError: a fact has no prompts of the stage's forms, or lacks prompts to reach.
    """
    learnt = [_learnt(model, reach.fact, stage) for reach in reaches]
    kept = [_kept(model, r, stage, own) for r, own in zip(reaches, learnt, strict=True)]
    for reach in reaches:
        if not reach.same or not reach.other:
            raise DataError(f"{reach.fact.cloze!r} lacks prompts to reach, or not to.")
    parts = [
        (*a, *r.same, *r.other, *r.single, *k)
        for a, r, k in zip(learnt, reaches, kept, strict=True)
    ]
    rows = [prompt for part in parts for prompt in part]
    owner = torch.zeros(len(rows), dtype=torch.long)
    same, other, separation, threshold = [], [], [], []
    places: list[Place] = [(site_of(stage), layer) for layer in layers]
    at = keys_at(model, rows, places, [()], owner)
    for place in places:
        keys = at[place].split([len(part) for part in parts])
        metric = Metric(stage.metric, moments[place])
        by_fact = [
            _gain(metric, stage, k, len(a), len(r.same), len(r.other) + len(r.single))
            for k, a, r in zip(keys, learnt, reaches, strict=True)
        ]
        beside = [b[: len(r.other)] for (_, b), r in zip(by_fact, reaches, strict=True)]
        same.append([float(s.mean()) for s, _ in by_fact])
        other.append([float(o.mean()) for o in beside])
        through, past = (torch.cat(part).numpy() for part in ([s for s, _ in by_fact], beside))
        is_through = np.repeat([True, False], [len(through), len(past)])
        separation.append(float(auroc(np.concatenate([through, past]), is_through)))
        alone = torch.cat([b for _, b in by_fact]).numpy()
        threshold.append(float(np.quantile(alone, 1 - FALSE_ALARMS)))
    means = (np.array(same).T, np.array(other).T)
    return Gains(tuple(layers), *means, np.array(separation), np.array(threshold))


def site_of(stage: Stage | Neurons) -> str:
    """What a stage's keys are the input of."""
    return "gate" if isinstance(stage, Neurons) else "mlp_post"


def _kept(
    model: Model, reach: Reach, stage: Stage | Neurons, learnt: list[EditPrompt]
) -> list[EditPrompt]:
    """What an edit is given to leave alone, as `circuits.editing.writing` has it."""
    asked = reach.kept + (contrasts(reach.fact, reach.kept) if stage.contrasts else ())
    found = kept_prompts(model, asked, stage.anchor)
    return found + (begun(learnt) if isinstance(stage, Neurons) and stage.deep else [])


def _learnt(model: Model, fact: Fact, stage: Stage | Neurons) -> list[EditPrompt]:
    found = [p for form in stage.forms for p in edit_prompts(model, fact, form, stage.anchor)]
    if not found:
        raise DataError(f"{fact.cloze!r} has no {' or '.join(stage.forms)} prompts.")
    return found


def _gain(
    metric: Metric,
    stage: Stage | Neurons,
    keys: Float[Tensor, "row d_in"],
    n: int,
    n_same: int,
    n_other: int,
) -> tuple[Float[Tensor, " same"], Float[Tensor, " other"]]:
    """Gains at the prompts of both kinds, of the change solved at the first `n` keys."""
    learn, same, other, kept = keys.split([n, n_same, n_other, len(keys) - n - n_same - n_other])
    if isinstance(stage, Neurons):
        fact = torch.zeros(n, dtype=torch.long)
        tau, beta = queries(metric, learn, fact, stage.rho, kept, stage.kept_weight)
        level = (keys.double() @ tau[0]) / (keys.double() @ beta)
        return level[n : n + n_same], level[n + n_same : n + n_same + n_other]
    unit = torch.ones(1, n, dtype=torch.float64)
    _, down = solve(metric, learn.T, unit, stage.rho, kept.T, stage.kept_weight)
    tau = down.sum(1)
    return same.double() @ tau, other.double() @ tau
