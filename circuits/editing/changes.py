"""`Change`: a low-rank change of one writing projection; many sets of them side by side in a batch.

Independent edits can be run in one batch, each row under the changes of its own edit: the rows
share the model's weights, and nothing of one edit can reach the rows of another.
"""

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.forward.projections import Rewrite, rewriting
from interp.model.model import Model


@brief
@dataclass(frozen=True)
class Change:
    """W + up @ down^T of a projection in `layer`.

    Attributes:
        site: ``"mlp_post"`` (the FFN's down-projection) or ``"z"`` (attention's output map);
            ``"gate"`` or ``"up"``, the projections that compute the FFN's neurons.
        layer: in which block.
        up, down: the factors.
    """

    site: str
    layer: int
    up: Float[Tensor, "d_out rank"]
    down: Float[Tensor, "d_in rank"]

    @property
    def matrix(self) -> Float[Tensor, "d_out d_in"]:
        """What is added to the weight."""
        return self.up @ self.down.T

    def times(self, part: float) -> "Change":
        """The same change, so much of it."""
        return replace(self, up=part * self.up)


Changes = tuple[Change, ...]
"""All changes of one edit."""


def taken_neurons(changes: Changes, layer: int) -> set[int]:
    """Neurons of a layer whose queries earlier changes wrote."""
    here = [c for c in changes if c.site == "gate" and c.layer == layer]
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
    places = dict.fromkeys((c.site, c.layer) for changes in edits for c in changes)
    rewrites = [(site, layer, _added(model, edits, owner, site, layer)) for site, layer in places]
    with rewriting(model, rewrites):
        yield


def _added(
    model: Model, edits: Sequence[Changes], owner: Int[Tensor, " row"], site: str, layer: int
) -> Rewrite:
    up, down = _stacked(edits, site, layer)
    up, down = up.to(model.device, model.dtype), down.to(model.device, model.dtype)
    where = owner.to(model.device)

    def rewrite(x: Tensor, out: Tensor) -> Tensor:
        return out + x @ down[where] @ up[where].mT

    return rewrite


def _stacked(
    edits: Sequence[Changes], site: str, layer: int
) -> tuple[Float[Tensor, "edit d_out rank"], Float[Tensor, "edit d_in rank"]]:
    """The factors of every edit at one projection, padded with zeros to one rank."""
    here = [[c for c in changes if (c.site, c.layer) == (site, layer)] for changes in edits]
    rank = max(sum(c.up.shape[1] for c in cs) for cs in here)
    like = next(c for cs in here for c in cs)
    up = like.up.new_zeros(len(edits), len(like.up), rank)
    down = like.down.new_zeros(len(edits), len(like.down), rank)
    for i, changes in enumerate(here):
        if changes:
            factors = torch.cat([c.up for c in changes], 1), torch.cat([c.down for c in changes], 1)
            up[i, :, : factors[0].shape[1]], down[i, :, : factors[1].shape[1]] = factors
    return up, down
