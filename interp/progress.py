"""What says how far a long computation is: a callback, or a bar where somebody watches."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

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
    elif progress:
        with bar(label, unit) as report:
            report(0, total)
            yield report
    else:
        yield lambda done, total: None


class Report(Protocol):
    """What a bar is told."""

    def __call__(self, done: int, total: int, what: str = ...) -> None:
        """So many are done, of so many; of what, where that changes."""
        ...


@contextmanager
def bar(label: str, unit: str) -> Generator[Report]:
    """What to tell a bar on stderr; none is drawn within a second, nor where nobody watches."""
    from tqdm.auto import tqdm

    with tqdm(desc=label, unit=f" {unit}", delay=1, leave=False, disable=not _watched()) as drawn:

        def report(done: int, total: int, what: str = label) -> None:
            drawn.total = total
            drawn.set_description(what, refresh=False)
            drawn.update(done - drawn.n)

        yield report


def _watched() -> bool:
    """Whether stderr is a terminal, or this is a notebook's kernel."""
    kernel = "ipykernel" in sys.modules and "IPython" in sys.modules
    if kernel and getattr(sys.modules["IPython"].get_ipython(), "kernel", None) is not None:
        return True
    return sys.stderr is not None and sys.stderr.isatty()
