"""Plans and sweeps through nnsight. The only module that imports `nnsight`.

nnsight is imported inside functions: it patches `object` and `Tensor.backward`, and reads
``-v`` from the command line.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.data.prompts import Prompts, as_prompts, pad
from interp.errors import InterpError, PlanError
from interp.forward.layer_calls import positions_and_mask
from interp.interventions.batch_run import BoundEdit, BoundKnockOut, Window
from interp.interventions.binding import bind
from interp.interventions.native import attending, cut_off, plain_mask
from interp.interventions.plan import AnyPlan, as_plan
from interp.model.model import Model

ATTENTION = ("mask", "q", "k", "v", "z", "attn_out")
ORDER = ("resid_pre", *ATTENTION, "resid_mid", "mlp_post", "mlp_out", "resid_post")
"""The order in which a block computes its sites; nnsight must ask for them in this order."""


def traced(model: Model) -> Any:
    """Wrap a copy of the model for nnsight; `InterpError` where that is not installed."""
    return _nnsight().NNsight(copy.deepcopy(model.hf))


def remote_traced(model: Model) -> Any:
    """As `traced`, but so that traces can also be sent to a server."""
    return _nnsight().TransformersModel(
        copy.deepcopy(model.hf), tokenizer=model.tokenizer, task="text-generation"
    )


def _nnsight() -> Any:
    try:
        import nnsight
    except ImportError as error:
        raise InterpError(
            "nnsight is not installed; pip install 'interp-circuits[nnsight]'."
        ) from error
    return nnsight


def _part(wrapped: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        wrapped = getattr(wrapped, name)
    return wrapped


def sweep_resid_pre(
    wrapped: Any,
    model: Model,
    clean: Int[Tensor, "1 pos"],
    corrupt: Int[Tensor, "1 pos"],
    metric: Callable[[Float[Tensor, "1 pos vocab"]], Float[Tensor, ""]],
) -> Float[Tensor, "layer pos"]:
    """Layer x position sweep over ``resid_pre``: record once, then one trace per cell."""
    nnsight, blocks = _nnsight(), _part(wrapped, model.arch.blocks)
    values = torch.zeros(model.arch.n_layers, clean.shape[1])
    with torch.no_grad():
        with wrapped.trace(clean):
            # nnsight ends the block early; only names saved inside it survive.
            source = nnsight.save([blocks[i].input for i in range(len(values))])
        for layer, pos in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
            block, replacement = blocks[layer], source[layer][:, pos]
            with wrapped.trace(corrupt):
                block.input[:, pos] = replacement
                logits = nnsight.save(wrapped.output.logits)
            values[layer, pos] = metric(logits)
    return values


def run_plan(
    wrapped: Any, model: Model, plan: AnyPlan, prompts: Prompts, remote: bool | str = False
) -> Float[Tensor, "prompt vocab"]:
    """Run prompts under a plan in one nnsight trace; fp32 logits at each prompt's last token.

    `wrapped` is an nnsight model of the same weights (`traced`, `remote_traced`, or your own),
    `model` interp's, which knows the sites. `remote` as nnsight takes it: ``True`` for NDIF,
    ``"local"`` for a dry run that ships the trace to itself (needs a `TransformersModel`).
    Prompts and errors as in `interp.forward`.
    """
    import nnsight

    rows = as_prompts(model, prompts)
    run = bind(model, as_plan(plan), rows)
    ids, mask = pad(model, rows)
    window = Window.of(mask.cpu())
    steps = [_edit_step(wrapped, model, edit, window) for edit in run.edits]
    steps += [_mask_step(wrapped, model, cut, window) for cut in run.knock_outs]
    # nnsight asks for activations in the order in which they are computed
    ordered = [step for _, step in sorted(steps, key=lambda found: found[0])]
    options = positions_and_mask(model, mask) | ({"remote": remote} if remote else {})
    # The block may be shipped as source, so it is plain tensor code on plain tuples.
    with torch.no_grad(), wrapped.trace(ids, use_cache=False, **options):
        for module, side, where, keep, add, basis, of_norm, bounds, origin in ordered:
            if side == "mask":
                args, kwargs = module.inputs
                cut, plain = where
                seen = kwargs.get("attention_mask")
                seen = plain if seen is None else seen
                closed = False if seen.dtype == torch.bool else torch.finfo(seen.dtype).min
                seen = seen.masked_fill(cut, closed)
                module.inputs = (args, {**kwargs, "attention_mask": seen})
                continue
            x = module.input if side == "in" else module.output
            x = x[0] if isinstance(x, tuple) else x
            old = x[where]
            new = old * keep
            if basis is not None:
                new = new - (old @ basis) @ basis.T
            size = old.float().norm(dim=-1, keepdim=True) if of_norm else 1.0
            if bounds is not None:
                low, high = (None if one is None else one * size for one in bounds)
                v, moved = add.float(), old.float() - (0.0 if origin is None else origin.float())
                now = (moved * v).sum(-1, keepdim=True) / v.square().sum(-1, keepdim=True)
                size = now.clamp(low, high) - now
            if add is not None:
                add = (add * size).to(add.dtype)
            x[where] = new if add is None else new + add
        logits = nnsight.save(wrapped.output.logits[:, -1].float())
    return logits.cpu()


Step = tuple[tuple[int, int], tuple[Any, ...]]
"""When it is computed, and (module, side, which elements, and the fields of its `Rewrite`)."""


def _edit_step(wrapped: Any, model: Model, edit: BoundEdit, window: Window) -> Step:
    """An edit as tensors: the elements it changes and the numbers of its `Rewrite`."""
    _, point = model.point(edit.site, edit.layer)
    if edit.site.name not in ORDER:
        raise PlanError(
            f"{edit.site.name!r} cannot be edited through nnsight; run this plan with "
            "interp.forward."
        )
    module = _part(_part(wrapped, model.arch.blocks)[edit.layer], point.path)
    row, column, prompt, pos = edit.tokens(window)
    features = (
        torch.arange(model.width(edit.site, edit.layer)) if edit.features is None else edit.features
    )
    if point.features is not None:
        features = point.features[features]
    where = tuple(i.to(model.device) for i in (row[:, None], column[:, None], features))
    rewrite = edit.rewrite
    add, origin = (rewrite.of_tokens(t, prompt, pos) for t in (rewrite.add, rewrite.origin))
    add, basis, origin = (
        None if t is None else t.to(model.device, model.dtype) for t in (add, rewrite.basis, origin)
    )
    when = (edit.layer, ORDER.index(edit.site.name))
    how = (rewrite.keep, add, basis, rewrite.of_norm, rewrite.bounds, origin)
    return when, (module, point.side, where, *how)


def _mask_step(wrapped: Any, model: Model, cut: BoundKnockOut, window: Window) -> Step:
    """A knock-out as the scores it cuts, and the mask to cut them from where there is none."""
    attending(model, cut.layer)  # or refuse
    path = model.arch.layers[cut.layer].attention or ""
    module = _part(_part(wrapped, model.arch.blocks)[cut.layer], path)
    scores = cut.cut(window, window.n_new, 0, model.arch.layers[cut.layer].n_heads).to(model.device)
    plain = plain_mask(model, window, window.n_new, 0)
    real = window.real.to(model.device)
    cut_off(cut, plain & real[:, None, None, :] & real[:, None, :, None], scores)  # or refuse
    step = (module, "mask", (scores, plain), 1.0, None, None, False, None, None)
    return (cut.layer, ORDER.index("mask")), step
