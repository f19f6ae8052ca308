"""What says how far a long computation is: a callback, or a bar where somebody watches."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called with (done, in all), first with (0, in all)."""
StageProgress = Callable[[str, int, int], None]
"""Called with (stage, done, in all)."""


@contextmanager
def reported(
    progress: Progress | bool, label: str, total: int, unit: str = "pairs", note: str = ""
) -> Generator[Progress]:
    """What a computation calls with (done, in all), from its `progress` argument.

    Args:
        progress: a callback; True draws a bar on stderr where that is a terminal, or in a
            notebook, once the computation has taken a second; False draws none.
        label: what is being done.
        total: how many there are in all.
        unit: of what, in the plural.
        note: a line above the bar.
    """
    if not progress:
        yield lambda done, total: None
    elif callable(progress):
        progress(0, total)
        yield progress
    else:
        with bar(label, unit, note) as report:
            report(0, total)
            yield report


@contextmanager
def bar(label: str, unit: str, note: str = "") -> Generator[Callable[..., None]]:
    """What to call with (done, in all), and a third argument where the label changes.

    It draws on stderr; within the first second, and where nobody watches, nothing. `note` is a line
    above it.
    """
    from tqdm.auto import tqdm

    with tqdm(desc=label, unit=f" {unit}", delay=1, leave=False, disable=not _watched()) as drawn:

        def report(done: int, total: int, what: str = label) -> None:
            nonlocal note
            if note and not drawn.disable and drawn.format_dict["elapsed"] > 1:
                drawn.write(note, sys.stderr)
                note = ""
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
