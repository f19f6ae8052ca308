"""The closed form: the smallest change that writes given residuals at given keys.

Delta = R (K^T M K + lambda)^-1 K^T M, one line for all methods, which differ in the metric M
that says what "smallest" means: M = C^-1 protects what the projection usually reads (MEMIT, PMET;
with lambda -> 0 and one key, ROME); M = P, a projector, leaves the span of C's large directions
untouched (AlphaEdit); M = 1 is plain least squares. With M = C^-1 it equals
R K^T (lambda C + K K^T)^-1 by Woodbury's identity.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from circuits.editing.methods import MetricName
from interp.brief import brief
from interp.errors import PlanError

RIDGE = 1e-4
"""Added to a moment's diagonal, as a part of its mean: keeps the small-sample estimate regular."""
PROTECTED = 0.98
"""Of ``"null_space"``: part of the moment's trace that the protected directions hold. AlphaEdit's
code cuts at an absolute singular value, which means another part on each model."""
_DECOMPOSED: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Moments -> what was decomposed of them, by name: many edits in a row share them."""


@brief
@dataclass(frozen=True)
class KeyMetric:
    """M at one projection, from the second moment of its input."""

    name: MetricName
    moment: Float[Tensor, "d_in d_in"]
    protected: float = PROTECTED

    def apply(self, keys: Float[Tensor, "d_in key"]) -> Float[Tensor, "d_in key"]:
        """M K, in float64."""
        wide = keys.double().cpu()
        if self.name == "inverse_moment":
            return torch.cholesky_solve(wide, self._factor)
        if self.name == "null_space":
            return self._null @ (self._null.T @ wide)
        return wide

    @property
    def typical(self) -> float:
        """E[k^T M k] over text, the unit of lambda; of ``"inverse_moment"`` the key's width."""
        if self.name == "inverse_moment":
            return float(len(self.moment))
        if self.name == "null_space":
            return float((self.moment @ self._null).mul(self._null).sum())
        return float(self.moment.trace())

    def _once(self, what: Any, make: Callable[[], Tensor]) -> Tensor:
        known: Any = _DECOMPOSED.setdefault(self.moment, {})
        key = what, self.moment._version
        if key not in known:
            known[key] = make()
        return known[key]

    @property
    def _factor(self) -> Float[Tensor, "d_in d_in"]:
        return self._once("cholesky", self._cholesky)

    @property
    def _null(self) -> Float[Tensor, "d_in small"]:
        return self._once(("null space", self.protected), self._small)

    def _cholesky(self) -> Float[Tensor, "d_in d_in"]:
        ridge = RIDGE * self.moment.diagonal().mean()
        one = torch.eye(len(self.moment), dtype=self.moment.dtype)
        return torch.linalg.cholesky(self.moment + ridge * one)

    def _small(self) -> Float[Tensor, "d_in small"]:
        """Directions that hold the rest of the trace, smallest first."""
        values, vectors = torch.linalg.eigh(self.moment)
        values = values.clamp(min=0)
        return vectors[:, values.cumsum(0) <= (1 - self.protected) * values.sum()]


def solve(
    metric: KeyMetric,
    keys: Float[Tensor, "d_in key"],
    residuals: Float[Tensor, "d_model key"],
    rho: float,
    preserved: Float[Tensor, "d_in preserved"] | None = None,
    weight: float = 1.0,
) -> tuple[Float[Tensor, "d_model key"], Float[Tensor, "d_in key"]]:
    """Factors (up, down) of the change up @ down^T that writes residuals at keys.

    lambda is `rho` in units of `KeyMetric.typical`; 0 writes exactly, or raises `PlanError` where
    keys depend linearly. At `preserved` keys, which count `weight` times, the residual is zero.
    """
    if not (keys.isfinite().all() and residuals.isfinite().all()):
        raise PlanError(
            "the keys or targets of an edit are not finite; load the model in float32 and check "
            "the prompt."
        )
    n = keys.shape[1]
    weights = torch.ones(n, dtype=torch.float64)
    if preserved is not None and weight > 0:
        keys = torch.cat([keys, preserved.to(keys)], 1)
        more = torch.full((preserved.shape[1],), weight, dtype=torch.float64)
        weights = torch.cat([weights, more])
    scaled = keys.double().cpu() * weights.sqrt()
    through = metric.apply(scaled)
    gram = scaled.T @ through
    gram = gram + rho * metric.typical * torch.eye(len(gram), dtype=gram.dtype)
    factor, failed = torch.linalg.cholesky_ex((gram + gram.T) / 2)
    if failed.any():
        raise PlanError(
            "the keys of this edit depend linearly on one another, so they cannot all be written "
            "exactly; give rho > 0."
        )
    down = torch.cholesky_solve(through.T, factor).T  # M K (K^T M K + lambda)^-1
    return residuals.double().cpu(), down[:, :n]
