"""Peak memory of a block of code: resident on a CPU, allocated on a GPU."""

import contextlib
import threading
from collections.abc import Callable, Generator

import psutil
import torch

EVERY = 0.005
"""Seconds between two looks at resident memory."""


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Generator[Callable[[], float]]:
    """Yield a function that tells the peak memory inside the block above that at its start, in GB.

    On a CPU memory is looked at every few milliseconds, so a shorter peak can be missed, and what
    an allocator had kept from before counts as taken already.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: (torch.cuda.max_memory_allocated(device) - before) / 1e9
        return
    process, over = psutil.Process(), threading.Event()
    start = peak = process.memory_info().rss

    def look() -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)

    def watch() -> None:
        while not over.wait(EVERY):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def above() -> float:
        look()
        return (peak - start) / 1e9

    try:
        yield above
    finally:
        over.set()
        thread.join()
