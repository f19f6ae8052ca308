"""How modules of experts compute: the neurons of an expert for some tokens, and what these write.

Experts that transformers calls through its experts interface say so in a common form; older classes
have forms of their own. A form is a guess, which `interp.loading.inner_sites` measures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from interp.brief import brief

Rows = Float[Tensor, "row width"]


@brief
@dataclass(frozen=True)
class ExpertForm:
    """One form: functions of a module of experts, the number of an expert, and rows of tokens.

    Attributes:
        neurons: a token's neurons: what the last map of the expert reads.
        write: what these write, before the routing weight.
        last: the last maps of all experts: (expert, d_expert, d_out); ``None`` if not plain.
        routes: whether the module is the mixture itself, with its `router` in it, and adds a `bias`
            to the experts' sum; others are called with tokens, experts' numbers and weights.
    """

    neurons: Callable[[Any, int, Rows], Rows]
    write: Callable[[Any, int, Rows], Rows]
    last: Callable[[Any], Tensor | None]
    routes: bool = False


def form_of(module: Any) -> ExpertForm | None:
    """The form of a module of experts; ``None`` of another module."""
    own, inner = dict(module.named_parameters(recurse=False)), dict(module.named_children())
    by_interface = "has_gate" in vars(module) and "Experts" in type(module).__name__
    if by_interface or {"gate_up_proj", "down_proj"} <= set(own):
        return COMMON
    if hasattr(module, "num_experts") and hasattr(inner.get("mlp"), "w2"):
        return FLAT
    if {"router", "input_linear", "output_linear", "activation"} <= set(inner) and "bias" in own:
        return PAIRED
    return None


def _common_neurons(m: Any, expert: int, x: Rows) -> Rows:
    if not getattr(m, "has_gate", True):
        return m.act_fn(_mapped(m, "up_proj", expert, x))
    both = _mapped(m, "gate_up_proj", expert, x)
    return m._apply_gate(both) if hasattr(m, "_apply_gate") else _gated(both, m.act_fn)


def _common_write(m: Any, expert: int, neurons: Rows) -> Rows:
    out = _mapped(m, "down_proj", expert, neurons)
    return m.post_expert_norm(out) if getattr(m, "has_post_expert_norm", False) else out


def _mapped(m: Any, name: str, expert: int, x: Rows) -> Rows:
    weight = getattr(m, name)[expert]
    bias = getattr(m, f"{name}_bias")[expert] if getattr(m, "has_bias", False) else None
    transposed = getattr(m, "is_transposed", False)
    return nn.functional.linear(x, weight.T if transposed else weight, bias)


def _common_last(m: Any) -> Tensor | None:
    down = dict(m.named_parameters(recurse=False)).get("down_proj")
    return down if down is None or getattr(m, "is_transposed", False) else down.mT


def _gated(both: Rows, activation: Callable[[Rows], Rows]) -> Rows:
    gate, up = both.chunk(2, dim=-1)
    return activation(gate) * up


def _flat(m: Any, name: str, expert: int) -> Float[Tensor, "neuron d_model"]:
    return getattr(m.mlp, name).unflatten(0, (m.num_experts, -1))[expert]


COMMON = ExpertForm(_common_neurons, _common_write, _common_last)
"""One matrix per map and expert, gate and up in one."""

FLAT = ExpertForm(
    lambda m, e, x: m.mlp.activation_fn(x @ _flat(m, "w1", e).T) * (x @ _flat(m, "v1", e).T),
    lambda m, e, neurons: neurons @ _flat(m, "w2", e),
    lambda m: m.mlp.w2.unflatten(0, (m.num_experts, -1)),
)
"""All experts' neurons in one axis (DBRX)."""

PAIRED = ExpertForm(
    lambda m, e, x: _gated(nn.functional.linear(x, m.input_linear.weight[e]), m.activation),
    lambda m, e, neurons: nn.functional.linear(neurons, m.output_linear.weight[e]),
    lambda m: m.output_linear.weight.transpose(1, 2),
    routes=True,
)
"""Two modules of all experts' maps, called by the mixture (JetMoE)."""
