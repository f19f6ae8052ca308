"""What projections read and write at anchors, each prompt under the changes of its own edit."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuits.editing.change import Changes, Place, under
from circuits.editing.fact_prompts import EditPrompt
from circuits.editing.trunk import Trunk, TrunkRow, apart, batched
from interp.forward.blocks import READERS, WRITERS, first_output, projection
from interp.forward.budget import default_budget
from interp.forward.prefix_cache import PrefixCache
from interp.model.model import Model

Pick = Callable[[Tensor, Any], Tensor]


def module_at(model: Model, place: Place) -> nn.Module:
    """The module that writes at a place; of ``"resid_post"`` the block itself."""
    return projection(model, *place) if place[0] in WRITERS + READERS else model.blocks[place[1]]


def keys_at(
    model: Model,
    prompts: Sequence[EditPrompt],
    places: Sequence[Place],
    edits: Sequence[Changes] = ((),),
    owner: Int[Tensor, " prompt"] | None = None,
    pick: Pick = lambda x, out: x,
    trunk: Trunk | None = None,
) -> dict[Place, Float[Tensor, "prompt d_in"]]:
    """Inputs of projections at each prompt's anchor, all from one forward pass.

    Each prompt is read under the changes of the edit that `owner` numbers, by default the first.
    Prompts that several edits ask, none of which changes anything up to there, are read once.
    `trunk` has run the prompts up to some layer that is none above the places'.
    """
    numbers = [0] * len(prompts) if owner is None else owner.tolist()
    asked = [TrunkRow(p, p.anchor + 1, edit) for p, edit in zip(prompts, numbers, strict=True)]
    trunk = trunk or Trunk.of(model, asked, edits, min(layer for _, layer in places))
    last = max(layer for _, layer in places)
    here, numbers = apart(edits, numbers, range(last + 1))
    rows: dict[tuple[int, tuple[int, ...], int], list[int]] = {}
    for i, (prompt, edit) in enumerate(zip(prompts, numbers, strict=True)):
        rows.setdefault((edit, prompt.ids, prompt.n_shown), []).append(i)
    whole = [max((asked[i] for i in at), key=lambda reading: reading.n) for at in rows.values()]
    out: dict[Place, list[Tensor]] = {place: [torch.empty(0)] * len(prompts) for place in places}
    row_owner = [edit for edit, _, _ in rows]
    of_row = list(rows.values())
    for group in batched(whole, row_owner, default_budget(model)):
        at = [(j, i) for j, row in enumerate(group) for i in of_row[row]]
        some, own = [whole[row] for row in group], [row_owner[row] for row in group]
        cache = trunk.cache(some, here, own, last)
        ends = cache.ids.shape[1] - torch.tensor([some[j].n - prompts[i].anchor for j, i in at])
        columns = torch.tensor([j for j, _ in at]), ends - cache.n_read
        with torch.no_grad(), under(model, here, torch.tensor(own)):
            got = _read(model, cache, places, pick, columns)
        for place, values in got.items():
            for (_, i), value in zip(at, values, strict=True):
                out[place][i] = value
    return {place: torch.stack(values) for place, values in out.items()}


def outputs_at(
    model: Model,
    prompts: Sequence[EditPrompt],
    place: Place,
    edits: Sequence[Changes],
    owner: Int[Tensor, " prompt"],
    trunk: Trunk | None = None,
) -> Float[Tensor, "prompt d_model"]:
    """What is written at each prompt's anchor; otherwise as `keys_at`."""
    return keys_at(model, prompts, [place], edits, owner, lambda x, out: first_output(out), trunk)[
        place
    ]


def _read(
    model: Model,
    cache: PrefixCache,
    places: Sequence[Place],
    pick: Pick,
    at: tuple[Int[Tensor, " anchor"], Int[Tensor, " anchor"]],
) -> dict[Place, Float[Tensor, "anchor width"]]:
    """What is read at anchors, each given by its row and column."""
    got: dict[Place, Tensor] = {}

    def take(place: Place) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            got[place] = pick(args[0], output)[at]

        return hook

    with contextlib.ExitStack() as stack:
        # behind those that change, so that they see what is changed
        for place in places:
            stack.callback(module_at(model, place).register_forward_hook(take(place)).remove)
        cache.read(model)
    return got
