"""Where a model can run: how a device is spelt, and whether torch can use it here."""

import re
from typing import TYPE_CHECKING

from interp.errors import ModelError, first_line, shown

if TYPE_CHECKING:
    import torch

SPELLING = re.compile(r"(cpu|cuda|mps|xpu)(:\d{1,3})?")


def check_spelling(device: str) -> str:
    """The name of a device as it is, or `ModelError`; imports no torch."""
    if not SPELLING.fullmatch(device):
        raise ModelError(f"unknown device {shown(device)}; give cpu, cuda, cuda:1, mps or xpu.")
    return device


def usable(device: "str | torch.device") -> "torch.device":
    """A device that torch can use here; `ModelError` where there is none of that name."""
    import torch

    where = torch.device(check_spelling(str(device)))
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {str(device)!r} was asked for, but torch sees no GPU; use 'cpu'.")
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"device {str(device)!r} was asked for, but torch cannot use it here "
            f"({first_line(error)}); use 'cpu'."
        ) from error
    return where
