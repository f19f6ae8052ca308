"""Predictions under plans: one plan over prompts, or many plans over pairs, in batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.brief import brief
from interp.data.pairs import AnswerMode, PromptPairs, TokenPair, load_pairs, tokenise, warn_of
from interp.data.prompts import Prompts, TokenPrompt, as_prompts, batches, pad, prompts_of
from interp.data.token_batch import TokenBatch, laid_out
from interp.errors import PlanError
from interp.forward.alias_runs import by_alias
from interp.forward.argument_axes import BlockState
from interp.forward.budget import default_budget
from interp.forward.continuations import record_batch, unread
from interp.forward.hooks import hook_site
from interp.forward.layer_calls import positions_and_mask
from interp.forward.readout import measure
from interp.interventions.batch_run import Run, Window
from interp.interventions.binding import bind, check_values, site_layers
from interp.interventions.native import hooked_run
from interp.interventions.plan import AnyPlan, KnockOut, Plan, as_plan
from interp.metrics import AnyMetric, Metric, as_metric
from interp.model.model import Model
from interp.model.sites import SITES


@brief
@dataclass(frozen=True)
class Prediction:
    """The residual stream after the last block at each prompt's last token, and fp32 logits."""

    resid: Float[Tensor, "prompt d_model"]
    logits: Float[Tensor, "prompt vocab"]


def forward(model: Model, prompts: Prompts, plan: AnyPlan = ()) -> Prediction:
    """Run prompts (of pairs, the clean ones) under a plan and predict the next token of each.

    Raises:
        PlanError: a site, layer or unit that the model does not have, or the plan cannot be
            carried out on these prompts.
    """
    rows, steps = as_prompts(model, prompts), as_plan(plan)
    check_values(steps, rows)
    resid = torch.zeros(len(rows), model.arch.d_model, dtype=model.dtype)
    with torch.no_grad():
        for group in batches(model, rows, default_budget(model)):
            part = [rows[i] for i in group]
            resid[group] = final_resid(model, part, bind(model, steps, part, group)).to(resid)
        return Prediction(resid, model.logits(resid).cpu())


def final_resid(
    model: Model, prompts: Sequence[TokenPrompt], run: Run
) -> Float[Tensor, "prompt d_model"]:
    """The residual stream after the last block at each prompt's last token, differentiable."""
    ids, mask = pad(model, prompts)
    top, found = model.arch.n_layers - 1, list[Tensor]()
    with hooked_run(model, run):
        # after the plan's own hooks, so that it sees what they wrote
        remove = hook_site(model, SITES["resid_post"], top, lambda a: found.append(a[:, -1]))
        try:
            model.body(input_ids=ids, use_cache=False, **positions_and_mask(model, mask))
        finally:
            remove()
    return found[0]


def sweep_plans(
    model: Model,
    pairs: PromptPairs | Sequence[TokenPair] | Any,
    plans: Mapping[str, AnyPlan] | Sequence[AnyPlan],
    metric: AnyMetric = "logit_diff",
    run: Literal["clean", "corrupt"] = "clean",
    *,
    answers: AnswerMode = "whole",
) -> xr.DataArray:
    """A metric under each of many plans, for each pair; plans and pairs share batches.

    Whole answers are read behind the prompt; to plans, their tokens are like decoded ones, in
    ``positions="all"`` or ``"decoded"``.

    Args:
        model: the model.
        pairs: anything `load_pairs` takes, or already in tokens; rows that do not fit the model
            are left out, with an `InterpWarning`.
        plans: by name, or numbered. In values with a prompt axis, entry i is for pair i.
        metric: as `interp.patch` takes it.
        run: which prompt of each pair is run.
        answers: as `interp.patch` takes it; of no effect on pairs that are already in tokens.

    Returns:
        Values with dims (pair, plan), the pairs' ids and the plans' names as coordinates;
        ``attrs["excluded"]`` has the reason for each row that is left out, by id.

    Raises:
        PlanError: unknown metric, or a plan that cannot be carried out on these prompts.
    """
    rows, attrs = pairs, {"excluded": dict[str, str]()}
    if not (isinstance(rows, list | tuple) and all(isinstance(one, TokenPair) for one in rows)):
        rows, refused = tokenise(model, load_pairs(rows), answers)
        attrs = {"excluded": warn_of(refused, len(rows))}
    named = dict(plans) if isinstance(plans, Mapping) else dict(enumerate(plans))
    steps = [as_plan(plan) for plan in named.values()]
    chosen, prompts = as_metric(metric), prompts_of(rows, run)
    for plan in steps:
        check_values(plan, prompts)
        if any(step.fade is not None for step in plan.edits):
            raise PlanError("`hold` is about generated text; leave it out of plans to sweep.")

    def measured(some: Sequence[TokenPair], one: Metric) -> list[np.ndarray]:
        return [_measured(model, some, steps, one, run)]

    if not unread(model, rows, chosen.n_answers):
        (values,) = measured(rows, chosen)
    else:
        (values,) = by_alias(chosen, rows, measured)
    coords = {"pair": [row.pair.id for row in rows], "plan": list(named)}
    attrs |= {"metric": chosen.name, "unit": chosen.unit, "run": run, "model": model.name}
    return xr.DataArray(values, coords, ("pair", "plan"), chosen.name, attrs)


def _measured(
    model: Model,
    rows: Sequence[TokenPair],
    steps: Sequence[Plan],
    metric: Metric,
    run: Literal["clean", "corrupt"],
) -> Float[np.ndarray, "pair plan"]:
    """A metric under each plan, for each pair, all answers of a pair in one row."""
    prompts = prompts_of(rows, run)
    values = np.zeros((len(rows), len(steps)))
    clean = forward(model, prompts_of(rows)).resid if metric.reads == "clean" else None
    with torch.no_grad():
        for group, which in _blocks(model, prompts, steps):
            part, some = [prompts[i] for i in group], [steps[j] for j in which]
            read = [rows[i].answers[: metric.n_answers] for i in group]
            first = [(rows[i].answer, rows[i].wrong_answer) for i in group]
            tokens = laid_out(model, [prompt.ids for prompt in part], read, first)
            resid = _run_plans(model, part, tokens, group, some)
            pair = torch.tensor(group).repeat(len(which))
            reference = None if clean is None else clean[pair].to(resid.device)
            own = tokens.answers[torch.arange(len(group)).repeat(len(which))]
            measured = measure(model, metric, resid, own, reference).double()
            values[np.ix_(group, which)] = measured.view(len(which), len(group)).T
    return values


def _blocks(
    model: Model, prompts: Sequence[TokenPrompt], plans: Sequence[Plan]
) -> list[tuple[list[int], list[int]]]:
    """Pairs x plans in batches: pairs of like length, and plans in order of their first layer."""
    budget = default_budget(model)
    order = sorted(range(len(plans)), key=lambda j: _entry(model, plans[j]))
    blocks: list[tuple[list[int], list[int]]] = []
    for group in batches(model, prompts, budget):
        once = max(1, budget // (len(group) * len(prompts[group[0]].ids)) - 1)
        blocks += [(group, order[lo : lo + once]) for lo in range(0, len(order), once)]
    return blocks


def _entry(model: Model, plan: Plan) -> int:
    """The first layer that a plan touches; below it nothing differs from the plain run."""
    layers = [min(site_layers(model, step.site, step.layers)[1]) for step in plan.edits]
    cuts: list[Any] = [step.layers or (0,) for step in plan if isinstance(step, KnockOut)]
    return min([*layers, *map(min, cuts)], default=model.arch.n_layers)


def _run_plans(
    model: Model,
    prompts: Sequence[TokenPrompt],
    tokens: TokenBatch,
    numbers: list[int],
    plans: Sequence[Plan],
) -> Float[Tensor, "row node d_model"]:
    """Final residual streams where answers are read, plan by plan, each over all prompts.

    The layers are called one by one on a growing batch: the prompts unpatched, and from its first
    layer on (in ascending order) each plan's own copy of them.
    """
    n, entry = len(prompts), [_entry(model, plan) for plan in plans]
    calls = record_batch(model, tokens)
    which = torch.arange(n).repeat(1 + len(plans))
    # one run in which each plan edits its own rows; the first rows are nobody's
    rows, owner = [*prompts] * (1 + len(plans)), torch.arange(-1, len(plans)).repeat_interleave(n)
    run = bind(model, Plan(), rows)
    for j, plan in enumerate(plans):
        one = bind(model, plan, rows, numbers * (1 + len(plans)), owner == j)
        run.edits += one.edits
        run.knock_outs += one.knock_outs
    window = Window.of(tokens.mask.cpu()[which])
    hidden, state = calls.embeddings, BlockState(calls.arguments)
    state.join(which[:n])
    with hooked_run(model, run):
        for layer, block in enumerate(model.blocks):
            present = n * (1 + sum(first <= layer for first in entry))
            joining = which[len(hidden) : present].to(hidden.device)
            hidden = torch.cat([hidden, hidden[joining]])
            run.window = window.first(present)
            state.join(joining)
            kwargs = state.given(calls.of_rows(layer, which[:present]))
            hidden = state.after(block(hidden, **kwargs))
    # a plan that touches nothing never joined: it is the plain run
    row = torch.where(torch.arange(len(which)) < len(hidden), torch.arange(len(which)), which)[n:]
    return hidden[row[:, None].to(hidden.device), tokens.columns[which[n:]].to(hidden.device)]
