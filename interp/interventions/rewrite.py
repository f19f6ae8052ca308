"""The affine map that an intervention applies to the features of a token it selects."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.errors import PlanError


@brief
@dataclass(frozen=True)
class Rewrite:
    """What an edit does to the selected features x of a token: keep x + add - x B Bᵀ.

    Attributes:
        add: what is added: one vector, one per position, or one per prompt and position; before it
            is given to its layers, one per layer, prompt and position.
        basis: B, orthonormal directions that are projected out.
        of_norm: whether what is added is multiplied by the L2 norm of x.
    """

    keep: float = 1.0
    add: Float[Tensor, "*prompt_pos feature"] | None = None
    basis: Float[Tensor, "feature direction"] | None = None
    of_norm: bool = False

    def of_layers(self, n: int) -> "list[Rewrite]":
        """The rewrite of each of `n` layers."""
        if self.add is None or self.add.ndim < 4:
            return [self] * n
        return [dataclasses.replace(self, add=add) for add in self.add]

    def added(
        self, prompt: Int[Tensor, " token"], pos: Int[Tensor, " token"]
    ) -> Float[Tensor, "token_or_one feature"] | None:
        """What is added to each token, `prompt` and `pos` indexing the axes that there are."""
        if self.add is None:
            return None
        if self.add.ndim == 1:
            return self.add[None]
        prompt, pos = prompt.to(self.add.device), pos.to(self.add.device)
        place = pos if self.add.shape[-2] > 1 else torch.zeros_like(pos)
        found = self.add[place] if self.add.ndim == 2 else self.add[prompt, place]
        missing = found.isnan().any(-1)
        if bool(missing.any()):
            raise PlanError(
                f"the value holds NaN for token {int(pos[missing][0])} of a prompt: nothing was "
                "recorded there (a shorter prompt, or other tokens); choose `positions` that were."
            )
        return found

    def __call__(
        self,
        x: Float[Tensor, "token feature"],
        prompt: Int[Tensor, " token"],
        pos: Int[Tensor, " token"],
    ) -> Float[Tensor, "token feature"]:
        """The new features of some tokens."""
        # 0 x inf is not a number, and what is replaced may be infinite.
        new = x * self.keep if self.keep else torch.zeros_like(x)
        add = self.added(prompt, pos)
        if self.basis is not None:
            wide = torch.promote_types(x.dtype, torch.float32)
            basis = self.basis.to(x.device, wide)
            new = new - ((x.to(wide) @ basis) @ basis.T).to(x.dtype)
        if add is None:
            return new
        if self.of_norm:
            add = add.to(x.device) * x.float().norm(dim=-1, keepdim=True)
        return new + add.to(x)


def selected(
    value: Float[Tensor, "*any width"], features: Int[Tensor, " feature"] | None
) -> Float[Tensor, "*any feature"]:
    """Some features of a value; ``None`` for all."""
    return value if features is None else value[..., features.to(value.device)]
