"""`Change`: a low-rank change of one projection; many sets of them side by side in a batch."""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.forward.blocks import Rewrite, rewriting
from interp.model.model import Model

Place = tuple[str, int]
"""A projection: (its name, layer). ``"mlp_post"`` is the FFN's down-projection, ``"z"`` attention's
output map; ``"gate"`` and ``"up"`` compute the FFN's neurons."""


@brief
@dataclass(frozen=True)
class Change:
    """W + up @ down^T of the projection `site` (see `Place`) in `layer`."""

    site: str
    layer: int
    up: Float[Tensor, "d_out rank"]
    down: Float[Tensor, "d_in rank"]

    @property
    def place(self) -> Place:
        """Which projection."""
        return self.site, self.layer

    @property
    def matrix(self) -> Float[Tensor, "d_out d_in"]:
        """What is added to the weight."""
        return self.up @ self.down.T


Changes = tuple[Change, ...]
"""All changes of one edit."""


def taken_neurons(changes: Iterable[Change], layer: int) -> set[int]:
    """Neurons of a layer whose queries earlier changes wrote."""
    here = [c for c in changes if c.place == ("gate", layer)]
    return {int(i) for change in here for i in change.up.abs().sum(1).nonzero()[:, 0]}


@contextlib.contextmanager
def under(model: Model, edits: Sequence[Changes], owner: Int[Tensor, " row"]) -> Generator[None]:
    """Run each row of the batches inside the ``with`` block under the changes of its own edit.

    `owner` numbers each row's edit. The model's weights are not touched, and nothing of one edit
    can propagate to the rows of another. Raises `PlanError` where there is no such projection.
    """
    places = dict.fromkeys(change.place for changes in edits for change in changes)
    with rewriting(model, [(*place, _added(model, edits, owner, place)) for place in places]):
        yield


def _added(
    model: Model, edits: Sequence[Changes], owner: Int[Tensor, " row"], place: Place
) -> Rewrite:
    """Every edit's change of one projection, as factors or, where it is smaller, as a matrix."""
    factors: dict[int, tuple[Tensor, ...]] = {}
    for edit in owner.unique().tolist():
        here = [c for c in edits[edit] if c.place == place]
        if here:
            up, down = torch.cat([c.up for c in here], 1), torch.cat([c.down for c in here], 1)
            small = up.numel() + down.numel() < len(up) * len(down)
            pair = (down, up.T) if small else (down @ up.T,)
            factors[edit] = tuple(factor.to(model.device, model.dtype) for factor in pair)

    def rewrite(x: Tensor, out: Tensor) -> Tensor:
        def added(edit: int, mine: Tensor) -> Tensor:
            if edit not in factors:
                return out.new_zeros(*mine.shape[:-1], out.shape[-1])
            return functools.reduce(torch.matmul, factors[edit], mine)

        return out + by_edit(x, owner, added)

    return rewrite


def by_edit(
    x: Float[Tensor, "row pos d_in"],
    owner: Int[Tensor, " row"],
    product: Callable[[int, Tensor], Tensor],
) -> Float[Tensor, "row pos d_out"]:
    """Each edit's rows through a map of its own: `product` of (edit, its rows)."""
    rows = [(edit, (owner == edit).nonzero()[:, 0]) for edit in owner.unique().tolist()]
    parts = [product(edit, x if len(rows) == 1 else x[mine.to(x.device)]) for edit, mine in rows]
    back = torch.cat([mine for _, mine in rows]).argsort()
    return parts[0] if len(rows) == 1 else torch.cat(parts)[back.to(x.device)]
