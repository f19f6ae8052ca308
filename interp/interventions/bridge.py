"""A plan as hooks for a user's own `TransformerBridge`; imports nothing of TransformerLens."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from interp.data.prompts import Prompts, as_prompts, pad
from interp.errors import PlanError
from interp.interventions.batch_run import BoundEdit, BoundKnockOut, Run
from interp.interventions.binding import bind
from interp.interventions.native import cut_off
from interp.interventions.plan import AnyPlan, as_plan
from interp.model.model import Model
from interp.model.sites import EXPERT_SITES, MIXER_SITES

INNER = (*EXPERT_SITES, *MIXER_SITES)
"""Sites that are not TransformerLens's."""

BridgeHook = tuple[str, Callable[[Tensor, Any], Tensor]]
"""A TransformerLens hook name and its function, as ``fwd_hooks=`` takes them."""


def bridge_hooks(model: Model, plan: AnyPlan, prompts: Prompts) -> list[BridgeHook]:
    """A plan as TransformerLens hooks, for forward passes and for generation.

    Run the bridge on what `interp.data.prompts.pad` makes of the same prompts (tokens and mask),
    or on any prompts of one length::

        hooks = bridge_hooks(model, plan, prompts)
        bridge.run_with_hooks(ids, attention_mask=mask, fwd_hooks=hooks)

    `model` is interp's model of the same weights, `load_model(bridge)`.

    Raises:
        PlanError: a site, layer or unit that the model does not have, or a site that is not
            TransformerLens's; the plan cannot be carried out on these prompts, or, from inside the
            bridge's generation, the bridge does not read its KV cache.
    """
    rows = as_prompts(model, prompts)
    run = bind(model, as_plan(plan), rows)
    # hook_embed fires first in every forward pass, so it can tell the run what comes in
    hooks: list[BridgeHook] = [("hook_embed", partial(_enter, run, pad(model, rows)[1]))]
    if model.arch.bridge_reads_scores and "z" in model.arch.layers[0].points:
        hooks.append(("blocks.0.attn.hook_attn_scores", partial(_reads_cache, run)))
    if run.knock_outs and not model.arch.bridge_reads_scores:
        raise PlanError(
            "TransformerLens takes no edits of attention scores on this architecture "
            f"({model.arch.adapter}); run this KnockOut with interp.forward."
        )
    inside = [edit.site.name for edit in run.edits if edit.site.name in INNER]
    if inside:
        raise PlanError(
            f"TransformerLens has no hook for {inside[0]!r}; run this plan with interp.forward."
        )
    hooks += [(edit.site.at(edit.layer), partial(_edited, run, edit)) for edit in run.edits]
    for cut in run.knock_outs:
        hooks.append((f"blocks.{cut.layer}.attn.hook_attn_scores", partial(_scored, run, cut)))
    return hooks


def _enter(run: Run, real: Tensor, embeddings: Tensor, hook: Any) -> Tensor:
    """Note what comes in: whole sequences, or one more token that is read with a KV cache."""
    n = embeddings.shape[1]
    seen = run.window.real.shape[1] if run.window is not None else 0
    start = seen if n == 1 else 0
    decoded = start + n - real.shape[1]
    run.enter(embeddings, nn.functional.pad(real, (0, decoded), value=True), start)
    return embeddings


def _reads_cache(run: Run, scores: Tensor, hook: Any) -> Tensor:
    """Refuse decoding that has lost the prompt: TransformerLens 4.3 does on transformers 5.24."""
    window = run.tokens
    if window.start and scores.shape[-1] == window.n_new:
        raise PlanError(
            "this version of TransformerLens does not read the KV cache of this version of "
            "transformers, so each new token is computed without the prompt; pass "
            "use_past_kv_cache=False to generate, or use interp.generate."
        )
    return scores


def _edited(run: Run, edit: BoundEdit, activation: Tensor, hook: Any) -> Tensor:
    flat = activation.flatten(2)  # heads and their features in one axis, as in the module
    edit(flat, run)
    # in place: at resid_mid the block adds its MLP to this very tensor
    return activation.copy_(flat.view_as(activation))


def _scored(run: Run, knock_out: BoundKnockOut, scores: Tensor, hook: Any) -> Tensor:
    n_keys = scores.shape[-1]
    offset = run.tokens.real.shape[1] - n_keys
    cut = knock_out.cut(run.tokens, n_keys, offset, scores.shape[1])
    return cut_off(knock_out, scores, cut.to(scores.device))
