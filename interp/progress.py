"""What says how far a long computation is: a callback, or a bar where somebody watches."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called with (done, in all), first with (0, in all)."""


@contextmanager
def reported(
    progress: Progress | bool, label: str, total: int, unit: str = "pairs"
) -> Generator[Progress]:
    """What a computation calls with (done, in all), from its `progress` argument.

    Args:
        progress: a callback; True draws a bar on stderr where that is a terminal, or in a
            notebook, once the computation has taken a second; False draws none.
        label: what is being done.
        total: how many there are in all.
        unit: of what, in the plural.
    """
    if callable(progress):
        progress(0, total)
        yield progress
    elif progress and _watched():
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=label, unit=f" {unit}", delay=1, leave=False) as bar:

            def report(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield report
    else:
        yield lambda done, total: None


def _watched() -> bool:
    """Whether stderr is a terminal, or this is a notebook's kernel."""
    kernel = "ipykernel" in sys.modules and "IPython" in sys.modules
    if kernel and getattr(sys.modules["IPython"].get_ipython(), "kernel", None) is not None:
        return True
    return sys.stderr is not None and sys.stderr.isatty()
