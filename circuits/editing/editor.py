"""`edit`: facts into an `Edit`, checked before and after; nothing of the model is changed."""

import time
from collections.abc import Sequence
from dataclasses import replace

from circuits.editing.edit import Edit, ledger, refuse_unwritable
from circuits.editing.evaluation.answers import Answer
from circuits.editing.evaluation.edited_models import Ask, generations
from circuits.editing.fact import Fact, PreservedQuestion, refuse_conflicts
from circuits.editing.fact_prompts import contexts, refuse_unanchored
from circuits.editing.implicit import implicit_subjects
from circuits.editing.layer_selection import LayerSelection, selection_for
from circuits.editing.methods import Method, Names
from circuits.editing.moments import N_TOKENS, Moments, second_moments
from circuits.editing.presets import preset
from circuits.editing.writing import Request, write
from interp.errors import DataError, shown
from interp.loading.builtin import cache_dir
from interp.model.model import Model
from interp.progress import Progress, reported

REACHED = 0.5
"""A target whose probability stays below this after the search was not written."""


def edit(
    model: Model,
    facts: Sequence[Fact],
    method: str | Method = "ace",
    *,
    preserve: Sequence[PreservedQuestion] = (),
    implicit: Names = "given",
    layers: LayerSelection | None = None,
    n_tokens: int = N_TOKENS,
    seed: int = 0,
    progress: Progress | bool = True,
) -> Edit:
    """Compute an edit of one or several facts, on the model as it is now; nothing is changed.

    Args:
        model: with whatever edits it carries.
        facts: written together.
        method: a preset's name (`METHODS`) or a `Method`.
        preserve: questions whose answers must not change; of presets ``ace``, ``ace-query-first``
            and those with a ``+`` take some.
        implicit: whether facts keep their implicit names (``"given"``), or lose them (``"none"``),
            or names are found for those that have none (``"missing"``) or for all (``"found"``),
            where the method learns from them (`implicit_subjects`; some seconds per fact on a
            CPU core and a model of 270M).
        layers: of the ACE presets, from `select_layers`; built-in models have shipped ones.
        n_tokens: of the model's own samples, for second moments that are not cached yet.
        seed: of samples and context templates.
        progress: called with (tokens done, in all) while second moments are taken.

    Raises:
        DataError: facts conflict, are predicted already, or lack what the method needs; questions
            are given that the method does not preserve; or a target was not reached.
        PlanError: the model lacks a projection, or its weights are quantised or offloaded.
    """
    if not facts:
        raise DataError("there is no fact to edit; give at least one.")
    refuse_conflicts(facts)
    refuse_unwritable(model)
    started = time.perf_counter()
    if isinstance(method, str):
        layers = layers or selection_for(model, None, method)
        method = preset(method, model, layers)
    if preserve and not any(stage.preserved_weight for stage in method.stages):
        raise DataError(
            f"{method.name} preserves no questions; give none, or take ace or a preset with a +."
        )
    _refuse_predicted(model, facts)
    for fact in facts:  # before the minutes that moments take
        refuse_unanchored(model, fact)
    note = f"second moments are computed once and kept in {cache_dir() / 'moments'}"
    with reported(progress, "second moments", 2 * n_tokens, "tokens", note) as report:
        moments = moments_for(model, [method], layers, n_tokens, seed, report)
    found = implicit_subjects(model, facts, implicit if method.two_hop else "given")
    request = Request(found.facts, tuple(preserve))
    made = computed(model, request, method, moments, contexts(model, seed=seed), seed)
    _refuse_unreached(facts, made.p)
    return replace(made, searched=found.notes, seconds=time.perf_counter() - started)


def computed(
    model: Model,
    request: Request,
    method: Method,
    moments: Moments,
    templates: Sequence[str],
    seed: int = 0,
) -> Edit:
    """The edit of a request, on the model as it is now, whether its targets are reached or not.

    The other arguments are those of `circuits.editing.writing.write`; `seed` is noted alone.
    """
    started, book = time.perf_counter(), ledger(model)
    seen = tuple(one for edit in book.applied for one in edit.statistics)
    (written,) = write(model, [replace(request, seen=seen)], method, moments, templates)
    if not written.changes:
        raise DataError(f"nothing was written: {'; '.join(written.skipped)}")
    return Edit(
        request.facts,
        written.changes,
        method.name,
        model.name,
        book.base,
        tuple(one.id for one in book.applied),
        written.p,
        written.skipped,
        time.perf_counter() - started,
        seed,
        statistics=written.statistics,
        preserve=request.preserved,
    )


def moments_for(
    model: Model,
    methods: Sequence[Method],
    layers: LayerSelection | None,
    n_tokens: int = N_TOKENS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Moments:
    """All moments that methods need: those of a layer selection, and those over own samples."""
    given = layers.moments if layers else {}
    needed = dict.fromkeys(place for method in methods for place in method.places)
    missing = [place for place in needed if place not in given]
    if not missing:
        return dict(given)
    return given | second_moments(model, missing, n_tokens=n_tokens, seed=seed, progress=progress)


def _refuse_predicted(model: Model, facts: Sequence[Fact]) -> None:
    """Raise where the model continues a cloze with the target already."""
    replies = generations(model, [Ask(0, fact.written(model), n_tokens=5) for fact in facts], [()])
    for fact, text in zip(facts, replies, strict=True):
        if text.startswith(fact.target) and Answer(fact.target).lenient(text):
            raise DataError(
                f"{fact.at}{model.name} already continues {shown(fact.cloze)} with "
                f"{shown(fact.target)}; there is nothing to edit."
            )


def _refuse_unreached(facts: Sequence[Fact], p: Sequence[Sequence[float]]) -> None:
    for number, stage in enumerate(p):
        for fact, value in zip(facts, stage, strict=True):
            if value < REACHED:
                raise DataError(
                    f"stage {number} reached only p = {value:.2f} for {shown(fact.target)} after "
                    f"{shown(fact.cloze)}; allow more or larger steps, a larger clamp or other "
                    "layers."
                )
