"""Where a loaded model's weights lie, and moving them: accelerate's hooks, quantised weights."""

from typing import Any

import torch
from torch import nn

from interp.errors import ModelError, OutOfMemory, first_line
from interp.model.weights import device_of, quantised


def placed(hf: Any, name: str, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The model on a device and in a dtype, where these are given and it can be moved.

    Raises:
        ModelError: accelerate placed its weights, or they are quantised, and it would have to
            move; its weights were never loaded; or its layers lie on several devices.
        OutOfMemory: it does not fit.
    """
    _require_data(hf, name)
    devices = execution_devices(hf)
    if len(devices) > 1:
        raise ModelError(
            f"{name} computes on several devices ({', '.join(sorted(map(str, devices)))}); interp "
            "works on one: load it on one, and let device_map offload to 'cpu' or 'disk' what does "
            "not fit."
        )
    if devices:
        elsewhere = device is not None and device not in devices
        if elsewhere or dtype not in (None, hf.dtype):
            raise ModelError(
                f"accelerate placed the weights of {name}, so it cannot be moved or cast; load it "
                "in the dtype you want, with another device_map or none."
            )
        return hf
    if dtype is not None and quantised(hf) and dtype != hf.dtype:
        raise ModelError(
            f"{name} is quantised, so it cannot be cast to {dtype}; give dtype to what quantises "
            "it (its own loader, or load_model(name, quantization=...))."
        )
    wanted = {key: x for key, x in (("device", device), ("dtype", dtype)) if x is not None}
    try:
        return hf.to(**wanted) if wanted else hf
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{name!r} does not fit in the memory of {device}; use a smaller dtype or model."
        ) from error
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"{name} cannot be moved to {device} ({first_line(error)}); load it there."
        ) from error


def execution_devices(hf: nn.Module) -> set[torch.device]:
    """Where the modules that accelerate placed compute; none where it placed nothing."""
    found: set[torch.device] = set()
    for module in hf.modules():
        hook: Any = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):  # hooks may stand in a chain
            device = getattr(one, "execution_device", None)
            if device is not None:
                name = f"cuda:{device}" if isinstance(device, int) else device
                found.add(torch.device(name))
    return found


def _require_data(hf: nn.Module, name: str) -> None:
    for path, module in hf.named_modules():
        for leaf, weight in module.named_parameters(recurse=False):
            if weight.device.type == "meta" and device_of(module).type == "meta":
                raise ModelError(
                    f"{name} holds no data: {path}.{leaf} lies on the meta device; load its "
                    "weights first (in nnsight, dispatch=True)."
                )
