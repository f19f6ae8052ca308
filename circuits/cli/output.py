"""What every verb shares: options, progress on stderr, one JSON object on stdout."""

import contextlib
import json
import math
from collections.abc import Callable, Generator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

stderr = Console(stderr=True)
stdout = Console()

ModelOption = Annotated[
    str, typer.Option("--model", help="Built-in name, Hub id, local folder or .gguf file.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, …; default: CUDA if there is one.")
]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32 (default on CPU), bfloat16 (default on CUDA), float16.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line on stdout.")
]


@contextlib.contextmanager
def progress(label: str, unit: str) -> Generator[Callable[[int, int], None]]:
    """A progress bar on stderr; yields a function to call with (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def load(name: str, device: str | None, dtype: str | None) -> Any:
    """Load a model, saying so."""
    with stderr.status(f"loading {name} …"):
        from transformers.utils import logging

        import interp

        logging.disable_progress_bar()
        model = interp.load_model(name, device=device, dtype=dtype)
    stderr.print(f"[dim]{escape(repr(model))}[/dim]", highlight=False)
    return model


def print_json(record: dict[str, Any]) -> None:
    """The last line on stdout; numbers JSON cannot hold become null."""
    print(json.dumps(_plain(record), ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
