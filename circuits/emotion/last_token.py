"""Many changes of a prompt's last token at once: its prefix runs once, each change is one token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.data.prompts import TokenPrompt, pad
from interp.forward.budget import default_budget
from interp.forward.layer_calls import record_layer_calls
from interp.forward.packed import Pack, Rows, run_packed, shares_prefixes
from interp.model.model import Model
from interp.model.sites import SITES, Site

Progress = Callable[[int, int], None]
Read = Callable[[Float[Tensor, "prompt row d_model"]], Float[Tensor, "prompt row width"]]


@brief
@dataclass(frozen=True)
class Change:
    """x <- keep * x + add at a site of a layer, at a prompt's last token.

    Attributes:
        site: a name in `SITES`.
        layer: in which block.
        add: what is added, in the site's features.
        keep: what each feature is multiplied by first; 1 by default, 0 to replace it.
    """

    site: str
    layer: int
    add: Float[Tensor, " width"]
    keep: Float[Tensor, " width"] | None = None


Variant = Sequence[Change]
"""What is changed in one run of a prompt."""


@torch.no_grad()
def final_states(
    model: Model,
    prompts: Sequence[TokenPrompt],
    variants: Sequence[Variant],
    tokens: int | None = None,
    progress: Progress | None = None,
    read: Read | None = None,
) -> Float[Tensor, "prompt variant width"]:
    """The stream after the last block, at each prompt's last token, under each variant.

    Args:
        model: the model.
        prompts: in tokens.
        variants: each is run on every prompt; an empty one gives the plain run.
        tokens: most tokens in a batch; by default what `interp.forward.budget.default_budget` says.
        progress: called with (prompts done, prompts in all).
        read: what is kept of each state, such as projections; by default all of it.

    Returns:
        On the CPU, in fp32; before the final norm.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].ids))
    parts: list[Tensor] = []
    budget, done = tokens or default_budget(model), 0
    plan = _Plan.of(model, variants)
    while done < len(order):
        longest = len(prompts[order[done]].ids)
        a_row = 1 if shares_prefixes(model) else longest
        group = order[done : done + max(1, budget // (longest + a_row * len(plan.changed)))]
        found = _run(model, [prompts[i] for i in group], plan)
        parts.append((found if read is None else read(found))[:, plan.row_of])
        done += len(group)
        if progress:
            progress(done, len(order))
    return torch.cat(parts)[torch.tensor(order).argsort()]


@dataclass(frozen=True)
class _Plan:
    """The variants that change something, by the layer in which they begin to.

    Attributes:
        changed: those variants.
        first: the layer in which each begins.
        row_of: of every variant, which row of a prompt's it is; 0 is the plain run.
        writes: by site and layer, which rows are changed there and how.
    """

    changed: list[Variant]
    first: list[int]
    row_of: Int[Tensor, " variant"]
    writes: list["_Write"]

    @classmethod
    def of(cls, model: Model, variants: Sequence[Variant]) -> "_Plan":
        begins = {i: min(c.layer for c in v) for i, v in enumerate(variants) if v}
        order = sorted(begins, key=lambda i: begins[i])
        row_of = torch.zeros(len(variants), dtype=torch.long)
        row_of[order] = torch.arange(len(order)) + 1
        by_place: dict[tuple[str, int], list[tuple[int, Change]]] = {}
        for row, i in enumerate(order):
            for change in variants[i]:
                by_place.setdefault((change.site, change.layer), []).append((row, change))
        writes = [_Write.of(SITES[s], layer, rows) for (s, layer), rows in by_place.items()]
        return cls([variants[i] for i in order], [begins[i] for i in order], row_of, writes)


@dataclass(frozen=True)
class _Write:
    """The changes of several rows at one site of one layer."""

    site: Site
    layer: int
    rows: list[int]
    keep: Float[Tensor, "row width"]
    add: Float[Tensor, "row width"]

    @classmethod
    def of(cls, site: Site, layer: int, rows: Sequence[tuple[int, Change]]) -> "_Write":
        add = torch.stack([change.add for _, change in rows])
        keeps = [torch.ones_like(c.add) if c.keep is None else c.keep for _, c in rows]
        return cls(site, layer, [row for row, _ in rows], torch.stack(keeps), add)


@dataclass(frozen=True)
class _Applied:
    """A `_Write` on the tokens of a batch."""

    write: _Write
    into: Int[Tensor, "row prompt"]

    @property
    def site(self) -> Site:
        return self.write.site

    @property
    def layer(self) -> int:
        return self.write.layer

    def __call__(self, activation: Float[Tensor, "... width"]) -> None:
        flat = activation.view(-1, activation.shape[-1])
        into = self.into.to(flat.device)
        keep, add = (t.to(flat)[:, None] for t in (self.write.keep, self.write.add))
        flat[into] = flat[into] * keep + add


def _run(
    model: Model, prompts: Sequence[TokenPrompt], plan: _Plan
) -> Float[Tensor, "prompt row d_model"]:
    """Every row of every prompt; the plain run comes first."""
    ids, mask = pad(model, prompts)
    calls = record_layer_calls(model, ids, mask)
    n, width, whole = len(prompts), ids.shape[1], not shares_prefixes(model)
    left = width - mask.sum(-1).cpu()
    base_start = torch.zeros_like(left) if whole else left
    row_start = 0 if whole else width - 1
    first = torch.tensor(plan.first)
    rows = Rows(
        prompt=torch.arange(n).repeat(1 + len(first)),
        start=torch.cat([base_start, torch.full((n * len(first),), row_start)]),
        stop=torch.full((n * (1 + len(first)),), width),
        read=torch.full((n * (1 + len(first)),), width - 1),
        entry=[n + n * int((first <= layer).sum()) for layer in range(model.arch.n_layers + 1)],
        n_base=n,
    )
    pack = Pack(rows, width)
    last = pack.token(torch.arange(len(rows.read)), rows.read).view(1 + len(first), n)
    writes = [_Applied(write, last[1:][write.rows]) for write in plan.writes]
    hidden, _ = run_packed(model, calls, rows, writes)
    return hidden[last.to(hidden.device)].float().cpu().transpose(0, 1)
