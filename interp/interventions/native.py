"""Carry out a plan with hooks on the untouched model: the native engine."""

import contextlib
from collections.abc import Generator
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from interp.data.prompts import Prompts, as_prompts
from interp.errors import PlanError
from interp.forward.hooks import hook_site
from interp.forward.prefix_cache import cache_in
from interp.interventions.batch_run import BoundKnockOut, Run, Window
from interp.interventions.binding import bind
from interp.interventions.plan import AnyPlan, as_plan
from interp.model.model import Model


@contextlib.contextmanager
def applied(model: Model, plan: AnyPlan, prompts: Prompts | None = None) -> Generator[Run]:
    """Carry out a plan in every forward pass of ``model.hf`` inside the ``with`` block.

    Padding may be on either side: scopes refer to real tokens, as the attention mask tells.

    Interventions at the same site apply in the plan's order. `prompts` are the rows of the batches
    that will be run; without them only ``positions="all"`` has a meaning.

    Raises:
        PlanError: a site, layer or unit that the model does not have; the plan cannot be carried
            out on these prompts, or another batch is run.
    """
    run = bind(model, as_plan(plan), None if prompts is None else as_prompts(model, prompts))
    with hooked_run(model, run):
        yield run


@contextlib.contextmanager
def hooked_run(model: Model, run: Run) -> Generator[None]:
    """Install a run's hooks; they are gone on exit, whatever happened."""
    with contextlib.ExitStack() as stack:
        enter = model.body.register_forward_pre_hook(partial(_enter, run), with_kwargs=True)
        stack.callback(enter.remove)
        for edit in run.edits:
            stack.callback(hook_site(model, edit.site, edit.layer, partial(edit, run=run)))
        for knock_out in run.knock_outs:
            attention = attending(model, knock_out.layer)
            hook = partial(_cut, model, run, knock_out)
            stack.callback(attention.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def attending(model: Model, layer: int) -> nn.Module:
    """The module that attends in a layer; `PlanError` where it has none."""
    module = model.attention(layer)
    if module is None:
        raise PlanError(
            f"layer {layer} of {model.name} has no attention that a KnockOut could cut; name "
            "layers that have."
        )
    return module


def _enter(run: Run, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = [args[0] if args else None, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
    ids = next(x for x in given if x is not None)
    cache = cache_in(kwargs)
    start = int(cache.get_seq_length()) if cache is not None else 0
    run.enter(ids, kwargs.get("attention_mask"), start, cache)


def _cut(
    model: Model,
    run: Run,
    knock_out: BoundKnockOut,
    _: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Give the attention module a mask with a knock-out's edges cut.

    Hugging Face passes a boolean one (True = attend), an additive one, or ``None`` where plain
    causality is enough.
    """
    if model.attention_implementation not in ("sdpa", "eager"):
        raise PlanError(
            f"KnockOut needs 'sdpa' or 'eager' attention, not {model.attention_implementation!r}; "
            "load the model with one of them."
        )
    window, mask = run.tokens, kwargs.get("attention_mask")
    n_keys, offset = window.n_new, 0
    if window.cache is not None:
        n_keys, offset = window.cache.get_mask_sizes(window.n_new, knock_out.layer)
    cut = knock_out.cut(window, n_keys, offset, model.arch.layers[knock_out.layer].n_heads)
    mask = plain_mask(model, window, n_keys, offset) if mask is None else mask
    return args, kwargs | {"attention_mask": cut_off(knock_out, mask, cut.to(mask.device))}


def cut_off(knock_out: BoundKnockOut, mask: Tensor, cut: Bool[Tensor, "..."]) -> Tensor:
    """A boolean or additive mask, or scores, with some entries closed; not all of a query's."""
    closed = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    left = mask.masked_fill(cut, closed)
    readable, still = (x > closed / 2 for x in (mask, left))
    if bool((readable.any(-1) & ~still.any(-1)).any()):
        raise PlanError(
            f"KnockOut in layer {knock_out.layer} leaves a token with nothing to attend to; keep "
            "at least one key (token 0 can read only itself)."
        )
    return left


def plain_mask(
    model: Model, window: Window, n_keys: int, offset: int
) -> Bool[Tensor, "1 1 query key"]:
    """What Hugging Face means by no mask: causality alone, or everything."""
    columns = torch.arange(offset, offset + n_keys)
    queries = torch.arange(window.start, window.start + window.n_new)[:, None]
    seen = columns <= queries if model.arch.causal else torch.ones(len(queries), n_keys) > 0
    return seen[None, None].to(model.device)
