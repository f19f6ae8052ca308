"""Models whose weights are quantised: how they are asked for, and where gradients must not pass.

Such a model computes as its library does. Two things would give wrong numbers without a word and
are settled when it is loaded: bitsandbytes' fast 4-bit kernel for CPUs and some of torchao's have
no backward pass, and autograd takes what comes out of them for constants.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import ModelError, PlanError, did_you_mean
from interp.model.weights import quantised, shape_of

QUANTISATIONS = ("8bit", "4bit")

UNSURE = 0.1
"""Largest relative difference between a module's slope along a direction and its gradient's:
activations rounded to eight bits move the former by up to half of it."""


def config_of(quantization: Any, dtype: torch.dtype) -> Any:
    """What transformers quantises by: of a short name bitsandbytes' config, or the one given.

    `ModelError` where there is no such name, or bitsandbytes is not installed.
    """
    if not isinstance(quantization, str):
        return quantization
    if quantization not in QUANTISATIONS:
        raise ModelError(
            f"unknown quantization {quantization!r}. {did_you_mean(quantization, QUANTISATIONS)}"
        )
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ModelError(
            f"quantization={quantization!r} needs bitsandbytes; install 'interp-circuits"
            "[quantization]'."
        )
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def settle(hf: nn.Module, name: str, like: Tensor) -> None:
    """Take what has a backward pass where there is a choice; elsewhere refuse gradients.

    `like` is an empty activation of the model.
    """
    if quantised(hf):  # compressed-tensors unpacks when it first runs
        with contextlib.suppress(Exception), torch.no_grad():  # `fitted` says why it does not run
            hf(input_ids=torch.zeros(1, 1, dtype=torch.long, device=like.device), use_cache=False)
    for kind, modules in quantised(hf).items():
        if kind == "Linear4bit":
            for _, module in modules:
                _with_backward(module)
        if not has_gradient(modules[0][1], like):
            for path, module in modules:
                module.register_forward_pre_hook(_refusal(f"{path} of {name} ({kind})"))


def _with_backward(module: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for its CPU kernel, and undo that."""
    module.state_dict()  # which brings repacked weights back
    module.support_avx512bf16_for_cpu = False


def has_gradient(module: nn.Module, like: Tensor) -> bool:
    """Whether a linear module's gradient is that of what it computes, along random directions."""
    noise = torch.Generator().manual_seed(2)
    n_out, n_in = shape_of(module)
    x, along, g = (torch.randn(64, n, generator=noise).to(like) for n in (n_in, n_in, n_out))
    try:
        with torch.enable_grad():
            at = x.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad((module.forward(at) * g).sum(), at)
    except Exception:  # a kernel of any library
        return False
    with torch.no_grad():
        slope = ((module.forward(along) - module.forward(x * 0)) * g).sum(-1).float()
        return bool(((along * gradient).sum(-1).float() - slope).norm() <= UNSURE * slope.norm())


def _refusal(what: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def refuse(_: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args):
            raise PlanError(
                f"gradients do not pass {what}: its kernel has no backward pass that fits; patch, "
                "ablate, use method='exact' of edges, or load the model without quantisation."
            )

    return refuse
