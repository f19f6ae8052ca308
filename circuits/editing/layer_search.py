"""Which layers an edit should be written to, chosen before anything is edited."""

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from circuits.editing.change import Place
from circuits.editing.evaluation.cases import Case, Cases
from circuits.editing.evaluation.control_questions import (
    QuestionPool,
    control_questions,
    preservation_set,
    preserved_of,
)
from circuits.editing.evaluation.demonstrations import SHOTS, Shots
from circuits.editing.evaluation.prior_knowledge import prior_knowledge, usable_cases
from circuits.editing.fact import Fact, PreservedQuestion
from circuits.editing.fact_prompts import (
    ASKED,
    EditPrompt,
    contexts,
    edit_prompts,
    essence_prompt,
    last_token_prompt,
    preserved_prompts,
)
from circuits.editing.layer_selection import RISE, LayerSelection
from circuits.editing.match_scores import Propagation, match_scores, site_of
from circuits.editing.methods import QUERY_NEURONS, VALUE_NEURONS, Form, Neurons, Search
from circuits.editing.moments import Moments, keys_by_fact, within_fact, within_fact_moments
from circuits.editing.presets import early
from circuits.editing.targets import FactPrompts, search_targets
from interp.errors import DataError
from interp.model.model import Model
from interp.statistics.ties import near_ties, rounding

TRIED = 8  # facts on which the search is tried in a layer
SCORED = 40  # facts whose match scores score the layers; the others learn how keys vary
N_PRESERVED = 8  # preserved questions of a kind, as in an evaluation
NAMED = 240  # facts from which it is learnt how keys at a subject's own token vary
MORE = 250  # facts, beside those edited, from which it is learnt how keys at last tokens vary


def select_layers(
    model: Model,
    cases: Cases[Case],
    limit: int | None = 120,
    shots: Shots = SHOTS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LayerSelection:
    """Choose where to write, from cases that are held out of every evaluation.

    The value layers are two neighbours of the deeper half, where two things are largest in
    product: how well match scores there separate questions through a fact from other questions of
    its relation (AUROC above chance), and the target probability after a search there, for the last
    layers separate well and can write little. Scores are taken on facts that did not learn how
    keys vary. At a subject's own token keys differ between facts in every layer, so the query
    layers are the two neighbours, of those that MEMIT writes, of largest target probability.

    The `cases` edit last hops and have implicit phrases of their subjects; the first `limit` usable
    facts are taken (`DataError` if there is none), asked behind the demonstrations `shots`.
    `progress` is called with (questions asked, questions in this round).
    """
    facts = propagations(model, cases, limit, shots, seed, progress)
    return selected(model, facts, cases, shots, seed)


def propagations(
    model: Model,
    cases: Cases[Case],
    limit: int | None,
    shots: Shots,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Propagation]:
    """Where edits of last hops should act and where not; as `select_layers`, fact by fact."""
    known = prior_knowledge(model, cases, shots, progress)
    usable, _ = usable_cases(cases, known)
    pool = QuestionPool.of(cases, known.right)
    rows = (propagation_of(model, case, pool, shots, seed) for case in usable if _is_deep(case))
    by_fact = {(one.fact.prompt, one.fact.subject): one for one in filter(None, rows)}
    found = list(itertools.islice(by_fact.values(), limit))
    if not found:
        raise DataError(
            f"no case of {cases.source} edits a last hop that {model.name} knows and whose subject "
            "has implicit phrases; give more cases."
        )
    return found


def propagation_of(
    model: Model, case: Case, pool: QuestionPool, shots: Shots, seed: int = 0
) -> Propagation | None:
    """Where an edit of a case's last hop should act, and where not; `None` without controls."""
    scored = control_questions(case, pool, seed=seed)
    others = [one.text for one in scored["control_two_hop"]]
    single = [q.text for kind, found in scored.items() for q in found if kind != "control_two_hop"]
    prompts = (_asked_with(model, shots, texts) for texts in (case.questions, others, single))
    through, beside, alone = map(tuple, prompts)
    preserved = preserved_of(preservation_set(case, pool, scored, N_PRESERVED, seed))
    return Propagation(case.facts[0], through, beside, preserved, alone) if others else None


def selected(
    model: Model,
    facts: Sequence[Propagation],
    cases: Cases[Case],
    shots: Shots = SHOTS,
    seed: int = 0,
) -> LayerSelection:
    """As `select_layers`, from where edits of some facts should act and where not."""
    deep = range(model.arch.n_layers // 2, model.arch.n_layers)
    scored, learnt = _halves(facts)
    others = _worded(model, learnt) + _further(model, facts, cases, shots, seed)
    keys = keys_by_fact(model, _gates(deep), [*others, *_worded(model, scored)])
    unscored = {at: within_fact(groups[: len(others)]) for at, groups in keys.items()}
    found = match_scores(model, scored, VALUE_NEURONS, unscored, deep)
    separation = dict(zip(deep, found.separation.tolist(), strict=True))
    thresholds = dict(zip(deep, found.threshold.tolist(), strict=True))
    value, reached, near = _best(model, facts, VALUE_NEURONS, deep, separation)
    before = [layer for layer in early(model) if layer not in value]
    query, _, also = _best(model, facts, QUERY_NEURONS, before, dict.fromkeys(before, 1.0))
    unnamed = [replace(one, fact=replace(one.fact, implicit=())) for one in scored]
    direct = match_scores(model, unnamed, VALUE_NEURONS, unscored, value).threshold
    moments = {at: within_fact(keys[at]) for at in _gates(value)}
    moments |= subject_moments(model, cases, query, seed)
    return LayerSelection(
        query,
        value,
        f"separation {_mean_over(value, separation):.3f}, target probability {reached:.2f}, "
        f"{len(facts)} facts of {cases.source}{near}{also}",
        {layer: moment.float() for (_, layer), moment in moments.items()},
        # lower, neurons would begin to fire where nothing matches
        threshold=max(2 * RISE, round(_mean_over(value, thresholds), 3)),
        direct_threshold=max(2 * RISE, round(float(direct.mean()), 3)),
        separation=separation,
        model=model.name,
        weights_hash=model.hash_in(torch.bfloat16),
    )


def _best(
    model: Model,
    facts: Sequence[Propagation],
    stage: Neurons,
    layers: Sequence[int],
    separation: Mapping[int, float],
) -> tuple[tuple[int, ...], float, str]:
    """The two neighbours of the largest separation above chance times target probability.

    Also that probability, and which neighbours tried are within rounding of them, in words.
    """

    def above_chance(at: tuple[int, ...]) -> float:
        return _mean_over(at, separation) - 0.5

    pairs = list(itertools.pairwise(layers)) or [tuple(layers)]
    reached, products = dict[tuple[int, ...], float](), dict[tuple[int, ...], float]()
    for at in sorted(pairs, key=above_chance, reverse=True):
        if above_chance(at) <= max(products.values(), default=-1.0):  # none left could be the best
            break
        reached[at] = _reached(model, facts, replace(stage, layers=at))
        products[at] = above_chance(at) * reached[at]
    best = max(products, key=lambda at: products[at])
    names = [f"layers {list(at)}" for at in products]
    near = near_ties(names, [*products.values()], rounding(1, dtype=str(model.dtype))).rstrip(".")
    return best, reached[best], f"; {near[0].lower()}{near[1:]}" if near else ""


def _mean_over(layers: Sequence[int], values: Mapping[int, float]) -> float:
    return float(np.mean([values[layer] for layer in layers]))


def _halves(facts: Sequence[Propagation]) -> tuple[list[Propagation], list[Propagation]]:
    """Facts to be scored and facts to learn from, which share no subject where there are two."""
    subjects = list(dict.fromkeys(one.fact.subject for one in facts))
    mine = set(subjects[: max(1, min(SCORED, len(subjects) // 2))])
    scored = [one for one in facts if one.fact.subject in mine]
    return scored, [one for one in facts if one.fact.subject not in mine] or scored


def _reached(model: Model, facts: Sequence[Propagation], stage: Neurons) -> float:
    """Mean target probability after a search in a stage's layers, over some facts."""
    form, anchor = stage.forms[-1], stage.anchor
    prompts = [
        FactPrompts(
            tuple(edit_prompts(model, one.fact, form, anchor, asked=ASKED[:1])),
            essence_prompt(model, one.fact.subject, anchor),
        )
        for one in facts[:TRIED]
    ]
    owner = torch.zeros(len(prompts), dtype=torch.long)
    places: list[Place] = [("mlp_post", layer) for layer in stage.layers]
    as_far = replace(stage.search, until=Search.until)  # where it ends early, as far as it would
    return float(search_targets(model, prompts, places, as_far, [()], owner).p.mean())


def question_moments(
    model: Model,
    facts: Sequence[Propagation],
    cases: Cases[Case],
    layers: Sequence[int],
    shots: Shots = SHOTS,
    seed: int = 0,
) -> Moments:
    """Moments within facts of what FFNs read at the last tokens of questions.

    Learnt from `facts` and up to `MORE` of the cases that are about other subjects, known or not:
    that a model is asked for a fact shows in its keys whether it has the answer or not.
    """
    rows = _worded(model, facts) + _further(model, facts, cases, shots, seed)
    return within_fact_moments(model, _gates(layers), rows)


def subject_moments(
    model: Model, cases: Iterable[Case], layers: Sequence[int], seed: int = 0
) -> Moments:
    """The same at subjects' own tokens, from `NAMED` of the cases, known or not, at most.

    Their prompts are clozes, questions, and composed questions that name the subject.
    """
    templates, anchor = contexts(model, seed=seed)[:3], QUERY_NEURONS.anchor
    facts: list[list[EditPrompt]] = []
    for case in _one_per_fact(cases, NAMED, seed):
        fact = case.facts[0]
        composed = [
            PreservedQuestion(text, fact.subject) for text in case.questions if fact.subject in text
        ]
        own = (edit_prompts(model, fact, f, anchor, templates) for f in QUERY_NEURONS.forms)
        facts.append([*itertools.chain(*own), *preserved_prompts(model, composed, anchor)])
    return within_fact_moments(model, _gates(layers), facts)


def _gates(layers: Sequence[int]) -> list[Place]:
    """What neurons read in some layers."""
    return [(site_of(VALUE_NEURONS), layer) for layer in layers]


def _worded(model: Model, facts: Sequence[Propagation]) -> list[list[EditPrompt]]:
    """The questions of each fact in other words, then those of other facts, each by itself."""
    own = [[*_asked(model, one.fact), *one.through] for one in facts]
    return own + [[prompt] for one in facts for prompt in one.others]


def _further(
    model: Model, facts: Sequence[Propagation], cases: Iterable[Case], shots: Shots, seed: int
) -> list[list[EditPrompt]]:
    """The same of facts of cases whose subjects are none of those to be edited."""
    edited = {one.fact.subject for one in facts}
    free = (case for case in cases if _is_deep(case) and case.facts[0].subject not in edited)
    return [
        _asked(model, case.facts[0]) + _asked_with(model, shots, case.questions)
        for case in _one_per_fact(free, MORE, seed)
    ]


def _asked(model: Model, fact: Fact) -> list[EditPrompt]:
    forms: tuple[Form, ...] = ("question", "two_hop")
    return [p for form in forms for p in edit_prompts(model, fact, form, "last", asked=ASKED[1:])]


def _asked_with(model: Model, shots: Shots, texts: Iterable[str]) -> list[EditPrompt]:
    return [last_token_prompt(model, shots.ask(text), shots.prefix) for text in texts]


def _is_deep(case: Case) -> bool:
    """Whether a last hop is edited whose subject has implicit phrases."""
    return case.position == "last" and bool(case.facts[0].implicit)


def _one_per_fact(cases: Iterable[Case], most: int, seed: int) -> list[Case]:
    """The first case of each fact that is edited alone, of up to so many drawn facts."""
    by_fact: dict[tuple[str, str], Case] = {}
    for case in cases:
        if len(case.facts) == 1:
            by_fact.setdefault((case.facts[0].prompt, case.facts[0].subject), case)
    drawn = random.Random(seed).sample(sorted(by_fact), min(most, len(by_fact)))
    return [by_fact[key] for key in drawn]
