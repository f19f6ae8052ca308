"""From facts to changes: each stage of a method searched, solved and added, edit by edit.

Many independent edits are made in one batch: each is computed on the model under its own earlier
changes alone, as if the others did not exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.editing.change import Change, Changes, Place, taken_neurons
from circuits.editing.edit import ledger
from circuits.editing.evaluation.edited_models import token_likelihoods
from circuits.editing.fact import Fact, PreservedQuestion, refuse_conflicts
from circuits.editing.fact_prompts import (
    ASKED,
    BARE,
    EditPrompt,
    begun_targets,
    contrasts,
    edit_prompts,
    essence_prompt,
    preserved_prompts,
)
from circuits.editing.finetune import fine_tune
from circuits.editing.gradient_step import FeatureStatistics, gradient_tokens, step
from circuits.editing.keys import keys_at, outputs_at
from circuits.editing.methods import AnyStage, FineTune, GradientStep, Method, Neurons, Stage
from circuits.editing.moments import Moments
from circuits.editing.neurons import idle_neurons, neuron_changes, queries
from circuits.editing.norm_anchor import anchored
from circuits.editing.solver import KeyMetric, solve
from circuits.editing.targets import FactPrompts, search_places, search_targets
from circuits.editing.trunk import Trunk, TrunkRow
from interp.brief import brief
from interp.errors import DataError
from interp.model.model import Model


@brief
@dataclass(frozen=True)
class Request:
    """One edit to be made: its facts, written together, and the questions to preserve.

    `seen` are the statistics of the edits before it (`Written.statistics`).
    """

    facts: tuple[Fact, ...]
    preserved: tuple[PreservedQuestion, ...] = ()
    seen: tuple[FeatureStatistics, ...] = ()


@brief
@dataclass(frozen=True)
class Written:
    """What one request became.

    Attributes:
        p: by stage and fact, the target's probability that the search reached on the first
            prompt; `nan` where the stage had no prompt of the fact. Where what is written is not
            what a search found, its probability under the changes.
        skipped: why a stage left a fact out.
        statistics: of what a `GradientStep` normalised, of this edit alone.
    """

    changes: Changes
    p: tuple[tuple[float, ...], ...]
    skipped: tuple[str, ...] = ()
    statistics: tuple[FeatureStatistics, ...] = ()


def write(
    model: Model,
    requests: Sequence[Request],
    method: Method,
    moments: Moments,
    templates: Sequence[str] = BARE,
    start: Sequence[Changes] | None = None,
) -> list[Written]:
    """Compute the changes of many independent edits; the model's weights are not touched.

    `moments` are of every projection in `Method.places`, `templates` contexts of clozes; `start`
    are changes that each edit begins with, and that its result contains.

    Raises:
        DataError: facts of one request conflict, or a subject is not in its prompt.
        PlanError: the model lacks a projection, or keys cannot be solved for.
    """
    for request in requests:
        refuse_conflicts(request.facts)
    batch = _Batch(model, requests, moments, templates, list(start or [()] * len(requests)))
    for number, stage in enumerate(method.stages):
        batch.run(stage, number)
    parts = zip(batch.changes, batch.p, batch.skipped, batch.statistics, strict=True)
    return [Written(c, tuple(p), tuple(skipped), stats) for c, p, skipped, stats in parts]


@dataclass(frozen=True)
class _Job:
    """A fact in a stage: its edit and its prompts, whose clozes lead.

    `direct`: neurons for a fact that has no phrases which mean its subject without naming it.
    """

    edit: int
    fact: int
    prompts: FactPrompts
    n_cloze: int
    direct: bool


@dataclass
class _Batch:
    """All edits of a batch as they stand."""

    model: Model
    requests: Sequence[Request]
    moments: Moments
    templates: Sequence[str]
    changes: list[Changes]
    start: list[Changes] = field(init=False)
    p: list[list[tuple[float, ...]]] = field(init=False)
    skipped: list[list[str]] = field(init=False)
    statistics: list[tuple[FeatureStatistics, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.start = list(self.changes)
        self.p, self.skipped = [[] for _ in self.requests], [[] for _ in self.requests]
        self.statistics = [() for _ in self.requests]

    def run(self, stage: AnyStage, number: int) -> None:
        """One stage of all edits."""
        jobs = self._jobs(stage, number)
        p = torch.zeros(0)
        if isinstance(stage, FineTune):
            p = self._fine_tuned(stage, jobs)
        elif isinstance(stage, GradientStep):
            p = self._stepped(stage, jobs)
        elif jobs:
            neurons = isinstance(stage, Neurons)
            run = _NeuronStage(self, stage, jobs) if neurons else _ClosedForm(self, stage, jobs)
            p = run.targets.p
            for i in range(len(stage.layers)):
                for edit, changes in run.changes(i).items():
                    self.changes[edit] += changes
            if isinstance(stage, Stage) and stage.value_norm is not None:
                p = self._written_p(jobs)
        reached = {(job.edit, job.fact): float(value) for job, value in zip(jobs, p, strict=True)}
        for i, request in enumerate(self.requests):
            facts = range(len(request.facts))
            self.p[i].append(tuple(reached.get((i, j), float("nan")) for j in facts))

    def _jobs(self, stage: AnyStage, number: int) -> list[_Job]:
        """The facts that have prompts for this stage; the others are noted."""
        anchor, asked, templates = "last", ASKED[:1], self.templates
        if isinstance(stage, GradientStep):
            templates = BARE  # contexts would be written, too: it writes at every token
        elif not isinstance(stage, FineTune):
            # fine-tuning changes every token, so demonstrations would cost it a run of their own
            anchor, asked = stage.anchor, ASKED
        implied = isinstance(stage, Neurons) and stage.deep and stage.direct_ramp is None
        needed = ("two_hop",) if implied else stage.forms
        jobs: list[_Job] = []
        for i, request in enumerate(self.requests):
            for j, fact in enumerate(request.facts):
                by_form = {
                    form: edit_prompts(self.model, fact, form, anchor, templates, asked)
                    for form in stage.forms
                }
                if not any(by_form.get(form) for form in needed):
                    self.skipped[i].append(
                        f"stage {number}: {fact.cloze!r} has no {' or '.join(needed)} prompts"
                    )
                    continue
                learn = tuple(p for ps in by_form.values() for p in ps)
                prompts = FactPrompts(learn, essence_prompt(self.model, fact.subject, anchor))
                n_cloze = len(by_form.get("cloze", []))
                direct = isinstance(stage, Neurons) and not fact.implicit
                jobs.append(_Job(i, j, prompts, n_cloze, direct))
        return jobs

    def _fine_tuned(self, stage: FineTune, jobs: Sequence[_Job]) -> Float[Tensor, " job"]:
        owner = torch.tensor([job.edit for job in jobs])
        learn = [job.prompts.learn for job in jobs]
        if stage.ends:
            learn = [[prompt.ended(self.model) for prompt in prompts] for prompts in learn]
        preserved = self._last_preserved(stage)
        changes, p = fine_tune(self.model, learn, owner, stage, self.changes, preserved)
        for edit, made in changes.items():
            self.changes[edit] += (made,)
        return p

    def _last_preserved(self, stage: FineTune | GradientStep) -> list[list[EditPrompt]]:
        return [
            preserved_prompts(self.model, one.preserved if stage.preserved_weight else (), "last")
            for one in self.requests
        ]

    def _stepped(self, stage: GradientStep, jobs: Sequence[_Job]) -> Float[Tensor, " job"]:
        model, edits = self.model, sorted({job.edit for job in jobs})
        if not jobs:
            return torch.zeros(0)
        kept = self._last_preserved(stage)
        learn = [(job.edit, prompt) for job in jobs for prompt in job.prompts.learn]
        other = [(edit, prompt) for edit in edits for prompt in kept[edit]]
        owner = torch.tensor([edit for edit, _ in learn + other])
        prompts = [prompt for _, prompt in learn + other]
        found, row = gradient_tokens(model, prompts, stage.layers, self.changes, owner)
        for layer in stage.layers:
            for edit in edits:
                mine = owner[row] == edit
                own, others = mine & (row < len(learn)), mine & (row >= len(learn))
                more = found[layer].inputs[others] if others.any() else None
                seen = self.requests[edit].seen
                change, one = step(found[layer].only(own), stage, layer, seen, more)
                self.changes[edit] += (change,)
                self.statistics[edit] += (one,)
        return self._written_p(jobs)

    def _written_p(self, jobs: Sequence[_Job]) -> Float[Tensor, " job"]:
        """Each target's probability on its first prompt, under the changes as they stand."""
        first = [(job.edit, job.prompts.learn[0]) for job in jobs]
        rows = [(edit, prompt.ids, len(prompt.ids) - prompt.n_target) for edit, prompt in first]
        nll = [one.nll for one in token_likelihoods(self.model, rows, self.changes)]
        return (-torch.tensor(nll)).exp()


S = TypeVar("S", Stage, Neurons)


class _StageRun(Generic[S]):
    """One stage of all edits: its targets, its keys, and the preserved ones."""

    def __init__(self, batch: _Batch, stage: S, jobs: Sequence[_Job]):
        model = batch.model
        self.model, self.batch, self.stage, self.jobs = model, batch, stage, jobs
        self.places = search_places(model, stage)
        self.owner = torch.tensor([job.edit for job in jobs])
        self.sizes = torch.tensor([len(job.prompts.learn) for job in jobs])
        preserved: dict[int, list[EditPrompt]] = {edit: [] for edit in self.owner.tolist()}
        if stage.preserved_weight:
            for edit in preserved:
                asked = _preserved(stage, batch.requests[edit])
                preserved[edit] += preserved_prompts(model, asked, stage.anchor)
        if stage.preserved_weight and isinstance(stage, Neurons) and stage.deep:
            for job in jobs:
                preserved[job.edit] += begun_targets(job.prompts.learn)
        learn = [prompt for job in jobs for prompt in job.prompts.learn]
        self.n_learn = len(learn)
        self.prompts = [*learn, *(prompt for prompts in preserved.values() for prompt in prompts)]
        beside = [edit for edit, prompts in preserved.items() for _ in prompts]
        self.prompt_owner = torch.cat(
            [self.owner.repeat_interleave(self.sizes), torch.tensor(beside, dtype=torch.long)]
        )
        facts = [job.prompts for job in jobs]
        edits = [*batch.changes, *batch.start]  # direct facts are searched on the second half
        searched = [job.edit + len(batch.start) * job.direct for job in jobs]
        read = [one for fact, i in zip(facts, searched, strict=True) for one in fact.readings(i)]
        owners = self.prompt_owner.tolist()
        read += [TrunkRow(p, p.anchor + 1, i) for p, i in zip(self.prompts, owners, strict=True)]
        self.trunk = Trunk.of(model, read, edits, min(stage.layers))
        self.targets = search_targets(
            model, facts, self.places, stage.search, edits, torch.tensor(searched), self.trunk
        )
        if isinstance(stage, Stage) and stage.value_norm is not None:
            first = [job.prompts.learn[0] for job in jobs]
            norm, edits = stage.value_norm, batch.changes
            self.targets = anchored(model, self.targets, stage, norm, first, edits, self.owner)

    def keys(
        self, place: Place
    ) -> tuple[list[Float[Tensor, "prompt d_in"]], dict[int, Float[Tensor, "preserved d_in"]]]:
        """Each job's keys at a place, and each edit's preserved keys, as the edits stand."""
        found = keys_at(
            *(self.model, self.prompts, [place], self.batch.changes, self.prompt_owner),
            trunk=self.trunk,
        )[place]
        n, owner = self.n_learn, self.prompt_owner[self.n_learn :]
        own = list(found[:n].split(self.sizes.tolist()))
        return own, {i: found[n:][owner == i] for i in owner.unique().tolist()}

    def by_edit(self) -> dict[int, list[int]]:
        """The jobs of each edit."""
        edits = self.owner.unique().tolist()
        return {edit: (self.owner == edit).nonzero()[:, 0].tolist() for edit in edits}

    def moment(self, place: Place) -> Float[Tensor, "d_in d_in"]:
        """Of what is read at a place; `DataError` where it was not given."""
        if place not in self.batch.moments:
            raise DataError(
                f"the second moment of {place[0]} in layer {place[1]} is missing; compute it with "
                "second_moments(model, method.places)."
            )
        return self.batch.moments[place]


def _preserved(stage: Stage | Neurons, request: Request) -> tuple[PreservedQuestion, ...]:
    facts = request.facts if stage.contrasts else ()
    more = (contrasts(fact, request.preserved) for fact in facts)
    return request.preserved + tuple(question for questions in more for question in questions)


class _ClosedForm(_StageRun[Stage]):
    """A closed form for each projection of each layer."""

    def changes(self, i: int) -> dict[int, Changes]:
        """The changes of every edit in the i-th layer, solved on one state."""
        layer = self.stage.layers[i]
        found = [self._changes_at(i, (site, layer)) for site in self.stage.writes]
        return {edit: tuple(one[edit] for one in found) for edit in found[0]}

    def _changes_at(self, i: int, place: Place) -> dict[int, Change]:
        stage, metric = self.stage, KeyMetric(self.stage.metric, self.moment(place))
        residual, (keys, preserved) = self._residuals(i, place), self.keys(place)
        columns = [_key_columns(job, part) for job, part in zip(self.jobs, keys, strict=True)]
        out: dict[int, Change] = {}
        for edit, mine in self.by_edit().items():
            k = torch.cat([columns[j] for j in mine])
            r = torch.cat([residual[j].expand(len(columns[j]), -1) for j in mine])
            others = preserved.get(edit, k[:0])
            factors = solve(metric, k.T, r.T, stage.rho, others.T, stage.preserved_weight)
            out[edit] = Change(*place, *factors)
        return out

    def _residuals(self, i: int, place: Place) -> Float[Tensor, "job d_model"]:
        """What a projection is to add at each fact's keys."""
        stage, targets = self.stage, self.targets
        if stage.spread == "joint":
            return targets.delta[:, self.places.index(place)]
        aim = ("z", self.places[0][1]) if place[0] == "z" else self.places[0]
        at = self.places.index(aim)
        first = [job.prompts.learn[0] for job in self.jobs]
        now = outputs_at(self.model, first, aim, self.batch.changes, self.owner, self.trunk)
        left = stage.left(i)
        over = left if stage.spread == "linear" else left**0.5
        return (targets.initial[:, at] + targets.delta[:, at] - now) / over


def _key_columns(job: _Job, keys: Float[Tensor, "prompt d_in"]) -> Float[Tensor, "key d_in"]:
    """The bare cloze and the mean over its contexts, averaged to one key; other prompts singly."""
    n = job.n_cloze
    if n == 0:
        return keys
    cloze = keys[:1] if n == 1 else (keys[:1] + keys[1:n].mean(0, keepdim=True)) / 2
    return torch.cat([cloze, keys[n:]])


class _NeuronStage(_StageRun[Neurons]):
    """Two neurons per fact in each layer."""

    def changes(self, i: int) -> dict[int, Changes]:
        """The changes of every edit in the i-th layer."""
        stage, model, layer = self.stage, self.model, self.stage.layers[i]
        metric = KeyMetric(stage.metric, self.moment(("gate", layer)))
        written = self.moment(("mlp_post", layer))
        keys, preserved = self.keys(("gate", layer))
        carried = ledger(model).taken(layer)
        out: dict[int, Changes] = {}
        for edit, mine in self.by_edit().items():
            fact = torch.repeat_interleave(torch.arange(len(mine)), self.sizes[mine])
            own, others = torch.cat([keys[j] for j in mine]), preserved.get(edit)
            found = queries(metric, own, fact, stage.rho, others, stage.preserved_weight)
            taken = carried | taken_neurons(self.batch.changes[edit], layer)
            chosen = idle_neurons(model, layer, written, 2 * len(mine), taken)
            delta = self.targets.delta[mine, i].double().cpu()
            direct = stage.direct_ramp or stage.ramp
            ramps = [direct if self.jobs[j].direct else stage.ramp for j in mine]
            out[edit] = neuron_changes(model, layer, chosen, found, delta, ramps)
        return out
