"""`Change`: a low-rank change of one projection; many sets of them side by side in a batch.

Independent edits can be run in one batch, each row under the changes of its own edit: the rows
share the model's weights, and nothing of one edit can propagate to the rows of another.
"""

import contextlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.forward.projections import Rewrite, rewriting
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

    def times(self, factor: float) -> "Change":
        """The same change, scaled."""
        return replace(self, up=factor * self.up)


Changes = tuple[Change, ...]
"""All changes of one edit."""


def taken_neurons(changes: Iterable[Change], layer: int) -> set[int]:
    """Neurons of a layer whose queries earlier changes wrote."""
    here = [c for c in changes if c.place == ("gate", layer)]
    return {int(i) for change in here for i in change.up.abs().sum(1).nonzero()[:, 0]}


@contextlib.contextmanager
def under(model: Model, edits: Sequence[Changes], owner: Int[Tensor, " row"]) -> Generator[None]:
    """Run each row of the batches inside the ``with`` block under the changes of its own edit.

    Args:
        model: the model; its weights are not touched.
        edits: changes by edit.
        owner: each row's edit, a number into `edits`.

    Raises:
        PlanError: a change names a projection that the model does not have.
    """
    places = dict.fromkeys(change.place for changes in edits for change in changes)
    with rewriting(model, [(*place, _added(model, edits, owner, place)) for place in places]):
        yield


def _added(
    model: Model, edits: Sequence[Changes], owner: Int[Tensor, " row"], place: Place
) -> Rewrite:
    up, down = (factor.to(model.device, model.dtype) for factor in _stacked(edits, place))
    where = owner.to(model.device)

    def rewrite(x: Tensor, out: Tensor) -> Tensor:
        return out + x @ down[where] @ up[where].mT

    return rewrite


def _stacked(
    edits: Sequence[Changes], place: Place
) -> tuple[Float[Tensor, "edit d_out rank"], Float[Tensor, "edit d_in rank"]]:
    """The factors of every edit at one projection, padded with zeros to one rank."""
    here = [[c for c in changes if c.place == place] for changes in edits]
    rank = max(sum(c.up.shape[1] for c in cs) for cs in here)
    like = next(c for cs in here for c in cs)
    up = like.up.new_zeros(len(edits), len(like.up), rank)
    down = like.down.new_zeros(len(edits), len(like.down), rank)
    for i, changes in enumerate(here):
        if changes:
            ups, downs = torch.cat([c.up for c in changes], 1), [c.down for c in changes]
            up[i, :, : ups.shape[1]], down[i, :, : ups.shape[1]] = ups, torch.cat(downs, 1)
    return up, down
