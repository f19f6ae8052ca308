"""Memory: how many tokens fit in one batch, and how much a block of code takes at its peak."""

import contextlib
import threading
from collections.abc import Callable, Generator

import psutil
import torch

from interp.errors import OutOfMemory
from interp.model.model import Model

CPU_TOKENS = 4096
"""Tokens in a CPU batch: enough to fill the matrix units, few enough for the caches."""

EVERY = 0.005
"""Seconds between two looks at resident memory."""


def default_budget(model: Model) -> int:
    """Tokens whose activations inside one layer fill half the GPU's free memory."""
    if model.device.type != "cuda":
        return CPU_TOKENS
    a = model.arch
    d_mlp = max(block.d_mlp for block in a.layers) or 4 * a.d_model
    heads = max(block.n_heads * block.d_head for block in a.layers)
    floats = 8 * a.d_model + 4 * d_mlp + 10 * heads
    free = torch.cuda.mem_get_info(model.device)[0]
    return max(256, min(2**18, int(free / 2 / (floats * model.dtype.itemsize))))


def check_memory(n_bytes: int, what: str) -> None:
    """`OutOfMemory` where so many bytes are more than the main memory that is free."""
    free = psutil.virtual_memory().available
    if n_bytes > free:
        raise OutOfMemory(
            f"{what} would take {n_bytes / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            "free; record fewer sites, layers, positions or prompts at a time."
        )


def halved(budget: int, model: Model, longest: int, error: Exception) -> int:
    """Half the tokens of a batch that did not fit; `OutOfMemory` if two prompts alone do not."""
    torch.cuda.empty_cache()
    if budget <= 2 * longest:
        raise OutOfMemory(
            f"{model.device} ran out of memory with a batch of {budget} tokens on {model.name}; "
            "use a smaller dtype, shorter prompts, or another device."
        ) from error
    return budget // 2


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Generator[Callable[[], float]]:
    """Yield a function that gives the peak memory in the block so far, above its start, in GB.

    On a CPU memory is sampled, so a short peak can be missed.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: (torch.cuda.max_memory_allocated(device) - before) / 1e9
        return
    process, over = psutil.Process(), threading.Event()
    start = peak = process.memory_info().rss

    def look() -> float:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        return (peak - start) / 1e9

    def watch() -> None:
        while not over.wait(EVERY):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    try:
        yield look
    finally:
        over.set()
        thread.join()
