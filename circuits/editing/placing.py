"""Where an edit will work: layers scored before anything is edited, from keys and one gradient.

A closed-form change with keys K writes at another prompt with key k its target times the *gain*
tau(k) = 1^T (K^T M K + lambda)^-1 K^T M k: about 1 at the prompts it was made with, 0 where keys
are foreign. An edit is useful in later reasoning where its gain reaches other questions through
the same fact (`same`), and harmless where it does not reach questions with the same relation
about something else (`other`). Both are known from forward passes of the unedited model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.editing.facts import Fact, FactError
from circuits.editing.keys import Place, keys_at
from circuits.editing.methods import Stage
from circuits.editing.moments import Moments
from circuits.editing.prompting import EditPrompt, Kept, edit_prompts, kept_prompts
from circuits.editing.solving import Metric, solve
from interp.model import Model
from interp.statistics import auroc


@dataclass(frozen=True)
class Reach:
    """What an edit of one fact should reach, and what not.

    Attributes:
        fact: the fact.
        same: prompts whose answer goes through the fact, other than those it is learnt from.
        other: prompts of the same relation that do not.
        kept: preserved questions, as an editor is given them.
    """

    fact: Fact
    same: tuple[EditPrompt, ...]
    other: tuple[EditPrompt, ...]
    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True)
class Gains:
    """Gains by fact and layer, mean over each fact's prompts.

    Attributes:
        layers: which.
        same, other: of the prompts that should and should not be reached.
        separation: probability that a prompt of the first kind has the larger gain (AUROC).
    """

    layers: tuple[int, ...]
    same: Float[np.ndarray, "fact layer"]
    other: Float[np.ndarray, "fact layer"]
    separation: Float[np.ndarray, " layer"]

    @property
    def selectivity(self) -> Float[np.ndarray, "fact layer"]:
        """`same` minus `other`: what is written where it belongs, less what is elsewhere."""
        return self.same - self.other


def gains(
    model: Model,
    reaches: Sequence[Reach],
    stage: Stage,
    moments: Moments,
    layers: Sequence[int],
) -> Gains:
    """Gains that an edit of each fact in each single layer would have.

    Args:
        model: the unedited model.
        reaches: facts with the prompts to be reached and not; facts without prompts of the
            stage's forms are refused.
        stage: forms, anchor, metric, rho and weight of preserved questions; its layers do not
            matter.
        moments: of the down-projections of all layers scored.
        layers: which to score.

    Raises:
        FactError: a fact has no prompts of the stage's forms, or lacks prompts to reach.
    """
    learnt = [_learnt(model, reach.fact, stage) for reach in reaches]
    kept = [kept_prompts(model, r.kept, stage.anchor) for r in reaches]
    for reach in reaches:
        if not reach.same or not reach.other:
            raise FactError(f"{reach.fact.cloze!r} lacks prompts to reach, or not to.")
    parts = [(*a, *r.same, *r.other, *k) for a, r, k in zip(learnt, reaches, kept, strict=True)]
    rows = [prompt for part in parts for prompt in part]
    owner = torch.zeros(len(rows), dtype=torch.long)
    same, other, separation = [], [], []
    for layer in layers:
        place: Place = ("mlp_post", layer)
        keys = keys_at(model, rows, place, [()], owner).split([len(part) for part in parts])
        metric = Metric(stage.metric, moments[place])
        by_fact = [
            _gain(metric, stage, k, len(a), len(r.same), len(r.other))
            for k, a, r in zip(keys, learnt, reaches, strict=True)
        ]
        same.append([float(s.mean()) for s, _ in by_fact])
        other.append([float(o.mean()) for _, o in by_fact])
        values = torch.cat([torch.cat(pair) for pair in by_fact]).numpy()
        labels = np.concatenate([[1] * len(s) + [0] * len(o) for s, o in by_fact])
        separation.append(float(auroc(values, labels.astype(bool))))
    return Gains(tuple(layers), np.array(same).T, np.array(other).T, np.array(separation))


def _learnt(model: Model, fact: Fact, stage: Stage) -> list[EditPrompt]:
    found = [p for form in stage.forms for p in edit_prompts(model, fact, form, stage.anchor)]
    if not found:
        raise FactError(f"{fact.cloze!r} has no {' or '.join(stage.forms)} prompts.")
    return found


def _gain(
    metric: Metric, stage: Stage, keys: Float[Tensor, "row d_in"], n: int, n_same: int, n_other: int
) -> tuple[Float[Tensor, " same"], Float[Tensor, " other"]]:
    """Gains at the prompts of both kinds, of the change solved at the first `n` keys."""
    learn, same, other, kept = keys.split([n, n_same, n_other, len(keys) - n - n_same - n_other])
    unit = torch.ones(1, n, dtype=torch.float64)
    _, down = solve(metric, learn.T, unit, stage.rho, kept.T, stage.kept_weight)
    tau = down.sum(1)
    return same.double() @ tau, other.double() @ tau
