"""Runs that are read, or changed, at prompts' last tokens alone.

`last_activations` reads every layer in one forward per prompt; what several prompts begin with
(one text, six emotions named at its end; one system turn, many texts) runs once. `final_states`
runs prompts under many plans: a prompt runs once, and each plan is one more token that reads the
prompt's keys and values and joins the batch in the first layer that the plan changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.data.prompts import TokenPrompt, pad
from interp.errors import PlanError
from interp.forward.budget import default_budget
from interp.forward.hooks import hooked
from interp.forward.layer_calls import record_layer_calls
from interp.forward.packed import Pack, Rows, final_resid_of_rows, shares_prefixes
from interp.forward.prefix_cache import PrefixCache, common_prefix
from interp.interventions.batch_run import BoundEdit
from interp.interventions.binding import bind
from interp.interventions.plan import Plan
from interp.model.model import Model
from interp.model.sites import SITES, Site
from interp.progress import Progress

SITES_READ = ("resid_pre", "attn_out", "z", "mlp_post", "resid_post")
Reduce = Callable[[Float[Tensor, "prompt row d_model"]], Float[Tensor, "prompt row width"]]


# --- reading --------------------------------------------------------------------------------------


@torch.no_grad()
def last_activations(
    model: Model, prompts: Sequence[TokenPrompt], progress: Progress | None = None
) -> dict[str, Float[Tensor, "prompt layer *features"]]:
    """What every layer computes at prompts' last tokens, on the CPU in fp32.

    Args:
        model: the model; `PlanError` where it lacks a site.
        prompts: in tokens.
        progress: called with (prompts done, prompts in all).

    Returns:
        ``resid_mid``: the stream after attention (of a parallel block its input + attention
        output); ``resid_post``: after the block, before any final norm; ``z`` [prompt, layer,
        head, d_head] and ``mlp_post``: what the output projections read.
    """
    for name in SITES_READ:
        model.site(name)
    budget = default_budget(model)
    families, shared = _alike(prompts, budget)

    def size(family: Sequence[int]) -> tuple[int, int]:
        """Longest rest, and longest beginning."""
        return max(len(prompts[i].ids) - shared[i] for i in family), shared[family[0]]

    order = sorted(families, key=size, reverse=True)
    parts: list[dict[str, Tensor]] = []
    done = read = 0
    while done < len(order):
        rest, beginning = size(order[done])
        group = order[done : done + max(1, budget // (beginning + rest * len(order[done])))]
        rows = [i for family in group for i in family]
        parts.append(_read(model, [prompts[i] for i in rows], [shared[i] for i in rows]))
        done, read = done + len(group), read + len(rows)
        if progress:
            progress(read, len(prompts))
    back = torch.tensor([i for family in order for i in family]).argsort()
    return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}


def _alike(prompts: Sequence[TokenPrompt], budget: int) -> tuple[list[list[int]], dict[int, int]]:
    """Prompts in families that begin alike, and how many first tokens each shares.

    In the order of their tokens a prompt joins the family before it unless fewer tokens would then
    be read once for all, or the family would be longer than `budget` tokens.
    """
    families: list[list[int]] = []
    shared = dict.fromkeys(range(len(prompts)), 0)
    for i in sorted(shared, key=lambda i: prompts[i].ids):
        own = families[-1] if families else [i]
        both = common_prefix([prompts[own[0]], prompts[i]])  # as all between have
        fewer = not both or len(own) * both < (len(own) - 1) * shared[own[0]]
        if not families or fewer or (len(own) + 1) * len(prompts[i].ids) > budget:
            families.append([i])
        else:
            own.append(i)
            shared |= dict.fromkeys(own, both)
    return families, shared


def _read(
    model: Model, prompts: Sequence[TokenPrompt], shared: Sequence[int]
) -> dict[str, Float[Tensor, "prompt layer *features"]]:
    """The sites of every layer at each prompt's last token."""
    cache = PrefixCache.sharing(model, prompts, shared, room=0)
    found: dict[str, dict[int, Tensor]] = {site: {} for site in SITES_READ}

    def keep(site: str, layer: int) -> Callable[[Tensor], None]:
        return lambda activation: found[site].__setitem__(layer, activation[:, -1].clone())

    layers = range(model.arch.n_layers)
    edits = [(SITES[site], layer, keep(site, layer)) for site in SITES_READ for layer in layers]
    with hooked(model, edits):
        cache.read(model)
    read = {
        site: torch.stack([own[layer].to(model.device) for layer in layers], 1)
        for site, own in found.items()
    }
    read["resid_mid"] = read.pop("resid_pre") + read.pop("attn_out")
    z = read["z"].unflatten(-1, (model.arch.n_heads, model.arch.d_head))
    return {site: values.float().cpu() for site, values in (read | {"z": z}).items()}


# --- changing -------------------------------------------------------------------------------------


@torch.no_grad()
def final_states(
    model: Model,
    prompts: Sequence[TokenPrompt],
    plans: Sequence[Plan],
    progress: Progress | None = None,
    reduce: Reduce | None = None,
) -> Float[Tensor, "prompt plan width"]:
    """The stream after the last block, at each prompt's last token, under each plan.

    Args:
        model: the model.
        prompts: in tokens.
        plans: of edits at ``positions="last"``; an empty one gives the plain run.
        progress: called with (prompts done, prompts in all).
        reduce: what is kept of each state, such as projections; by default all of it.

    Returns:
        On the CPU, in fp32; before the final norm.

    Raises:
        PlanError: a plan that changes other tokens, or does not fit the model.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].ids))
    parts: list[Tensor] = []
    budget, done, batch = default_budget(model), 0, _Variants.of(model, plans)
    while done < len(order):
        longest = len(prompts[order[done]].ids)
        per_row = 1 if shares_prefixes(model) else longest
        group = order[done : done + max(1, budget // (longest + per_row * len(batch.first)))]
        found = _run(model, [prompts[i] for i in group], batch)
        parts.append((found if reduce is None else reduce(found))[:, batch.row_of])
        done += len(group)
        if progress:
            progress(done, len(order))
    return torch.cat(parts)[torch.tensor(order).argsort()]


@brief
@dataclass(frozen=True)
class _Rewrites:
    """x <- keep x + add at one site of one layer, for the last tokens of several rows."""

    site: Site
    layer: int
    rows: list[int]
    keep: Float[Tensor, "row width"]
    add: Float[Tensor, "row width"]
    into: Int[Tensor, "row prompt"] | None = None

    @classmethod
    def of(cls, model: Model, edits: Sequence[tuple[int, BoundEdit]]) -> "_Rewrites":
        first = edits[0][1]
        keep = torch.ones(len(edits), model.width(first.site))
        add = torch.zeros_like(keep)
        for row, (_, edit) in enumerate(edits):
            chosen = slice(None) if edit.features is None else edit.features
            keep[row, chosen] = edit.rewrite.keep
            if edit.rewrite.add is not None:
                add[row, chosen] = edit.rewrite.add.float()
        return cls(first.site, first.layer, [row for row, _ in edits], keep, add)

    def __call__(self, activation: Float[Tensor, "... width"]) -> None:
        flat = activation.view(-1, activation.shape[-1])
        assert self.into is not None
        into = self.into.to(flat.device)
        keep, add = (t.to(flat)[:, None] for t in (self.keep, self.add))
        flat[into] = flat[into] * keep + add


@dataclass(frozen=True)
class _Variants:
    """Plans as rows of a batch.

    Attributes:
        first: of each plan that changes something, by rising layer: the layer it begins in.
        row_of: of every plan, its row; 0 is the plain run.
        rewrites: by site and layer.
    """

    first: Int[Tensor, " row"]
    row_of: Int[Tensor, " plan"]
    rewrites: list[_Rewrites]

    @classmethod
    def of(cls, model: Model, plans: Sequence[Plan]) -> "_Variants":
        some = [TokenPrompt((0,))]
        if any(getattr(step, "positions", None) != "last" for plan in plans for step in plan):
            raise PlanError("only edits at positions='last' can be run here.")
        edits = [bind(model, plan, some).edits for plan in plans]
        begins = {i: min(edit.layer for edit in own) for i, own in enumerate(edits) if own}
        order = sorted(begins, key=lambda i: begins[i])
        row_of = torch.zeros(len(plans), dtype=torch.long)
        row_of[order] = torch.arange(len(order)) + 1
        placed: dict[tuple[str, int], dict[int, BoundEdit]] = {}
        for row, i in enumerate(order):
            for edit in edits[i]:
                there, how = placed.setdefault((edit.site.name, edit.layer), {}), edit.rewrite
                if how.basis is not None or how.of_norm or how.bounds or edit.fade or row in there:
                    where = edit.site.at(edit.layer)
                    raise PlanError(f"only one edit at {where} can be run here, of a fixed value.")
                there[row] = edit
        rewrites = [_Rewrites.of(model, [*found.items()]) for found in placed.values()]
        return cls(torch.tensor([begins[i] for i in order]), row_of, rewrites)


def _run(
    model: Model, prompts: Sequence[TokenPrompt], batch: _Variants
) -> Float[Tensor, "prompt row d_model"]:
    """Every row of every prompt; the plain run comes first."""
    ids, mask = pad(model, prompts)
    n, width = ids.shape
    plan_rows, entry = torch.arange(n).repeat(len(batch.first)), batch.first.repeat_interleave(n)
    start, read = mask.sum(-1).cpu()[plan_rows] - 1, torch.full((n, 1), width - 1)
    rows = Rows.beside(model, mask, plan_rows, start, entry, read)
    last = Pack(rows, width).read.view(-1, n)
    writes = [replace(one, into=last[1:][one.rows]) for one in batch.rewrites]
    found = final_resid_of_rows(model, record_layer_calls(model, ids, mask), rows, writes)
    return found.view(*last.shape, -1).float().cpu().transpose(0, 1)
