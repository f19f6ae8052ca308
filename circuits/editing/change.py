"""`Change`: a low-rank change of one projection; many sets of them side by side in a batch."""

import contextlib
from collections.abc import Generator, Iterable, Sequence
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
    """The factors of every edit at one projection, padded with zeros to one rank, row by row."""
    here = [[c for c in changes if c.place == place] for changes in edits]
    like = next(c for changes in here for c in changes)
    rank = max(sum(c.up.shape[1] for c in changes) for changes in here)
    up = like.up.new_zeros(len(edits), len(like.up), rank)
    down = like.down.new_zeros(len(edits), len(like.down), rank)
    for i, changes in enumerate(here):
        if changes:
            ups, downs = torch.cat([c.up for c in changes], 1), [c.down for c in changes]
            up[i, :, : ups.shape[1]], down[i, :, : ups.shape[1]] = ups, torch.cat(downs, 1)
    up, down = (factor.to(model.device, model.dtype) for factor in (up, down))
    where = owner.to(model.device)

    def rewrite(x: Tensor, out: Tensor) -> Tensor:
        return out + x @ down[where] @ up[where].mT

    return rewrite
