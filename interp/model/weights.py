"""Weights as people have them: in memory, quantised, or offloaded by accelerate.

What a linear module applies is read here, and nowhere else. Where its weight is stored as it is
applied, that is the weight. Where it is quantised, or the module computes in a way of its own, the
module is run on the unit vectors: that gives the matrix for every library alike, and two random
vectors tell whether the module is that matrix at all.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator
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
    hook: Any = getattr(module, "_hf_hook", None)
    if hook is not None and has_offloaded_params(module):
        device: Any = hook.execution_device
        return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return next(x.device for source in (module.parameters(), module.buffers()) for x in source)


def is_plain(module: nn.Module) -> bool:
    """Whether a linear module multiplies by its weight as it is stored, in 16 bits or more."""
    if not _is_dense(module):
        return False
    weight: Any = module.weight
    return _is_ordinary(module) or (
        weight.shape == shape_of(module) and _applies(module, weight, 1e-3)
    )


def _is_dense(module: nn.Module) -> bool:
    weight: Any = getattr(module, "weight", None)
    return type(weight) in (Tensor, nn.Parameter) and weight.dtype in FLOATS


def _is_ordinary(module: nn.Module) -> bool:
    # compressed-tensors leaves the class alone and says so in an attribute
    return type(module).forward in PLAIN_FORWARDS and not hasattr(module, "quantization_scheme")


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
            units = torch.eye(shape_of(module)[1], dtype=like.dtype, device=like.device)
            none = module.forward(units[:1] * 0)
            rows = [module.forward(x) - none for x in units.split(AT_ONCE)]
        matrix = torch.cat(rows).to(like.dtype).T
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


def bias_in(module: nn.Module) -> Float[Tensor, " out"] | None:
    """The bias of a linear module or a norm; ``None`` where it has none."""
    with align_module_device(module):
        return getattr(module, "bias", None)


def _applies(module: nn.Module, matrix: Float[Tensor, "out in"], tolerance: float) -> bool:
    """Whether a module multiplies two random vectors by a matrix."""
    with torch.no_grad(), align_module_device(module):
        if matrix.device.type == "meta":
            matrix = module.weight  # pyright: ignore[reportAssignmentType]
        noise = torch.randn(2, matrix.shape[1], generator=torch.Generator().manual_seed(0))
        noise = noise.to(matrix)
        got, none = _output(module, noise), _output(module, noise * 0)
        if got is None or none is None:
            return False
        want = noise.float() @ matrix.float().T
        rounding = 2 * torch.finfo(matrix.dtype).eps * got.norm()  # of a large bias
        return bool((got - none - want).norm() <= tolerance * want.norm() + rounding)


def _output(module: nn.Module, x: Float[Tensor, "row in"]) -> Float[Tensor, "row out"] | None:
    """What a linear module computes, in fp32; ``None`` from one that gives something else."""
    try:
        out: Any = module.forward(x)
    except Exception:  # a router or a grouped map, which takes or gives more
        return None
    fits = isinstance(out, Tensor) and out.shape == (len(x), shape_of(module)[0])
    return out.float() if fits else None


@contextlib.contextmanager
def _without_bias(module: Any) -> Generator[None]:
    """In 16 bits, a large bias would round away what a row of the matrix has."""
    for own in (module._parameters, module._buffers):
        if type(own) is dict and own.get("bias") is not None:
            kept, own["bias"] = own["bias"], None
            try:
                yield
            finally:
                own["bias"] = kept
            return
    yield


# --- every weight, for the identity of a model ---------------------------------------------------


def stored(hf: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every entry of a model's state, by name; offloaded ones from where they are kept.

    Raises:
        PlanError: a weight lies on the meta device, which holds no data, and no hook has them.
    """
    for name, value in sorted(hf.state_dict().items()):
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


def state_parts(state: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """State whose quantised tensors are taken apart into ordinary ones and their settings."""
    for name, value in state:
        if type(value) in (Tensor, nn.Parameter) or not hasattr(value, "__tensor_flatten__"):
            yield name, value
            continue
        names, settings = value.__tensor_flatten__()
        yield name, settings
        yield from state_parts((f"{name}.{part}", getattr(value, part)) for part in names)


# --- how the linear modules of a model are stored ------------------------------------------------


def quantised(hf: nn.Module) -> dict[str, list[tuple[str, nn.Module]]]:
    """The linear modules whose weight is not stored as it is applied, with their paths, by kind.

    A kind is the class of the module or, of an ordinary one, that of its weight. Routers and
    grouped maps, which only look like linear modules, are none of them.
    """
    kinds: dict[str, list[tuple[str, nn.Module]]] = {}
    for path, module in hf.named_modules():
        if not hasattr(module, "in_features") and not isinstance(module, Conv1D):
            continue
        if is_plain(module) or (_is_dense(module) and not _is_linear(module)):
            continue
        weight = getattr(module, "weight", None)
        kind = type(weight if _is_ordinary(module) and weight is not None else module).__name__
        kinds.setdefault(kind, []).append((path, module))
    return kinds


def _is_linear(module: nn.Module) -> bool:
    weight: Any = module.weight
    x = torch.zeros(2, shape_of(module)[1], dtype=weight.dtype, device=device_of(module))
    with torch.no_grad():
        return _output(module, x) is not None


def why_fixed(hf: nn.Module) -> str | None:
    """Why a model's weights cannot be changed in place; ``None`` where they can."""
    kinds = quantised(hf)
    if kinds:
        return f"its weights are quantised or wrapped ({', '.join(kinds)})"
    away = any(hasattr(m, "_hf_hook") and has_offloaded_params(m) for m in hf.modules())
    return "accelerate offloads its weights" if away else None


def curvature(module: nn.Module, like: Tensor) -> float:
    """How far a module is from affine, relative to its output: above 0, it rounds activations."""
    noise = torch.randn(2, shape_of(module)[1], generator=torch.Generator().manual_seed(1)).to(like)
    with torch.no_grad():
        a, b, both, zero = (
            module.forward(x[None]).float() for x in (*noise, noise.sum(0), noise[0] * 0)
        )
        return float((both - a - b + zero).norm() / (a - zero).norm())
