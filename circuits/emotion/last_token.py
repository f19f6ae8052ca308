"""Runs that are read, or changed, at prompts' last tokens alone.

`last_activations` reads every layer in one forward per prompt; what a family of prompts begins
with (one text, six emotions named at its end) runs once. `final_states` runs prompts under many
plans: a prompt runs once, and each plan is one more token that reads the prompt's keys and values
and joins the batch in the first layer that the plan changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.data.prompts import TokenPrompt, pad
from interp.errors import PlanError
from interp.forward.hooks import hooked
from interp.forward.layer_calls import positions_and_mask, record_layer_calls
from interp.forward.packed import Pack, Put, Rows, shares_prefixes, walk_tokens
from interp.interventions.binding import BoundEdit, bind
from interp.interventions.plan import Plan
from interp.model.model import Model
from interp.model.sites import SITES, Site
from interp.patching.cells import default_budget
from interp.progress import Progress

SITES_READ = ("resid_pre", "attn_out", "z", "mlp_post", "resid_post")
StageProgress = Callable[[str, int, int], None]
"""Called with (stage, done, in all)."""
Reduce = Callable[[Float[Tensor, "prompt row d_model"]], Float[Tensor, "prompt row width"]]


# --- reading --------------------------------------------------------------------------------------


@torch.no_grad()
def last_activations(
    model: Model,
    prompts: Sequence[TokenPrompt],
    families: Sequence[Sequence[int]] | None = None,
    tokens: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Float[Tensor, "prompt layer *features"]]:
    """What every layer computes at prompts' last tokens, on the CPU in fp32.

    Args:
        model: the model.
        prompts: in tokens.
        families: prompt numbers in groups that are likely to begin alike; each prompt once. By
            default every prompt is its own family.
        tokens: most tokens in a batch; by default what `interp.patching.cells.default_budget` says.
        progress: called with (families done, families in all).

    Returns:
        ``resid_mid``: the stream after attention (of a parallel block its input + attention
        output); ``resid_post``: after the block, before any final norm; ``z`` [prompt, layer,
        head, d_head] and ``mlp_post``: what the output projections read.

    Raises:
        PlanError: the architecture lacks a site.
    """
    for name in SITES_READ:
        model.site(name)
    given = [[i] for i in range(len(prompts))] if families is None else families
    if not shares_prefixes(model):
        given = [[i] for family in given for i in family]
    shared = sorted((_Family.of(prompts, members) for members in given), key=lambda f: -f.n_tokens)
    budget, done = tokens or default_budget(model), 0
    parts: list[dict[str, Tensor]] = []
    order: list[int] = []
    while done < len(shared):
        group = shared[done : done + max(1, budget // shared[done].n_tokens)]
        parts.append(_read(model, prompts, group))
        order += [f.base for f in group] + [i for f in group for i in f.others]
        done += len(group)
        if progress:
            progress(done, len(shared))
    back = torch.tensor(order).argsort()
    return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}


@dataclass(frozen=True)
class _Family:
    """Prompts with a common beginning: `base` runs whole, `others` from token `shared` on."""

    base: int
    others: tuple[int, ...]
    shared: int
    n_tokens: int

    @classmethod
    def of(cls, prompts: Sequence[TokenPrompt], members: Sequence[int]) -> "_Family":
        base, *others = sorted(members, key=lambda i: -len(prompts[i].ids))
        ids = [prompts[i].ids for i in (base, *others)]
        most = min(map(len, ids)) - 1  # everybody's last token is its own
        shared = next((n for n in range(most) if len({one[n] for one in ids}) > 1), most)
        return cls(base, tuple(others), shared, sum(map(len, ids)) - shared * len(others))


def _read(
    model: Model, prompts: Sequence[TokenPrompt], group: Sequence[_Family]
) -> dict[str, Tensor]:
    """The sites of every layer at each prompt's last token: the bases, then the others."""
    ids, mask = pad(model, [prompts[f.base] for f in group])
    rows = _rows(model, prompts, group, ids.shape[1])
    pack = Pack(rows, ids.shape[1])
    last = pack.token(torch.arange(len(rows.read)), rows.read)
    layers = range(model.arch.n_layers)
    reads = [_Read(SITES[site], layer, last) for layer in layers for site in SITES_READ]
    others = [(f, i) for f in group for i in f.others]
    tails = [_own_embeddings(model, prompts, others)] if others else []
    into = torch.arange(pack.n_tokens(len(group)), len(pack.row))
    puts = [Put(SITES["resid_pre"], 0, into, values, None) for values in tails]
    walk_tokens(model, record_layer_calls(model, ids, mask), rows, [*puts, *reads])
    found = {
        site: torch.stack([read.found[0] for read in reads if read.site == SITES[site]], 1)
        for site in SITES_READ
    }
    mid = (found.pop("resid_pre") + found.pop("attn_out")).float().cpu()
    found = {site: values.float().cpu() for site, values in found.items()}
    z = found["z"].unflatten(-1, (model.arch.n_heads, model.arch.d_head))
    return found | {"z": z, "resid_mid": mid}


def _rows(
    model: Model, prompts: Sequence[TokenPrompt], group: Sequence[_Family], width: int
) -> Rows:
    """Rows of the batch, all from layer 0 on; where prefixes are not shared, whole padded ones."""
    firsts = [width - len(prompts[family.base].ids) for family in group]
    prompt = list(range(len(group)))
    start = firsts if shares_prefixes(model) else [0] * len(group)
    stop = [width] * len(group)
    for number, (family, first) in enumerate(zip(group, firsts, strict=True)):
        prompt += [number] * len(family.others)
        start = start + [first + family.shared] * len(family.others)
        stop += [first + len(prompts[i].ids) for i in family.others]
    ends = torch.tensor(stop)
    entry = [len(prompt)] * (model.arch.n_layers + 1)
    return Rows(torch.tensor(prompt), torch.tensor(start), ends, ends - 1, entry, len(group))


def _own_embeddings(
    model: Model, prompts: Sequence[TokenPrompt], others: Sequence[tuple[_Family, int]]
) -> Float[Tensor, "token d_model"]:
    """What enters layer 0 at the tokens after the shared ones, prompt by prompt."""
    ids, mask = pad(model, [prompts[i] for _, i in others])
    entered = _embeddings(model, ids, mask)
    own = [len(prompts[i].ids) - family.shared for family, i in others]
    return torch.cat([one[-n:] for one, n in zip(entered, own, strict=True)])


class _Entered(Exception):
    """Ends a run where the first block begins."""


def _embeddings(
    model: Model, ids: Int[Tensor, "prompt pos"], mask: Tensor
) -> Float[Tensor, "prompt pos d_model"]:
    """What enters layer 0, learned positions and scaling included."""
    kept: list[Tensor] = []

    def keep(activation: Tensor) -> None:
        kept.append(activation.clone())
        raise _Entered

    try:
        with hooked(model, [(SITES["resid_pre"], 0, keep)]):
            model.hf.base_model(input_ids=ids, use_cache=False, **positions_and_mask(model, mask))
    except _Entered:
        pass
    return kept[0]


@dataclass(frozen=True)
class _Read:
    """Keeps the activation of some tokens of a packed batch, by their flat numbers."""

    site: Site
    layer: int
    tokens: Int[Tensor, " token"]
    found: list[Float[Tensor, "token width"]] = field(default_factory=list)

    def __call__(self, activation: Float[Tensor, "... width"]) -> None:
        flat = activation.view(-1, activation.shape[-1])
        self.found.append(flat[self.tokens.to(flat.device)].clone())


# --- changing -------------------------------------------------------------------------------------


@torch.no_grad()
def final_states(
    model: Model,
    prompts: Sequence[TokenPrompt],
    plans: Sequence[Plan],
    tokens: int | None = None,
    progress: Progress | None = None,
    reduce: Reduce | None = None,
) -> Float[Tensor, "prompt plan width"]:
    """The stream after the last block, at each prompt's last token, under each plan.

    Args:
        model: the model.
        prompts: in tokens.
        plans: of edits at ``positions="last"``; an empty one gives the plain run.
        tokens: most tokens in a batch; by default what `interp.patching.cells.default_budget` says.
        progress: called with (prompts done, prompts in all).
        reduce: what is kept of each state, such as projections; by default all of it.

    Returns:
        On the CPU, in fp32; before the final norm.

    Raises:
        PlanError: a plan that changes other tokens, or does not fit the model.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].ids))
    parts: list[Tensor] = []
    budget, done, batch = tokens or default_budget(model), 0, _Variants.of(model, plans)
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
        placed: dict[tuple[str, int], list[tuple[int, BoundEdit]]] = {}
        for row, i in enumerate(order):
            for edit in edits[i]:
                placed.setdefault((edit.site.name, edit.layer), []).append((row, edit))
        rewrites = [_Rewrites.of(model, found) for found in placed.values()]
        return cls(torch.tensor([begins[i] for i in order]), row_of, rewrites)


def _run(
    model: Model, prompts: Sequence[TokenPrompt], batch: _Variants
) -> Float[Tensor, "prompt row d_model"]:
    """Every row of every prompt; the plain run comes first."""
    ids, mask = pad(model, prompts)
    n, n_rows, width = len(prompts), 1 + len(batch.first), ids.shape[1]
    shares = shares_prefixes(model)
    left = width - mask.sum(-1).cpu()
    start = torch.full((n * n_rows,), width - 1 if shares else 0)
    start[:n] = left if shares else 0
    layers = range(model.arch.n_layers + 1)
    rows = Rows(
        prompt=torch.arange(n).repeat(n_rows),
        start=start,
        stop=torch.full((n * n_rows,), width),
        read=torch.full((n * n_rows,), width - 1),
        entry=[n + n * int((batch.first <= layer).sum()) for layer in layers],
        n_base=n,
    )
    last = Pack(rows, width).token(torch.arange(len(rows.read)), rows.read).view(n_rows, n)
    writes = [replace(one, into=last[1:][one.rows]) for one in batch.rewrites]
    hidden, _ = walk_tokens(model, record_layer_calls(model, ids, mask), rows, writes)
    return hidden[last.to(hidden.device)].float().cpu().transpose(0, 1)
