"""Queries and values of FFN neurons written together: two neurons a fact, which fire for it alone.

The gain tau of a closed form (`circuits.editing.gains`) is linear in the key, so half a match
gets half a target. A neuron has a threshold. With tau solved for what the FFN reads, at the fact's
keys 1 and at preserved keys 0, and beta a linear stand-in for the constant 1, the two neurons

    n_lo(x) = relu(tau(x) - lo beta(x)),   n_hi(x) = relu(tau(x) - hi beta(x))

with values +-delta / (hi - lo) write delta where tau >= hi, nothing where tau <= lo. The model's
own activation function stands for relu, sharpened. They take the place of the neurons that write
least.
"""

from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.editing.changes import Change, Changes
from circuits.editing.moments import Moment
from circuits.editing.solving import Metric, solve
from interp.errors import DataError
from interp.forward.blocks import neuron_keys, weight_of
from interp.model.model import Model

SHARPNESS = 40.0
"""By which a threshold's argument is multiplied: SiLU and GELU are then relu to 0.007 and 0.004."""

BETA_RHO = 1e-3
"""lambda of beta, as a part of the trace of the moment of keys."""

Gain = Float[Tensor, "fact d_model"]


def queries(
    metric: Metric,
    keys: Float[Tensor, "key d_model"],
    fact: Int[Tensor, " key"],
    rho: float,
    kept: Float[Tensor, "kept d_model"] | None = None,
    kept_weight: float = 1.0,
) -> tuple[Gain, Float[Tensor, " d_model"]]:
    """Tau of every fact (1 at its own keys, 0 at others' and preserved ones), and beta (1 at all).

    Beta is plain ridge regression: in a metric that ignores what all questions share it would be
    1 where it is fitted and 0.4 to 0.8 at other questions, which would lower their thresholds.

    Args:
        metric: of what the FFN reads.
        keys: at the facts' anchors.
        fact: whose each key is.
        rho: lambda, as `circuits.editing.solving.solve` has it.
        kept: keys at the anchors of preserved questions.
        kept_weight: how much one of them counts.
    """
    n = int(fact.max()) + 1
    weight = kept_weight if kept is not None else 0.0
    unit = torch.ones(1, len(keys), dtype=torch.float64)
    _, down = solve(metric, keys.T, unit, rho, None if kept is None else kept.T, weight)
    tau = torch.zeros(n, down.shape[0], dtype=down.dtype).index_add(0, fact, down.T)
    every = keys if kept is None else torch.cat([keys, kept])
    unit = torch.ones(1, len(every), dtype=torch.float64)
    plain = Metric("identity", metric.moment)
    return tau, solve(plain, every.T, unit, BETA_RHO)[1].sum(1)


def idle_neurons(
    model: Model, layer: int, moment: Moment, n: int, taken: Collection[int]
) -> Int[Tensor, " n"]:
    """The neurons that write least: E[a_i^2] ||W_i||^2 over text, none of `taken`.

    Raises:
        DataError: the layer has fewer neurons left.
    """
    value = weight_of(model, "mlp_post", layer).double().cpu()
    size = moment.matrix.diagonal() * value.square().sum(0)
    size[list(taken)] = torch.inf
    if len(size) - len(set(taken)) < n:
        raise DataError(
            f"layer {layer} has {len(size) - len(set(taken))} neurons left, {n} are needed; write "
            "fewer facts at once, or in more layers."
        )
    return size.argsort(stable=True)[:n]


def neuron_changes(
    model: Model,
    layer: int,
    chosen: Int[Tensor, " neuron"],
    tau: Gain,
    beta: Float[Tensor, " d_model"],
    delta: Float[Tensor, "fact d_out"],
    ramp: tuple[float, float],
) -> Changes:
    """The changes that make neurons 2j and 2j + 1 of `chosen` write fact j's target.

    Args:
        model: the model, for the weights that are replaced.
        layer: where.
        chosen: two neurons a fact.
        tau: of `queries`.
        beta: of `queries`.
        delta: what is to be written at each fact's keys.
        ramp: (lo, hi).
    """
    lo, hi = ramp
    edges = torch.tensor([lo, hi], dtype=tau.dtype)
    query = SHARPNESS * (tau[:, None] - edges[:, None] * beta).flatten(0, 1)
    value = (delta[:, None] * torch.tensor([1.0, -1.0])[:, None] / (hi - lo)).flatten(0, 1)
    bias = _bias(model, layer)
    if bias is not None:
        query = query - bias[chosen][:, None] * beta
    rows = {"gate": query}
    if "up" in model.arch.neuron_keys:
        rows["up"] = (beta / SHARPNESS).expand_as(query)
    else:
        value = value / SHARPNESS
    size = model.arch.d_mlp or 0
    pick = torch.nn.functional.one_hot(chosen, size).T.double()
    changed = [
        Change(name, layer, pick, (row - neuron_keys(model, layer, name)[chosen].double().cpu()).T)
        for name, row in rows.items()
    ]
    old = weight_of(model, "mlp_post", layer)[:, chosen].double().cpu()
    return (*changed, Change("mlp_post", layer, value.double().cpu().T - old, pick))


def _bias(model: Model, layer: int) -> Float[Tensor, " neuron"] | None:
    module = model.blocks[layer].get_submodule(model.arch.neuron_keys["gate"].path)
    bias = getattr(module, "bias", None)
    return None if bias is None else bias.detach().double().cpu()
