"""Where an edit will work: layers scored before anything is edited, from keys and one gradient.

The *gain* of keys K at another prompt's key k is tau(k) = 1^T (K^T M K + lambda)^-1 K^T M k: about
1 at the prompts it is made of, 0 where keys are foreign. A closed form writes its target times
tau; neurons write it where tau / beta, beta standing for the constant 1, is above a threshold. An
edit is useful in later reasoning where its gain reaches other questions through the same fact
(`same`), and harmless where it does not reach questions with the same relation about something
else (`other`). Both are known from forward passes of the unedited model.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.editing.evaluation import SHOTS, Case, Cases, Pool, Shots, draw_probes, preservation
from circuits.editing.facts import Fact, FactError
from circuits.editing.keys import Place, keys_at
from circuits.editing.knowing import know, usable_cases
from circuits.editing.methods import (
    QUERY_NEURONS,
    RISE,
    VALUE_NEURONS,
    Neurons,
    Placement,
    Stage,
    early,
)
from circuits.editing.moments import Moments
from circuits.editing.neurons import queries
from circuits.editing.prompting import (
    ASKED,
    EditPrompt,
    Form,
    Kept,
    begun,
    contexts,
    contrasts,
    edit_prompts,
    essence_prompt,
    kept_of,
    kept_prompts,
    whole_prompt,
)
from circuits.editing.scatter import keys_by_fact, question_moments, scatter
from circuits.editing.search import FactPrompts, search_targets
from circuits.editing.solving import Metric, solve
from interp.model import Model
from interp.statistics import auroc

TRIED = 8
"""Facts on which the search is tried in a layer."""
SCORED = 40
"""Facts whose gains score the layers; all others learn how keys vary within facts."""
N_KEPT = 8
"""Preserved questions of a kind, as in an evaluation."""
NAMED = 240
"""Facts from which it is learnt how keys at a subject's own token vary."""
FALSE_ALARMS = 0.1
"""Part of the questions to be left alone that value neurons may half fire at."""
MORE = 250
"""Facts, beside those that are reached, from which it is learnt how keys at last tokens vary."""


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
        FactError: a fact has no prompts of the stage's forms, or lacks prompts to reach.
    """
    learnt = [_learnt(model, reach.fact, stage) for reach in reaches]
    kept = [_kept(model, r, stage, own) for r, own in zip(reaches, learnt, strict=True)]
    for reach in reaches:
        if not reach.same or not reach.other:
            raise FactError(f"{reach.fact.cloze!r} lacks prompts to reach, or not to.")
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
    deep = isinstance(stage, Neurons) and stage.anchor == "last"
    return found + (begun(learnt) if deep else [])


def _learnt(model: Model, fact: Fact, stage: Stage | Neurons) -> list[EditPrompt]:
    found = [p for form in stage.forms for p in edit_prompts(model, fact, form, stage.anchor)]
    if not found:
        raise FactError(f"{fact.cloze!r} has no {' or '.join(stage.forms)} prompts.")
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
    one_a_fact = {(reach.fact.prompt, reach.fact.subject): reach for reach in filter(None, rows)}
    found = list(itertools.islice(one_a_fact.values(), limit))
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
    others = [one.text for one in scored["control_two_hop"]]
    facts = [q.text for kind, found in scored.items() for q in found if kind != "control_two_hop"]
    same, other, single = (
        tuple(whole_prompt(model, shots.ask(text), shots.prefix) for text in texts)
        for texts in (case.questions, others, facts)
    )
    kept = kept_of(preservation(case, pool, scored, N_KEPT, seed))
    return Reach(case.facts[0], same, other, kept, single) if other else None


def question_moments_of(
    model: Model,
    reaches: Sequence[Reach],
    cases: Cases,
    layers: Sequence[int],
    shots: Shots = SHOTS,
    seed: int = 0,
) -> Moments:
    """Moments of what FFNs read at the last tokens of questions (`question_moments`).

    Args:
        model: the unedited model.
        reaches: facts to learn from.
        cases: more of them, up to `MORE` facts that are about other subjects, known or not: that a
            model is asked for a fact shows in its keys whether it has the answer or not.
        layers: which.
        shots: demonstrations, as in the evaluation.
        seed: of the draw.
    """
    rows = _worded(model, reaches) + _further(model, reaches, cases, shots, seed)
    return question_moments(model, _reading(layers), rows)


def _worded(model: Model, reaches: Sequence[Reach]) -> list[list[EditPrompt]]:
    """The questions of each fact in other words, then those of other facts, each by itself."""
    facts = [[*_asked(model, reach.fact), *reach.same] for reach in reaches]
    return facts + [[prompt] for reach in reaches for prompt in reach.other]


def _further(
    model: Model, reaches: Sequence[Reach], cases: Iterable[Case], shots: Shots, seed: int
) -> list[list[EditPrompt]]:
    """The same of facts of cases whose subjects are none of those to be reached."""
    reached = {reach.fact.subject for reach in reaches}
    by_fact: dict[tuple[str, str], Case] = {}
    for case in cases:
        if len(case.facts) == 1 and _deep(case) and case.facts[0].subject not in reached:
            by_fact.setdefault((case.facts[0].prompt, case.facts[0].subject), case)
    drawn = random.Random(seed).sample(sorted(by_fact), min(MORE, len(by_fact)))
    return [
        _asked(model, by_fact[key].facts[0])
        + [whole_prompt(model, shots.ask(q), shots.prefix) for q in by_fact[key].questions]
        for key in drawn
    ]


def subject_moments_of(
    model: Model, cases: Iterable[Case], layers: Sequence[int], seed: int = 0
) -> Moments:
    """Moments of what FFNs read at subjects' own tokens (`question_moments`).

    Learnt from up to `NAMED` facts of the cases, known or not: their clozes, their questions, and
    composed questions that name them.
    """
    by_fact: dict[tuple[str, str], Case] = {}
    for case in cases:
        if len(case.facts) == 1:
            by_fact.setdefault((case.facts[0].prompt, case.facts[0].subject), case)
    drawn = random.Random(seed).sample(sorted(by_fact), min(NAMED, len(by_fact)))
    templates = contexts(model, seed=seed)[:3]
    facts = [_named(model, by_fact[key], templates) for key in drawn]
    return question_moments(model, _reading(layers), facts)


def _named(model: Model, case: Case, templates: Sequence[str]) -> list[EditPrompt]:
    fact, anchor = case.facts[0], QUERY_NEURONS.anchor
    own = [
        p
        for form in QUERY_NEURONS.forms
        for p in edit_prompts(model, fact, form, anchor, templates)
    ]
    composed = [Kept(text, fact.subject) for text in case.questions if fact.subject in text]
    return own + kept_prompts(model, composed, anchor)


def _reading(layers: Sequence[int]) -> list[Place]:
    return [(site_of(VALUE_NEURONS), layer) for layer in layers]


def _asked(model: Model, fact: Fact) -> list[EditPrompt]:
    forms: tuple[Form, ...] = ("question", "two_hop")
    return [p for form in forms for p in edit_prompts(model, fact, form, "last", asked=ASKED[1:])]


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
        FactError: no case is usable.
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
    others = _worded(model, learnt) + _further(model, reaches, cases, shots, seed)
    keys = keys_by_fact(model, _reading(deep), [*others, *_worded(model, scored)])
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
    at_questions = {at: scatter(keys[at]) for at in _reading(value)}
    moments = at_questions | subject_moments_of(model, cases, query, seed)
    return Placement(query, value, by, moments, threshold)


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
    found = search_targets(model, prompts, places, stage.search, [()], owner)
    return float(found.p.mean())
