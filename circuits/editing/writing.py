"""From facts to changes: each stage of a method searched, solved and added, edit by edit.

Many independent edits are made in one batch: each is computed on the model under its own earlier
changes alone, as if the others did not exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.editing.changes import Change, Changes, taken_neurons
from circuits.editing.facts import Fact, refuse_conflicts
from circuits.editing.finetuning import fine_tune
from circuits.editing.keys import Place, keys_at, outputs_at
from circuits.editing.ledger import ledger
from circuits.editing.methods import FineTune, Method, Neurons, Placement, Stage
from circuits.editing.moments import N_TOKENS, Moment, Moments, second_moments
from circuits.editing.neurons import idle_neurons, neuron_changes, queries
from circuits.editing.prompting import (
    ASKED,
    BARE,
    EditPrompt,
    Kept,
    begun,
    contrasts,
    edit_prompts,
    essence_prompt,
    kept_prompts,
)
from circuits.editing.search import FactPrompts, search_targets
from circuits.editing.solving import Metric, solve
from interp.brief import brief
from interp.errors import DataError
from interp.model.model import Model
from interp.progress import Progress


@brief
@dataclass(frozen=True)
class Request:
    """One edit to be made: its facts, written together, and the questions to leave alone."""

    facts: tuple[Fact, ...]
    kept: tuple[Kept, ...] = ()


@brief
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
        DataError: facts of one request conflict, a subject is not in its prompt, …
        PlanError: keys that cannot be solved for.
        PlanError: the model lacks a projection.
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
    model: Model,
    state: _State,
    stage: Stage | Neurons | FineTune,
    number: int,
    templates: Sequence[str],
) -> list[_Job]:
    """The facts that have prompts for this stage; the others are noted."""
    # fine-tuning changes every token, so long demonstrations would cost it a run of their own
    anchor, asked = ("last", ASKED[:1]) if isinstance(stage, FineTune) else (stage.anchor, ASKED)
    jobs: list[_Job] = []
    for i, request in enumerate(state.requests):
        for j, fact in enumerate(request.facts):
            by_form = {
                form: edit_prompts(model, fact, form, anchor, templates, asked)
                for form in stage.forms
            }
            prompts = tuple(p for ps in by_form.values() for p in ps)
            deep = isinstance(stage, Neurons) and stage.deep
            needed = ("two_hop",) if deep else stage.forms
            if not any(by_form.get(form) for form in needed):
                state.skipped[i].append(
                    f"stage {number}: {fact.cloze!r} has no {' or '.join(needed)} prompts"
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
    kept = [
        kept_prompts(model, request.kept if stage.kept_weight else (), "last")
        for request in state.requests
    ]
    owner = torch.tensor([job.edit for job in jobs])
    changes, p = fine_tune(model, [job.prompts for job in jobs], owner, stage, state.changes, kept)
    for i, change in enumerate(changes):
        if change is not None:
            state.changes[i] = (*state.changes[i], change)
    _note_p(state, jobs, p)


def _staged(
    model: Model,
    state: _State,
    stage: Stage | Neurons,
    number: int,
    moments: Moments,
    templates: Sequence[str],
) -> None:
    jobs = _jobs(model, state, stage, number, templates)
    if not jobs:
        _note_p(state, jobs, torch.zeros(0))
        return
    if isinstance(stage, Neurons):
        run = _NeuronRun(model, state, stage, jobs, moments)
    else:
        run = _StageRun(model, state, stage, jobs, moments)
    _note_p(state, jobs, run.targets.p)
    for i in range(len(stage.layers)):
        for edit, changes in run.changes(i).items():
            state.changes[edit] = (*state.changes[edit], *changes)


def search_places(model: Model, stage: Stage | Neurons) -> list[Place]:
    """Where a stage's vectors are searched."""
    if isinstance(stage, Neurons):
        return [("mlp_post", layer) for layer in stage.layers]
    if stage.spread == "joint":
        return [(site, layer) for layer in stage.layers for site in stage.writes]
    last = stage.layers[-1]
    bounded = model.arch.parts.ln2_post is not None
    if stage.target == "resid" and not bounded:
        return [("resid_post", last)]
    if stage.target == "mlp+attn":
        return [("mlp_post", last), ("z", last)]
    return [("mlp_post", last)]


class _Run:
    """One stage of all edits: its targets, its keys, and those to be left alone."""

    def __init__(
        self,
        model: Model,
        state: _State,
        stage: Stage | Neurons,
        jobs: Sequence[_Job],
        moments: Moments,
    ):
        self.model, self.state, self.jobs = model, state, jobs
        self.moments, self.places = moments, search_places(model, stage)
        self.owner = torch.tensor([job.edit for job in jobs])
        self.sizes = torch.tensor([len(job.prompts) for job in jobs])
        self.prompts = [prompt for job in jobs for prompt in job.prompts]
        facts = [FactPrompts(job.prompts, job.essence) for job in jobs]
        self.targets = search_targets(
            model, facts, self.places, stage.search, state.changes, self.owner
        )
        asked = state.requests if stage.kept_weight else ()
        kept = [kept_prompts(model, _preserved(stage, one), stage.anchor) for one in asked]
        if kept and isinstance(stage, Neurons) and stage.deep:
            for job in jobs:
                kept[job.edit] += begun(job.prompts)
        self.kept = [prompt for prompts in kept for prompt in prompts]
        self.kept_owner = torch.tensor([i for i, prompts in enumerate(kept) for _ in prompts])

    def keys(
        self, place: Place
    ) -> tuple[list[Float[Tensor, "prompt d_in"]], list[Float[Tensor, "kept d_in"]] | None]:
        """Each job's keys at a place, and each edit's keys to be left alone, as the edits stand."""
        owner = self.owner.repeat_interleave(self.sizes)
        found = keys_at(self.model, self.prompts, [place], self.state.changes, owner)[place]
        own = list(found.split(self.sizes.tolist()))
        if not self.kept:
            return own, None
        kept = keys_at(self.model, self.kept, [place], self.state.changes, self.kept_owner)[place]
        return own, [kept[self.kept_owner == i] for i in range(len(self.state.requests))]

    def by_edit(self) -> dict[int, list[int]]:
        """Edit -> its jobs."""
        return {
            edit: (self.owner == edit).nonzero()[:, 0].tolist()
            for edit in self.owner.unique().tolist()
        }

    def moment(self, place: Place) -> Moment:
        """Of what is read at a place.

        Raises:
            DataError: it was not given.
        """
        if place not in self.moments:
            raise DataError(
                f"the second moment of {place[0]} in layer {place[1]} is missing; compute it with "
                "second_moments(model, places_of(method))."
            )
        return self.moments[place]


def _preserved(stage: Stage | Neurons, request: Request) -> tuple[Kept, ...]:
    if not stage.contrasts:
        return request.kept
    return request.kept + tuple(k for fact in request.facts for k in contrasts(fact, request.kept))


class _StageRun(_Run):
    """A closed form for each projection of each layer."""

    def __init__(
        self, model: Model, state: _State, stage: Stage, jobs: Sequence[_Job], moments: Moments
    ):
        super().__init__(model, state, stage, jobs, moments)
        self.stage = stage

    def changes(self, i: int) -> dict[int, Changes]:
        """The changes of every edit in the i-th layer, solved on one state."""
        layer = self.stage.layers[i]
        found = [self._changes_at(i, (site, layer)) for site in self.stage.writes]
        return {edit: tuple(one[edit] for one in found) for edit in found[0]}

    def _changes_at(self, i: int, place: Place) -> dict[int, Change]:
        stage, metric = self.stage, Metric(self.stage.metric, self.moment(place))
        residual, (keys, kept) = self._residuals(i, place), self.keys(place)
        columns = [_key_columns(job, part) for job, part in zip(self.jobs, keys, strict=True)]
        out: dict[int, Change] = {}
        for edit, mine in self.by_edit().items():
            k = torch.cat([columns[j] for j in mine])
            r = torch.cat([residual[j].expand(len(columns[j]), -1) for j in mine])
            others = None if kept is None else kept[edit].T
            out[edit] = Change(
                *place, *solve(metric, k.T, r.T, stage.rho, others, stage.kept_weight)
            )
        return out

    def _residuals(self, i: int, place: Place) -> Float[Tensor, "job d_model"]:
        """What a projection is to add at each fact's keys."""
        stage, targets = self.stage, self.targets
        if stage.spread == "joint":
            return targets.delta[:, self.places.index(place)]
        aim = ("z", self.places[0][1]) if place[0] == "z" else self.places[0]
        at = self.places.index(aim)
        first = [job.prompts[0] for job in self.jobs]
        now = outputs_at(self.model, first, aim, self.state.changes, self.owner)
        left = stage.left(i)
        over = left if stage.spread == "linear" else left**0.5
        return (targets.initial[:, at] + targets.delta[:, at] - now) / over


class _NeuronRun(_Run):
    """Two neurons a fact in each layer."""

    def __init__(
        self, model: Model, state: _State, stage: Neurons, jobs: Sequence[_Job], moments: Moments
    ):
        super().__init__(model, state, stage, jobs, moments)
        self.stage = stage

    def changes(self, i: int) -> dict[int, Changes]:
        """The changes of every edit in the i-th layer."""
        stage, layer = self.stage, self.stage.layers[i]
        metric = Metric(stage.metric, self.moment(("gate", layer)))
        keys, kept = self.keys(("gate", layer))
        out: dict[int, Changes] = {}
        for edit, mine in self.by_edit().items():
            fact = torch.repeat_interleave(torch.arange(len(mine)), self.sizes[mine])
            own, others = torch.cat([keys[j] for j in mine]), None if kept is None else kept[edit]
            tau, beta = queries(metric, own, fact, stage.rho, others, stage.kept_weight)
            chosen = idle_neurons(
                self.model,
                layer,
                self.moment(("mlp_post", layer)),
                2 * len(mine),
                self._taken(edit, layer),
            )
            delta = self.targets.delta[mine, i].double().cpu()
            out[edit] = neuron_changes(self.model, layer, chosen, tau, beta, delta, stage.ramp)
        return out

    def _taken(self, edit: int, layer: int) -> set[int]:
        carried = (c for one in ledger(self.model).applied for c in one.changes)
        return taken_neurons((*carried, *self.state.changes[edit]), layer)


def _key_columns(job: _Job, keys: Float[Tensor, "prompt d_in"]) -> Float[Tensor, "key d_in"]:
    """The bare cloze and the mean over its contexts, averaged to one key; other prompts singly."""
    n = job.n_cloze
    if n == 0:
        return keys
    cloze = keys[:1] if n == 1 else (keys[:1] + keys[1:n].mean(0, keepdim=True)) / 2
    return torch.cat([cloze, keys[n:]])


def moments_for(
    model: Model,
    methods: Sequence[Method],
    placement: Placement | None,
    n_tokens: int = N_TOKENS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Moments:
    """All moments that methods need: those of a placement, the rest over the model's samples."""
    given = placement.moments if placement else {}
    needed = dict.fromkeys(place for method in methods for place in places_of(method))
    missing = [place for place in needed if place not in given]
    if not missing:
        return dict(given)
    return given | second_moments(model, missing, n_tokens=n_tokens, seed=seed, progress=progress)


def places_of(method: Method) -> list[Place]:
    """The projections whose second moments a method needs."""
    places: list[Place] = []
    for stage in method.stages:
        if isinstance(stage, FineTune):
            continue
        reads = ("gate", "mlp_post") if isinstance(stage, Neurons) else stage.writes
        places += [(site, layer) for layer in stage.layers for site in reads]
    return list(dict.fromkeys(places))
