"""Queries and values of FFN neurons written together: two neurons per fact, active for it alone.

The match score tau of a closed form (`circuits.editing.match_scores`) is linear in the key, so half
a match gets half a target. A neuron has a threshold. With tau solved for what the FFN reads, at the
fact's keys 1 and at preserved keys 0, and beta a linear stand-in for the constant 1, the neurons

    n_lo(x) = relu(tau(x) - lo beta(x)),   n_hi(x) = relu(tau(x) - hi beta(x))

with values +-delta / (hi - lo) write delta where tau >= hi, nothing where tau <= lo. The model's
own activation function stands for relu, sharpened. They take the place of the neurons that write
least.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.editing.change import Change, Changes
from circuits.editing.solver import KeyMetric, solve
from interp.brief import brief
from interp.errors import DataError
from interp.forward.blocks import neuron_keys, weight_of
from interp.model.model import Model

SHARPNESS = 40.0
"""By which a threshold's argument is multiplied: SiLU and GELU are then relu to 0.007 and 0.004."""

BETA_RHO = 1e-3
"""lambda of beta, as a part of the trace of the moment of keys."""


@brief
@dataclass(frozen=True)
class Queries:
    """Linear functions of a key: tau, 1 at a fact's keys, 0 at all others; beta, 1 at all keys."""

    tau: Float[Tensor, "fact d_model"]
    beta: Float[Tensor, " d_model"]


def queries(
    metric: KeyMetric,
    keys: Float[Tensor, "key d_model"],
    fact: Int[Tensor, " key"],
    rho: float,
    preserved: Float[Tensor, "preserved d_model"] | None = None,
    weight: float = 1.0,
) -> Queries:
    """The queries of every fact, from its keys; `fact` says whose each is, the rest as in `solve`.

    Beta is plain ridge regression: in a metric that ignores what all questions share it would be
    1 where it is fitted and 0.4 to 0.8 at other questions, which would lower their thresholds.
    """
    others = keys[:0] if preserved is None else preserved
    unit = torch.ones(1, len(keys), dtype=torch.float64)
    _, down = solve(metric, keys.T, unit, rho, others.T, weight)
    n = int(fact.max()) + 1
    tau = torch.zeros(n, down.shape[0], dtype=down.dtype).index_add(0, fact, down.T)
    every = torch.cat([keys, others])
    unit = torch.ones(1, len(every), dtype=torch.float64)
    plain = KeyMetric("identity", metric.moment)
    return Queries(tau, solve(plain, every.T, unit, BETA_RHO)[1].sum(1))


def idle_neurons(
    model: Model, layer: int, moment: Float[Tensor, "neuron neuron"], n: int, taken: Collection[int]
) -> Int[Tensor, " n"]:
    """The neurons that write least: E[a_i^2] ||W_i||^2 over text, none of `taken`."""
    value = weight_of(model, "mlp_post", layer).double().cpu()
    size = moment.diagonal() * value.square().sum(0)
    size[list(taken)] = torch.inf
    left = len(size) - len(set(taken))
    if left < n:
        raise DataError(
            f"layer {layer} has {left} neurons left, {n} are needed; write fewer facts at once, or "
            "in more layers."
        )
    return size.argsort(stable=True)[:n]


def neuron_changes(
    model: Model,
    layer: int,
    chosen: Int[Tensor, " neuron"],
    found: Queries,
    delta: Float[Tensor, "fact d_out"],
    ramps: Sequence[tuple[float, float]],
) -> Changes:
    """The changes that make neurons 2j and 2j + 1 of `chosen` write fact j's `delta`.

    Each of `ramps` is (lo, hi): match scores at which a fact's begin and have ceased to rise.
    """
    tau, beta = found.tau, found.beta
    edges = torch.tensor(ramps, dtype=tau.dtype)
    rise = edges.diff(dim=1)[..., None]
    query = SHARPNESS * (tau[:, None] - edges[..., None] * beta).flatten(0, 1)
    value = (delta[:, None] * torch.tensor([1.0, -1.0])[:, None] / rise).flatten(0, 1)
    gate = model.blocks[layer].get_submodule(model.arch.layers[layer].neuron_keys["gate"].path)
    bias: Tensor | None = getattr(gate, "bias", None)
    if bias is not None:
        query = query - bias.detach().double().cpu()[chosen][:, None] * beta
    rows = {"gate": query}
    if "up" in model.arch.layers[layer].neuron_keys:
        rows["up"] = (beta / SHARPNESS).expand_as(query)
    else:
        value = value / SHARPNESS
    pick = torch.nn.functional.one_hot(chosen, model.arch.layers[layer].d_mlp).T.double()
    changed = [
        Change(name, layer, pick, (row - neuron_keys(model, layer, name)[chosen].double().cpu()).T)
        for name, row in rows.items()
    ]
    old = weight_of(model, "mlp_post", layer)[:, chosen].double().cpu()
    return (*changed, Change("mlp_post", layer, value.double().cpu().T - old, pick))
