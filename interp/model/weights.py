"""Weights as people have them: in memory, quantised, or offloaded by accelerate.

What a linear module applies is read here, and nowhere else. Where its weight is stored as it is
applied, that is the weight. Where it is quantised, or the module computes in a way of its own, the
module is run on the unit vectors: that gives the matrix for every library alike, and two random
vectors tell whether the module is that matrix at all.
"""

import contextlib
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.errors import PlanError, first_line

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PLAIN_FORWARDS = (nn.Linear.forward, Conv1D.forward)

ROUNDED = 0.05
"""Largest relative difference between a module and its matrix: activations in eight bits, of which
FP8 keeps three of mantissa, make up to half of it."""

AT_ONCE = 1024
"""Unit vectors in one batch."""


def shape_of(module: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear module, which packed weights no longer show."""
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    if hasattr(module, "in_features"):
        return module.out_features, module.in_features
    n_out, n_in = module.weight.shape
    return n_out, n_in


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: of offloaded weights, the device that they are brought to."""
    if hasattr(module, "_hf_hook") and has_offloaded_params(module):
        device: Any = module._hf_hook.execution_device
        return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return next(x.device for source in (module.parameters(), module.buffers()) for x in source)


def is_plain(module: nn.Module) -> bool:
    """Whether a linear module multiplies by its weight as it is stored, in 16 bits or more."""
    weight: Any = getattr(module, "weight", None)
    if type(weight) not in (Tensor, nn.Parameter) or weight.dtype not in FLOATS:
        return False
    # compressed-tensors leaves the class alone and says so in an attribute
    ordinary = type(module).forward in PLAIN_FORWARDS and not hasattr(module, "quantization_scheme")
    return ordinary or (weight.ndim == 2 and _applies(module, weight, 1e-3))


def matrix_of(module: nn.Module, like: Tensor, name: str) -> Float[Tensor, "out in"]:
    """The matrix that a linear module applies, whatever its weights are stored as.

    Of a quantised module it is formed anew at each call, in the dtype and on the device of `like`,
    an empty activation; `name` is the module's, for messages.

    Raises:
        PlanError: the module does something else than multiply by a matrix and add a bias.
    """
    if is_plain(module):
        with align_module_device(module):
            weight: Tensor = module.weight  # pyright: ignore[reportAssignmentType]
            return weight.T if isinstance(module, Conv1D) else weight
    try:
        with torch.no_grad(), _without_bias(module):
            parts = torch.eye(shape_of(module)[1], dtype=like.dtype, device=like.device)
            matrix = torch.cat([module.forward(x).to(like) for x in parts.split(AT_ONCE)]).T
    except Exception as error:  # a kernel of any library
        raise PlanError(_unreadable(module, name, first_line(error))) from error
    if not _applies(module, matrix, ROUNDED):
        raise PlanError(_unreadable(module, name, "it is not the product with one matrix"))
    return matrix


def _unreadable(module: nn.Module, name: str, why: str) -> str:
    return (
        f"the weights of {name} cannot be read from what its {type(module).__name__} computes "
        f"({why}); load the model without quantisation."
    )


def _applies(module: nn.Module, weight: Tensor, tolerance: float) -> bool:
    """Whether a module multiplies two random vectors by a matrix (its bias aside)."""
    with torch.no_grad(), align_module_device(module), _without_bias(module):
        n_in = shape_of(module)[1]
        if weight.device.type == "meta":
            weight = module.weight  # pyright: ignore[reportAssignmentType]
        noise = torch.randn(2, n_in, generator=torch.Generator().manual_seed(0)).to(weight)
        want = noise.float() @ (weight.float() if weight.shape[1] == n_in else weight.T.float()).T
        got = module.forward(noise).float()
        return got.shape == want.shape and bool((got - want).norm() <= tolerance * want.norm())


@contextlib.contextmanager
def _without_bias(module: nn.Module) -> Generator[None]:
    """Large biases would round away what a row of a matrix has in 16 bits."""
    for own in (module._parameters, module._buffers):
        if own.get("bias") is not None:
            kept, own["bias"] = own["bias"], None
            try:
                yield
            finally:
                own["bias"] = kept
            return
    yield


# --- every weight, for the identity of a model ---------------------------------------------------


def stored(hf: nn.Module, state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every entry of a model's state, by name; offloaded ones from where they are kept.

    Raises:
        PlanError: a weight lies on the meta device, which holds no data, and no hook has them.
    """
    for name, value in sorted(state.items()):
        if not isinstance(value, Tensor) or value.device.type != "meta":
            yield name, value
            continue
        path, _, leaf = name.rpartition(".")
        module = hf.get_submodule(path)
        with align_module_device(module):
            value = module.state_dict()[leaf]
        if value.device.type == "meta":
            raise PlanError(
                f"the weight {name} lies on the meta device, which holds no data; load the model "
                "into memory."
            )
        yield name, value


def plain_parts(value: Any) -> list[Tensor]:
    """The ordinary tensors that a tensor of a quantisation library is made of."""
    if not isinstance(value, Tensor):
        return []
    if type(value) in (Tensor, nn.Parameter) or not hasattr(value, "__tensor_flatten__"):
        return [value]
    names, _ = value.__tensor_flatten__()  # pyright: ignore[reportAttributeAccessIssue]
    return [part for name in names for part in plain_parts(getattr(value, name))]
