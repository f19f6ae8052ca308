"""What a computation costs: floating-point operations over those of one forward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from interp.attribution.contrast import Contrast
from interp.attribution.runs import run
from interp.model.model import Model


def forward_equivalents(model: Model, contrast: Contrast, work: Callable[[], Any]) -> float:
    """Operations of `work`, in forward passes of the contrast's clean prompts.

    Counts matrix products and attention, backward passes as they are: parameters are frozen, so a
    backward pass costs about one forward pass, not two.

    Args:
        model: the model.
        contrast: one batch of pairs.
        work: what to count; called once.
    """
    rows = torch.arange(len(contrast))
    start = contrast.calls.embeddings[contrast.clean]
    # Fused attention is not counted on a CPU; its plain form is.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as one, torch.no_grad():
            contrast.read(run(model, contrast, start, rows, []).final, rows)
        with FlopCounterMode(display=False) as all_of_it:
            work()
    return all_of_it.get_total_flops() / one.get_total_flops()
