"""How keys vary with the wording of a fact: prompts that say it, and moments learnt from them."""

import random
from collections.abc import Iterable, Sequence

from circuits.editing.evaluation import SHOTS, Case, Cases, Shots
from circuits.editing.facts import Fact
from circuits.editing.gains import Reach, site_of
from circuits.editing.keys import Place
from circuits.editing.methods import QUERY_NEURONS, VALUE_NEURONS
from circuits.editing.moments import Moments
from circuits.editing.prompting import (
    ASKED,
    EditPrompt,
    Form,
    Kept,
    contexts,
    edit_prompts,
    kept_prompts,
    whole_prompt,
)
from circuits.editing.scatter import question_moments
from interp.model.model import Model

NAMED = 240
"""Facts from which it is learnt how keys at a subject's own token vary."""
MORE = 250
"""Facts, beside those that are reached, from which it is learnt how keys at last tokens vary."""


def is_deep(case: Case) -> bool:
    """Whether a last hop is edited whose subject has implicit phrases."""
    return case.position == "last" and bool(case.facts[0].implicit)


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
    rows = worded(model, reaches) + further(model, reaches, cases, shots, seed)
    return question_moments(model, reading(layers), rows)


def worded(model: Model, reaches: Sequence[Reach]) -> list[list[EditPrompt]]:
    """The questions of each fact in other words, then those of other facts, each by itself."""
    facts = [[*_asked(model, reach.fact), *reach.same] for reach in reaches]
    return facts + [[prompt] for reach in reaches for prompt in reach.other]


def further(
    model: Model, reaches: Sequence[Reach], cases: Iterable[Case], shots: Shots, seed: int
) -> list[list[EditPrompt]]:
    """The same of facts of cases whose subjects are none of those to be reached."""
    reached = {reach.fact.subject for reach in reaches}
    free = (case for case in cases if is_deep(case) and case.facts[0].subject not in reached)
    return [
        _asked(model, case.facts[0])
        + [whole_prompt(model, shots.ask(q), shots.prefix) for q in case.questions]
        for case in _one_a_fact(free, MORE, seed)
    ]


def _one_a_fact(cases: Iterable[Case], most: int, seed: int) -> list[Case]:
    """The first case of each fact that is edited alone, of up to so many drawn facts."""
    by_fact: dict[tuple[str, str], Case] = {}
    for case in cases:
        if len(case.facts) == 1:
            by_fact.setdefault((case.facts[0].prompt, case.facts[0].subject), case)
    return [
        by_fact[key] for key in random.Random(seed).sample(sorted(by_fact), min(most, len(by_fact)))
    ]


def subject_moments_of(
    model: Model, cases: Iterable[Case], layers: Sequence[int], seed: int = 0
) -> Moments:
    """Moments of what FFNs read at subjects' own tokens (`question_moments`).

    Learnt from up to `NAMED` facts of the cases, known or not: their clozes, their questions, and
    composed questions that name them.
    """
    templates = contexts(model, seed=seed)[:3]
    facts = [_named(model, case, templates) for case in _one_a_fact(cases, NAMED, seed)]
    return question_moments(model, reading(layers), facts)


def _named(model: Model, case: Case, templates: Sequence[str]) -> list[EditPrompt]:
    fact, anchor = case.facts[0], QUERY_NEURONS.anchor
    own = [
        p
        for form in QUERY_NEURONS.forms
        for p in edit_prompts(model, fact, form, anchor, templates)
    ]
    composed = [Kept(text, fact.subject) for text in case.questions if fact.subject in text]
    return own + kept_prompts(model, composed, anchor)


def reading(layers: Sequence[int]) -> list[Place]:
    """What neurons read in some layers."""
    return [(site_of(VALUE_NEURONS), layer) for layer in layers]


def _asked(model: Model, fact: Fact) -> list[EditPrompt]:
    forms: tuple[Form, ...] = ("question", "two_hop")
    return [p for form in forms for p in edit_prompts(model, fact, form, "last", asked=ASKED[1:])]
