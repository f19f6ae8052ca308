"""From facts to changes: each stage of a method searched, solved and added, edit by edit.

Many independent edits are made in one batch: each is computed on the model under its own earlier
changes alone, as if the others did not exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.editing.changes import Change, Changes
from circuits.editing.facts import Fact, FactError, refuse_conflicts
from circuits.editing.finetuning import fine_tune
from circuits.editing.keys import Place, keys_at, outputs_at
from circuits.editing.methods import FineTune, Method, Stage
from circuits.editing.moments import Moments
from circuits.editing.prompting import (
    BARE,
    Anchor,
    EditPrompt,
    Kept,
    edit_prompts,
    essence_prompt,
    kept_prompts,
)
from circuits.editing.search import FactPrompts, Targets, search_targets
from circuits.editing.solving import Metric, solve
from interp.model import Model


@dataclass(frozen=True)
class Request:
    """One edit to be made: its facts, written together, and the questions to leave alone."""

    facts: tuple[Fact, ...]
    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True)
class Written:
    """What one request became.

    Attributes:
        changes: of the weights.
        p: by stage and fact, the target's probability that the search reached on the first
            prompt; `nan` where the stage had no prompt of the fact.
        skipped: why a stage left a fact out.
    """

    changes: Changes
    p: tuple[tuple[float, ...], ...]
    skipped: tuple[str, ...] = ()


@dataclass
class _State:
    """All edits of a batch as they stand."""

    requests: Sequence[Request]
    changes: list[Changes]
    p: list[list[tuple[float, ...]]] = field(default_factory=list)
    skipped: list[list[str]] = field(default_factory=list)


def write(
    model: Model,
    requests: Sequence[Request],
    method: Method,
    moments: Moments,
    templates: Sequence[str] = BARE,
    start: Sequence[Changes] | None = None,
) -> list[Written]:
    """Compute the changes of many independent edits.

    Args:
        model: the model; its weights are not touched.
        requests: the edits.
        method: how.
        moments: of every projection that the method writes to.
        templates: contexts of clozes.
        start: changes that each edit begins with, and that its result contains.

    Returns:
        One result a request, in order.

    Raises:
        FactError: facts of one request conflict, a subject is not in its prompt, …
        SolveError: keys that cannot be solved for.
        SiteError: the model lacks a projection.
    """
    for request in requests:
        refuse_conflicts(request.facts)
    state = _State(requests, list(start or [()] * len(requests)))
    state.p, state.skipped = [[] for _ in requests], [[] for _ in requests]
    for number, stage in enumerate(method.stages):
        if isinstance(stage, FineTune):
            _fine_tuned(model, state, stage, templates)
        else:
            _staged(model, state, stage, number, moments, templates)
    parts = zip(state.changes, state.p, state.skipped, strict=True)
    return [Written(changes, tuple(p), tuple(skipped)) for changes, p, skipped in parts]


@dataclass(frozen=True)
class _Job:
    """A fact in a stage: its edit and its prompts, whose clozes lead."""

    edit: int
    fact: int
    prompts: tuple[EditPrompt, ...]
    n_cloze: int
    essence: EditPrompt


def _jobs(
    model: Model, state: _State, stage: Stage | FineTune, number: int, templates: Sequence[str]
) -> list[_Job]:
    """The facts that have prompts for this stage; the others are noted."""
    anchor = stage.anchor if isinstance(stage, Stage) else "last"
    jobs: list[_Job] = []
    for i, request in enumerate(state.requests):
        for j, fact in enumerate(request.facts):
            by_form = {
                form: edit_prompts(model, fact, form, anchor, templates) for form in stage.forms
            }
            prompts = tuple(p for ps in by_form.values() for p in ps)
            if not prompts:
                state.skipped[i].append(
                    f"stage {number}: {fact.cloze!r} has no {' or '.join(stage.forms)} prompts"
                )
                continue
            n_cloze = len(by_form.get("cloze", []))
            essence = essence_prompt(model, fact.subject, anchor)
            jobs.append(_Job(i, j, prompts, n_cloze, essence))
    return jobs


def _note_p(state: _State, jobs: Sequence[_Job], p: Float[Tensor, " job"]) -> None:
    reached = {(job.edit, job.fact): float(value) for job, value in zip(jobs, p, strict=True)}
    for i, request in enumerate(state.requests):
        facts = range(len(request.facts))
        state.p[i].append(tuple(reached.get((i, j), float("nan")) for j in facts))


def _fine_tuned(model: Model, state: _State, stage: FineTune, templates: Sequence[str]) -> None:
    jobs = _jobs(model, state, stage, 0, templates)
    kept = _kept_rows(model, state, "last") if stage.kept_weight else None
    prompts = [(job.edit, job.prompts) for job in jobs]
    changes, p = fine_tune(model, prompts, stage, state.changes, kept)
    for i, change in enumerate(changes):
        if change is not None:
            state.changes[i] = (*state.changes[i], change)
    _note_p(state, jobs, p)


def _staged(
    model: Model,
    state: _State,
    stage: Stage,
    number: int,
    moments: Moments,
    templates: Sequence[str],
) -> None:
    jobs = _jobs(model, state, stage, number, templates)
    if not jobs:
        _note_p(state, jobs, torch.zeros(0))
        return
    owner = torch.tensor([job.edit for job in jobs])
    places = search_places(model, stage)
    prompts = [FactPrompts(job.prompts, job.essence) for job in jobs]
    targets = search_targets(model, prompts, places, stage.search, state.changes, owner)
    _note_p(state, jobs, targets.p)
    kept = _kept_rows(model, state, stage.anchor) if stage.kept_weight else None
    for i, layer in enumerate(stage.layers):
        # a layer's projections are solved on the same state, then added together
        added = [
            _solved(
                model, state, stage, jobs, owner, places, targets, i, (site, layer), moments, kept
            )
            for site in stage.writes
        ]
        for by_edit in added:
            for edit, change in by_edit.items():
                state.changes[edit] = (*state.changes[edit], change)


def search_places(model: Model, stage: Stage) -> list[Place]:
    """Where a stage's vectors are searched."""
    if stage.spread == "joint":
        return [(site, layer) for layer in stage.layers for site in stage.writes]
    last = stage.layers[-1]
    bounded = model.arch.parts.ln2_post is not None
    if stage.target == "resid" and not bounded:
        return [("resid_post", last)]
    if stage.target == "mlp+attn":
        return [("mlp_post", last), ("z", last)]
    return [("mlp_post", last)]


def _solved(
    model: Model,
    state: _State,
    stage: Stage,
    jobs: Sequence[_Job],
    owner: Int[Tensor, " job"],
    places: Sequence[Place],
    targets: Targets,
    i: int,
    place: Place,
    moments: Moments,
    kept: "_KeptRows | None",
) -> dict[int, Change]:
    """The change of every edit at one projection."""
    residual = _residuals(model, state, stage, jobs, owner, places, targets, i, place)
    rows = [p for job in jobs for p in job.prompts]
    sizes = torch.tensor([len(job.prompts) for job in jobs])
    keys = keys_at(model, rows, place, state.changes, owner.repeat_interleave(sizes))
    columns = [
        _key_columns(job, part) for job, part in zip(jobs, keys.split(sizes.tolist()), strict=True)
    ]
    kept_keys = (
        None if kept is None else keys_at(model, kept.rows, place, state.changes, kept.owner)
    )
    metric = _metric(moments, stage, place)
    out: dict[int, Change] = {}
    for edit in dict.fromkeys(owner.tolist()):
        mine = [j for j, job in enumerate(jobs) if job.edit == edit]
        k = torch.cat([columns[j] for j in mine])
        r = torch.cat([residual[j].expand(len(columns[j]), -1) for j in mine])
        others = None if kept is None or kept_keys is None else kept_keys[kept.owner == edit].T
        up, down = solve(metric, k.T, r.T, stage.rho, others, stage.kept_weight)
        out[edit] = Change(place[0], place[1], up, down)
    return out


def _metric(moments: Moments, stage: Stage, place: Place) -> Metric:
    if place not in moments:
        raise FactError(
            f"the second moment of {place[0]} in layer {place[1]} is missing; compute it with "
            "second_moments(model, places_of(method))."
        )
    return Metric(stage.metric, moments[place])


def _key_columns(job: _Job, keys: Float[Tensor, "prompt d_in"]) -> Float[Tensor, "key d_in"]:
    """The bare cloze and the mean over its contexts, averaged to one key; other prompts singly."""
    n = job.n_cloze
    if n == 0:
        return keys
    cloze = keys[:1] if n == 1 else (keys[:1] + keys[1:n].mean(0, keepdim=True)) / 2
    return torch.cat([cloze, keys[n:]])


def _residuals(
    model: Model,
    state: _State,
    stage: Stage,
    jobs: Sequence[_Job],
    owner: Int[Tensor, " job"],
    places: Sequence[Place],
    targets: Targets,
    i: int,
    place: Place,
) -> Float[Tensor, "job d_model"]:
    """What a projection is to add at each fact's keys."""
    if stage.spread == "joint":
        return targets.delta[:, places.index(place)]
    aim = ("z", places[0][1]) if place[0] == "z" else places[0]
    at = places.index(aim)
    now = outputs_at(model, [job.prompts[0] for job in jobs], aim, state.changes, owner)
    left = stage.left(i)
    over = left if stage.spread == "linear" else left**0.5
    return (targets.initial[:, at] + targets.delta[:, at] - now) / over


@dataclass(frozen=True)
class _KeptRows:
    """Preserved questions of all edits."""

    rows: list[EditPrompt]
    owner: Int[Tensor, " row"]


def _kept_rows(model: Model, state: _State, anchor: Anchor) -> _KeptRows | None:
    by_edit = [kept_prompts(model, request.kept, anchor) for request in state.requests]
    owner = [edit for edit, mine in enumerate(by_edit) for _ in mine]
    rows = [prompt for mine in by_edit for prompt in mine]
    return _KeptRows(rows, torch.tensor(owner)) if rows else None


def places_of(method: Method) -> list[Place]:
    """The projections whose second moments a method needs."""
    stages = [stage for stage in method.stages if isinstance(stage, Stage)]
    places = ((site, layer) for stage in stages for layer in stage.layers for site in stage.writes)
    return list(dict.fromkeys(places))
