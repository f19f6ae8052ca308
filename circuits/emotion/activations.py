"""What every layer computes at prompts' last tokens, all sites in one forward a prompt.

Prompts that begin alike (one text, six emotions named at its end) run that beginning once: the
longest of them runs whole, and of the others only what follows the shared tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.data.prompts import TokenPrompt, pad
from interp.forward.budget import default_budget
from interp.forward.hooks import hooked
from interp.forward.layer_calls import positions_and_mask, record_layer_calls
from interp.forward.packed import Pack, Rows, Write, run_packed, shares_prefixes
from interp.model.model import Model
from interp.model.sites import SITES, Site

READ = ("resid_pre", "attn_out", "z", "mlp_post", "resid_post")
Progress = Callable[[int, int], None]


@brief
@dataclass(frozen=True)
class Activations:
    """Activations at the last token of each prompt, on the CPU.

    Attributes:
        resid_mid: the stream after attention; a parallel block's layer input + attention output.
        resid_post: the stream after the block, before any final norm.
        z: what the heads' output projection reads.
        mlp_post: what the MLP's output projection reads.
    """

    resid_mid: Float[Tensor, "prompt layer d_model"]
    resid_post: Float[Tensor, "prompt layer d_model"]
    z: Float[Tensor, "prompt layer head d_head"]
    mlp_post: Float[Tensor, "prompt layer neuron"]


@torch.no_grad()
def last_activations(
    model: Model,
    prompts: Sequence[TokenPrompt],
    families: Sequence[Sequence[int]] | None = None,
    tokens: int | None = None,
    progress: Progress | None = None,
) -> Activations:
    """Run prompts once and keep what the sites of every layer hold at their last tokens.

    Args:
        model: the model.
        prompts: in tokens.
        families: prompt numbers in groups that are likely to begin alike; each prompt once. By
            default every prompt is its own family.
        tokens: most tokens in a batch; by default what `interp.forward.budget.default_budget` says.
        progress: called with (families done, families in all).

    Raises:
        PlanError: the architecture lacks a site.
    """
    for name in READ:
        model.site(name)
    given = [[i] for i in range(len(prompts))] if families is None else families
    if not shares_prefixes(model):
        given = [[i] for family in given for i in family]
    shared = sorted((_family(prompts, members) for members in given), key=lambda f: -f.n_tokens)
    budget, out, done = tokens or default_budget(model), _empty(model, len(prompts)), 0
    while done < len(shared):
        longest = shared[done].n_tokens
        group = shared[done : done + max(1, budget // longest)]
        found = _read(model, prompts, group)
        _store(model, out, [i for i in _row_order(group)], found)
        done += len(group)
        if progress:
            progress(done, len(shared))
    return out


@dataclass(frozen=True)
class _Family:
    """Prompts with a common beginning: `base` runs whole, `others` from token `shared` on."""

    base: int
    others: tuple[int, ...]
    shared: int
    n_tokens: int


def _family(prompts: Sequence[TokenPrompt], members: Sequence[int]) -> _Family:
    base, *others = sorted(members, key=lambda i: -len(prompts[i].ids))
    ids = [prompts[i].ids for i in (base, *others)]
    most = min(map(len, ids)) - 1  # everybody's last token is its own
    shared = next((n for n in range(most) if len({one[n] for one in ids}) > 1), most)
    n_tokens = len(ids[0]) + sum(len(one) - shared for one in ids[1:])
    return _Family(base, tuple(others), shared, n_tokens)


def _row_order(group: Sequence[_Family]) -> list[int]:
    """Prompt numbers in the order of the walk's rows: the bases, then the others."""
    return [f.base for f in group] + [i for f in group for i in f.others]


def _read(
    model: Model, prompts: Sequence[TokenPrompt], group: Sequence[_Family]
) -> dict[tuple[str, int], Tensor]:
    """(site, layer) -> its activation at every row's last token."""
    ids, mask = pad(model, [prompts[f.base] for f in group])
    calls = record_layer_calls(model, ids, mask)
    rows = _rows(model, prompts, group, ids.shape[1])
    pack = Pack(rows, ids.shape[1])
    last = pack.token(torch.arange(len(rows.read)), rows.read)
    reads = [
        Read(SITES[site], layer, last) for layer in range(model.arch.n_layers) for site in READ
    ]
    others = [(f, i) for f in group for i in f.others]
    tails = [_own_embeddings(model, prompts, others)] if others else []
    into = torch.arange(pack.n_tokens(len(group)), len(pack.row))
    puts = [Write(SITES["resid_pre"], 0, into, values, None) for values in tails]
    run_packed(model, calls, rows, [*puts, *reads])
    return {(read.site.name, read.layer): read.found[0] for read in reads}


def _rows(
    model: Model, prompts: Sequence[TokenPrompt], group: Sequence[_Family], width: int
) -> Rows:
    """Rows of the walk, all from layer 0 on; where prefixes are not shared, whole padded ones."""
    whole = not shares_prefixes(model)
    prompt, start, stop = list(range(len(group))), [], [width] * len(group)
    for family in group:
        start.append(0 if whole else width - len(prompts[family.base].ids))
    for number, family in enumerate(group):
        first = width - len(prompts[family.base].ids)
        for i in family.others:
            prompt.append(number)
            start.append(first + family.shared)
            stop.append(first + len(prompts[i].ids))
    return Rows(
        prompt=torch.tensor(prompt),
        start=torch.tensor(start),
        stop=torch.tensor(stop),
        read=torch.tensor(stop) - 1,
        entry=[len(prompt)] * (model.arch.n_layers + 1),
        n_base=len(group),
    )


def _own_embeddings(
    model: Model, prompts: Sequence[TokenPrompt], others: Sequence[tuple[_Family, int]]
) -> Float[Tensor, "token d_model"]:
    """What enters layer 0 at the tokens after the shared ones, prompt by prompt."""
    ids, mask = pad(model, [prompts[i] for _, i in others])
    entered = embeddings(model, ids, mask)
    own = [len(prompts[i].ids) - family.shared for family, i in others]
    return torch.cat([one[-n:] for one, n in zip(entered, own, strict=True)])


class _Entered(Exception):
    """Ends a run where the first block begins."""


def embeddings(
    model: Model, ids: Int[Tensor, "prompt pos"], mask: Tensor
) -> Float[Tensor, "prompt pos d_model"]:
    """What enters layer 0, learned positions and scaling included."""
    kept: list[Tensor] = []

    def reach(activation: Tensor) -> None:
        kept.append(activation.clone())
        raise _Entered

    try:
        with hooked(model, [(SITES["resid_pre"], 0, reach)]):
            model.hf.base_model(input_ids=ids, use_cache=False, **positions_and_mask(model, mask))
    except _Entered:
        pass
    return kept[0]


@brief
@dataclass(frozen=True)
class Read:
    """Keeps the activation of some tokens of a walk's batch; changes nothing.

    Attributes:
        site: where.
        layer: in which block.
        tokens: flat numbers of the tokens.
        found: their activations, one run of the layer after another.
    """

    site: Site
    layer: int
    tokens: Int[Tensor, " token"]
    found: list[Float[Tensor, "token width"]] = field(default_factory=list)

    def __call__(self, activation: Float[Tensor, "... width"]) -> None:
        """Keep."""
        flat = activation.view(-1, activation.shape[-1])
        self.found.append(flat[self.tokens.to(flat.device)].clone())


def _empty(model: Model, n: int) -> Activations:
    a = model.arch
    return Activations(
        resid_mid=torch.zeros(n, a.n_layers, a.d_model),
        resid_post=torch.zeros(n, a.n_layers, a.d_model),
        z=torch.zeros(n, a.n_layers, a.n_heads, a.d_head),
        mlp_post=torch.zeros(n, a.n_layers, a.d_mlp or 0),
    )


def _store(
    model: Model, out: Activations, rows: list[int], found: dict[tuple[str, int], Tensor]
) -> None:
    for layer in range(model.arch.n_layers):
        mid = found["resid_pre", layer] + found["attn_out", layer]
        out.resid_mid[rows, layer] = mid.float().cpu()
        out.resid_post[rows, layer] = found["resid_post", layer].float().cpu()
        z = found["z", layer].unflatten(-1, (model.arch.n_heads, model.arch.d_head))
        out.z[rows, layer] = z.float().cpu()
        out.mlp_post[rows, layer] = found["mlp_post", layer].float().cpu()
