"""Where an edit will work: layers scored before anything is edited, from keys and one gradient.

A closed-form change with keys K writes at another prompt with key k its target times the *gain*
tau(k) = 1^T (K^T M K + lambda)^-1 K^T M k: about 1 at the prompts it was made with, 0 where keys
are foreign. An edit is useful in later reasoning where its gain reaches other questions through
the same fact (`same`), and harmless where it does not reach questions with the same relation
about something else (`other`). Both are known from forward passes of the unedited model.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.editing.evaluation import SHOTS, Case, Cases, Pool, Shots, draw_probes, preservation
from circuits.editing.facts import Fact, FactError
from circuits.editing.keys import Place, keys_at
from circuits.editing.knowing import know, usable_cases
from circuits.editing.methods import VALUE, Placement, Stage, early
from circuits.editing.moments import Moments, second_moments
from circuits.editing.prompting import (
    ASKED,
    EditPrompt,
    Kept,
    edit_prompts,
    essence_prompt,
    kept_of,
    kept_prompts,
    whole_prompt,
)
from circuits.editing.search import FactPrompts, search_targets
from circuits.editing.solving import Metric, solve
from interp.model import Model
from interp.statistics import auroc

TRIED = 8
"""Facts on which the search is tried in a layer."""
CANDIDATES = 4
"""Layers of the best separation in which it is tried."""
N_KEPT = 8
"""Preserved questions of a kind, as in an evaluation."""


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
    places: list[Place] = [("mlp_post", layer) for layer in layers]
    at = keys_at(model, rows, places, [()], owner)
    for place in places:
        keys = at[place].split([len(part) for part in parts])
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


def reaches_of(
    model: Model,
    cases: Cases,
    limit: int | None,
    shots: Shots,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Reach]:
    """What edits of last hops should reach and what not, asked as the evaluation asks.

    Args:
        model: the unedited model.
        cases: whose last hops are edited; others are passed over.
        limit: the first so many usable cases.
        shots: demonstrations before each question.
        seed: of the draws.
        progress: called with (questions asked, questions in this round).

    Raises:
        FactError: no case is usable.
    """
    known = know(model, cases, shots, progress)
    kept, _ = usable_cases(cases, known)
    pool = Pool.of(cases, known.right)
    rows = (reach_of(model, case, pool, shots, seed) for case in kept if _deep(case))
    found = list(itertools.islice(filter(None, rows), limit))
    if not found:
        raise FactError(
            f"no case of {cases.source} edits a last hop that {model.name} knows and whose subject "
            "has implicit phrases; give more cases."
        )
    return found


def _deep(case: Case) -> bool:
    return case.position == "last" and bool(case.facts[0].implicit)


def reach_of(model: Model, case: Case, pool: Pool, shots: Shots, seed: int = 0) -> Reach | None:
    """What an edit of a case's last hop should reach, and what not; `None` without controls."""
    scored = draw_probes(case, pool, seed=seed)
    same = tuple(whole_prompt(model, shots.ask(text)) for text in case.questions)
    others = scored["control_two_hop"]
    other = tuple(whole_prompt(model, shots.ask(one.text)) for one in others)
    kept = kept_of(preservation(case, pool, scored, N_KEPT, seed))
    return Reach(case.facts[0], same, other, kept) if other else None


def place(
    model: Model,
    cases: Cases,
    limit: int | None = 40,
    shots: Shots = SHOTS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Placement:
    """Choose where to write, from cases that are held out of every evaluation.

    The value layer is the one, of the deeper half, with the largest product of two things: how
    well its gain separates questions through a fact from other questions of its relation (AUROC
    above chance), and how far a search there reaches its targets, for the last layers separate
    well and can write little. The query layers are the early ones that MEMIT writes.

    Args:
        model: the unedited model.
        cases: with edits of last hops and implicit phrases of their subjects.
        limit: use the first so many usable cases.
        shots: demonstrations, as in the evaluation.
        seed: of the draws.
        progress: called with (questions asked, questions in this round).

    Raises:
        FactError: no case is usable.
    """
    reaches = reaches_of(model, cases, limit, shots, seed, progress)
    layers = tuple(range(model.arch.n_layers // 2, model.arch.n_layers))
    moments = second_moments(model, [("mlp_post", layer) for layer in layers])
    found = gains(model, reaches, VALUE, moments, layers)
    order = (-found.separation).argsort(kind="stable")[:CANDIDATES].tolist()
    reached = {i: _reached(model, reaches, layers[i]) for i in order}
    best = max(order, key=lambda i: (found.separation[i] - 0.5) * reached[i])
    by = (
        f"gain separation {found.separation[best]:.3f}, targets reached {reached[best]:.2f}, "
        f"{len(reaches)} facts of {cases.source}"
    )
    return Placement(early(model), (layers[best],), by)


def _reached(model: Model, reaches: Sequence[Reach], layer: int) -> float:
    """Mean probability that a search in this layer reaches for the targets of some facts."""
    facts = [reach.fact for reach in reaches[:TRIED]]
    prompts = [
        FactPrompts(
            tuple(edit_prompts(model, fact, "two_hop", "last", asked=ASKED[:1])),
            essence_prompt(model, fact.subject, "last"),
        )
        for fact in facts
    ]
    owner = torch.zeros(len(facts), dtype=torch.long)
    found = search_targets(model, prompts, [("mlp_post", layer)], VALUE.search, [()], owner)
    return float(found.p.mean())
