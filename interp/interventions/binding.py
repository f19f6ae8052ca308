"""Resolve a plan against a model and a batch of prompts, and check that it can be carried out."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.data.prompts import Positions, TokenPrompt
from interp.errors import PlanError
from interp.interventions.batch_run import BoundEdit, BoundKnockOut, Run, Scope
from interp.interventions.plan import KnockOut, Plan, ProjectOut
from interp.interventions.site_edit import SiteEdit
from interp.model.model import Model
from interp.model.sites import Site

SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")
BEHIND_AN_END = "\"'”’»)]*_ \n\t"
"""Marks that may follow the end of a sentence within its token."""


def bind(
    model: Model,
    plan: Plan,
    prompts: Sequence[TokenPrompt] | None,
    numbers: Sequence[int] | None = None,
    rows: Bool[Tensor, " row"] | None = None,
) -> Run:
    """Resolve a plan against a model and a batch; `PlanError` if it cannot be carried out.

    `prompts` are the rows of the batch; ``None`` where they are not known, which only
    interventions at all positions can do without. `numbers` says which entry of a value's prompt
    axis each row takes, by default its own; `rows`, which rows the plan is for.
    """
    n = len(prompts) if prompts is not None else 0
    which = torch.ones(n, dtype=torch.bool) if rows is None else rows
    entry = None if prompts is None else torch.tensor(numbers or range(n))
    if prompts is not None and numbers is None:
        check_values(plan, prompts)
    lengths = None if prompts is None else torch.tensor([len(prompt.ids) for prompt in prompts])
    run = Run([], [], lengths)
    for step in plan:
        if isinstance(step, KnockOut):
            queries, keys = (resolve(p, prompts, which) for p in (step.queries, step.keys))
            heads: Any = step.heads
            for layer in chosen_layers(model, attending_layers(model), step.layers):
                _check_units(heads, model.arch.layers[layer].n_heads, "head", model)
                run.knock_outs.append(BoundKnockOut(layer, queries, keys, heads))
            continue
        site, layers = site_layers(model, step.site, step.layers)
        scope = resolve(step.positions, prompts, which)
        features = _features(model, site, layers, step.units)
        axes = _axes(step, model.width(site, layers) if step.tensors else None)
        if len(axes) == 2 and (entry is None or bool((entry[which] >= axes[0]).any())):
            raise PlanError(
                f"the value for {step.site} holds one entry for each of {axes[0]} prompts; apply "
                "it to those prompts."
            )
        positional = axes[-1] if axes and axes[-1] > 1 else None
        rewrites = step.rewrite(features).of_layers(len(layers))
        fade = step.fade
        if fade is not None and prompts is None:
            raise PlanError(
                f"hold={fade.hold!r} needs the prompts; give them: applied(model, plan, prompts)."
            )
        if fade is not None and fade.hold == "sentence":
            run.ends_sentence = _sentence_ends(model)
        run.edits += [
            BoundEdit(site, layer, scope, features, rewrite, entry, positional, fade)
            for layer, rewrite in zip(layers, rewrites, strict=True)
        ]
    return run


def _sentence_ends(model: Model) -> Callable[[int], bool]:
    @functools.cache
    def ends(token: int) -> bool:
        return model.token(token).rstrip(BEHIND_AN_END).endswith(SENTENCE_ENDS)

    return ends


def _axes(step: SiteEdit, width: int | None = None) -> tuple[int, ...]:
    """Sizes of a value's prompt and position axes, as far as it has them; checks its width."""
    for name, value in step.held():
        if width is not None and value.shape[-1] != width:
            raise PlanError(
                f"{type(step).__name__}.{name} at {step.site!r} has width {value.shape[-1]}, but "
                f"the site's is {width} (give whole vectors; `units` selects)."
            )
        return () if isinstance(step, ProjectOut) else tuple(value.shape[:-1][-2:])
    return ()


def check_values(plan: Plan, prompts: Sequence[TokenPrompt]) -> None:
    """Refuse values that do not belong to these prompts, before they are run batch by batch.

    So is a value ``[n, width]``, which has a position axis, where there are n prompts and none of
    them has n tokens.
    """
    n, longest = len(prompts), max(len(prompt.ids) for prompt in prompts)
    for step in plan.edits:
        axes, what = _axes(step), f"{type(step).__name__}.{''.join(step.tensors)} at {step.site!r}"
        if len(axes) == 2 and axes[0] != n:
            raise PlanError(
                f"{what} holds one entry for each of {axes[0]} prompts, but "
                f"{n} {'is' if n == 1 else 'are'} run; apply it to those prompts."
            )
        if len(axes) == 1 and axes[0] == n != longest and n > 1:
            raise PlanError(
                f"{what} has shape [{n}, width], which means {n} positions, but there are {n} "
                f"prompts of at most {longest} tokens; for one value per prompt, give the "
                "recorded Activations themselves or [prompt, pos, width]."
            )


def resolve(
    positions: Positions, prompts: Sequence[TokenPrompt] | None, rows: Bool[Tensor, " row"]
) -> Scope:
    """Which tokens a scope means in each row; `PlanError` where that is not known."""
    if prompts is None:
        if positions != "all":
            raise PlanError(
                f"positions={positions!r} needs the prompts; give them: applied(model, plan, "
                "prompts)."
            )
        return Scope(None, torch.zeros(0), rows, True)
    length = torch.tensor([len(prompt.ids) for prompt in prompts])
    table = torch.zeros(len(prompts), int(length.max()), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        if rows[row]:
            table[row, list(prompt.positions(positions))] = True
    return Scope(table, length, rows, positions in ("all", "decoded", "generating"))


def site_layers(
    model: Model, site: str, layers: int | Sequence[int] | None
) -> tuple[Site, Sequence[int]]:
    """A site, and its layers: those given, the one in its name, or all; `PlanError` if none."""
    where, named = model.site(site)
    chosen = chosen_layers(model, model.layers_with(where), layers, named, site)
    model.check_layers(chosen, where)
    return where, chosen


def chosen_layers(
    model: Model,
    every: Sequence[int],
    layers: int | Sequence[int] | None,
    named: int | None = None,
    site: str = "",
) -> Sequence[int]:
    """The layers given, the one that the site's name says, or `every`; errors as `site_layers`."""
    given = named if layers is None else layers
    given = (given,) if isinstance(given, int) else given
    chosen = every if given is None else given
    if not chosen:
        raise PlanError("layers is empty, so nothing would change; name at least one.")
    model.check_layers(chosen)
    if named is not None and tuple(chosen) != (named,):
        raise PlanError(
            f"{site!r} names layer {named}, but layers={layers}; leave one of them out."
        )
    return chosen


def attending_layers(model: Model) -> Sequence[int]:
    """The layers that attend; `PlanError` where none does."""
    layers = [i for i, block in enumerate(model.arch.layers) if block.attention is not None]
    if not layers:
        raise PlanError(f"{model.name} has no attention: no patterns to read, and none to cut.")
    return layers


def _features(
    model: Model, site: Site, layers: Sequence[int], units: Any
) -> Int[Tensor, " feature"] | None:
    """The features of the chosen heads or neurons."""
    if units is None:
        return None
    n = model.n_units(site, layers)
    if site.units == "d_model":
        raise PlanError(f"site {site.name!r} has no heads or neurons; leave `units` out.")
    _check_units(units, n, site.units.replace("_", "-"), model)
    each = model.width(site, layers) // n
    return torch.tensor([u * each + i for u in units for i in range(each)])


def _check_units(units: Sequence[int] | None, n: int, name: str, model: Model) -> None:
    wrong = [u for u in units or () if not 0 <= u < n]
    if wrong:
        raise PlanError(f"{name} {wrong[0]} is out of range: {model.name} has 0 to {n - 1}.")
