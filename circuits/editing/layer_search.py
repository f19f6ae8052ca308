"""Where an edit will work: layers chosen before anything is edited, from gains and searches."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from circuits.editing.evaluation import SHOTS, Case, Cases, Pool, Shots, draw_probes, preservation
from circuits.editing.gains import Reach, gains
from circuits.editing.keys import Place
from circuits.editing.knowing import know, usable_cases
from circuits.editing.methods import (
    QUERY_NEURONS,
    RISE,
    VALUE_NEURONS,
    Neurons,
    Placement,
    early,
)
from circuits.editing.prompting import (
    ASKED,
    edit_prompts,
    essence_prompt,
    kept_of,
    whole_prompt,
)
from circuits.editing.scatter import keys_by_fact, scatter
from circuits.editing.search import FactPrompts, Search, search_targets
from circuits.editing.wordings import further, is_deep, reading, subject_moments_of, worded
from interp.errors import DataError
from interp.model.model import Model

TRIED = 8
"""Facts on which the search is tried in a layer."""
SCORED = 40
"""Facts whose gains score the layers; all others learn how keys vary within facts."""
N_KEPT = 8
"""Preserved questions of a kind, as in an evaluation."""


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
        DataError: no case is usable.
    """
    known = know(model, cases, shots, progress)
    kept, _ = usable_cases(cases, known)
    pool = Pool.of(cases, known.right)
    rows = (reach_of(model, case, pool, shots, seed) for case in kept if is_deep(case))
    one_a_fact = {(reach.fact.prompt, reach.fact.subject): reach for reach in filter(None, rows)}
    found = list(itertools.islice(one_a_fact.values(), limit))
    if not found:
        raise DataError(
            f"no case of {cases.source} edits a last hop that {model.name} knows and whose subject "
            "has implicit phrases; give more cases."
        )
    return found


def reach_of(model: Model, case: Case, pool: Pool, shots: Shots, seed: int = 0) -> Reach | None:
    """What an edit of a case's last hop should reach, and what not; `None` without controls."""
    scored = draw_probes(case, pool, seed=seed)
    others = [one.text for one in scored["control_two_hop"]]
    facts = [q.text for kind, found in scored.items() for q in found if kind != "control_two_hop"]
    same, other, single = (
        tuple(whole_prompt(model, shots.ask(text), shots.prefix) for text in texts)
        for texts in (case.questions, others, facts)
    )
    kept = kept_of(preservation(case, pool, scored, N_KEPT, seed))
    return Reach(case.facts[0], same, other, kept, single) if other else None


def place(
    model: Model,
    cases: Cases,
    limit: int | None = 120,
    shots: Shots = SHOTS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Placement:
    """Choose where to write, from cases that are held out of every evaluation.

    The value layers are two neighbours of the deeper half, where two things are largest in
    product: how well gains there separate questions through a fact from other questions of its
    relation (AUROC above chance), and how far a search there reaches its targets, for the last
    layers separate well and can write little. Gains are scored on facts that did not learn how
    keys vary. At a subject's own token keys are told apart in every layer, so the query layers are
    the two neighbours among those that MEMIT writes where a search reaches furthest.

    Args:
        model: the unedited model.
        cases: with edits of last hops and implicit phrases of their subjects.
        limit: use the first so many usable facts.
        shots: demonstrations, as in the evaluation.
        seed: of the draws.
        progress: called with (questions asked, questions in this round).

    Raises:
        DataError: no case is usable.
    """
    reaches = reaches_of(model, cases, limit, shots, seed, progress)
    return placed(model, reaches, cases, shots, seed)


def placed(
    model: Model,
    reaches: Sequence[Reach],
    cases: Cases,
    shots: Shots = SHOTS,
    seed: int = 0,
) -> Placement:
    """As `place`, from what edits of some facts should reach and what not."""
    deep = range(model.arch.n_layers // 2, model.arch.n_layers)
    scored, learnt = _halves(reaches)
    others = worded(model, learnt) + further(model, reaches, cases, shots, seed)
    keys = keys_by_fact(model, reading(deep), [*others, *worded(model, scored)])
    unscored = {at: scatter(groups[: len(others)]) for at, groups in keys.items()}
    found = gains(model, scored, VALUE_NEURONS, unscored, deep)
    separation = dict(zip(deep, found.separation.tolist(), strict=True))
    thresholds = dict(zip(deep, found.threshold.tolist(), strict=True))
    value, reached = _best(model, reaches, VALUE_NEURONS, deep, separation)
    before = [layer for layer in early(model) if layer not in value]
    query, _ = _best(model, reaches, QUERY_NEURONS, before, dict.fromkeys(before, 1.0))
    # lower, neurons would begin to fire where nothing matches
    threshold = max(2 * RISE, round(_over(value, thresholds), 3))
    by = (
        f"gain separation {_over(value, separation):.3f}, targets reached {reached:.2f}, "
        f"{len(reaches)} facts of {cases.source}"
    )
    at_questions = {at: scatter(keys[at]) for at in reading(value)}
    moments = at_questions | subject_moments_of(model, cases, query, seed)
    return Placement(query, value, by, moments, threshold, separation=separation)


def _best(
    model: Model,
    reaches: Sequence[Reach],
    stage: Neurons,
    layers: Sequence[int],
    separation: Mapping[int, float],
) -> tuple[tuple[int, ...], float]:
    """The two neighbours of the largest separation above chance times targets reached.

    Tried from the largest separation down, until none that is left could be the best.
    """

    def above_chance(at: tuple[int, ...]) -> float:
        return _over(at, separation) - 0.5

    pairs = list(itertools.pairwise(layers)) or [tuple(layers)]
    best, most, reach = pairs[0], -1.0, 0.0
    for at in sorted(pairs, key=above_chance, reverse=True):
        if above_chance(at) <= most:
            break
        reached = _reached(model, reaches, replace(stage, layers=at))
        if above_chance(at) * reached > most:
            best, most, reach = at, above_chance(at) * reached, reached
    return best, reach


def _over(layers: Sequence[int], separation: Mapping[int, float]) -> float:
    return float(np.mean([separation[layer] for layer in layers]))


def _halves(reaches: Sequence[Reach]) -> tuple[list[Reach], list[Reach]]:
    """Facts to be scored and facts to learn from, which share no subject where there are two."""
    subjects = list(dict.fromkeys(reach.fact.subject for reach in reaches))
    mine = set(subjects[: max(1, min(SCORED, len(subjects) // 2))])
    scored = [reach for reach in reaches if reach.fact.subject in mine]
    return scored, [reach for reach in reaches if reach.fact.subject not in mine] or scored


def _reached(model: Model, reaches: Sequence[Reach], stage: Neurons) -> float:
    """Mean probability that a search in a stage's layers reaches for the targets of some facts."""
    facts = [reach.fact for reach in reaches[:TRIED]]
    prompts = [
        FactPrompts(
            tuple(edit_prompts(model, fact, stage.forms[-1], stage.anchor, asked=ASKED[:1])),
            essence_prompt(model, fact.subject, stage.anchor),
        )
        for fact in facts
    ]
    owner = torch.zeros(len(facts), dtype=torch.long)
    places: list[Place] = [("mlp_post", layer) for layer in stage.layers]
    as_far = replace(stage.search, until=Search.until)  # where it ends early, as far as it would
    found = search_targets(model, prompts, places, as_far, [()], owner)
    return float(found.p.mean())
