"""What every verb shares: options, progress on stderr, one JSON object on stdout."""

import contextlib
import json
import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from interp.pairs import PromptPairs

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
PairsOption = Annotated[
    str, typer.Option(help="Prompt pairs: a name from `interp datasets`, JSONL file or Hub id.")
]
NeutralOption = Annotated[
    str | None,
    typer.Option(help="Text whose perplexity is measured, too: neutral_text, or a text file."),
]
MetricOption = Annotated[str, typer.Option(help="logit_diff, logprob or prob.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Use the first N pairs.")]
SeedOption = Annotated[int, typer.Option(help="Of the bootstrap intervals.")]
SplitByOption = Annotated[
    str | None,
    typer.Option(
        help="Deal the entities of this span (or spans: io,s1) to two halves: scores and circuits "
        "come from the discovery half, evaluation uses the test half. Before --limit."
    ),
]
SplitSeedOption = Annotated[int, typer.Option(help="Of the deal; the same for both halves.")]
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


def load_rows(
    pairs: str, limit: int | None, split_by: str | None, split_seed: int, half: str
) -> "PromptPairs":
    """The pairs of one half (all of them without `split_by`), of which the first `limit`."""
    from interp.pairs import load_pairs
    from interp.splits import split_by_entity

    rows = load_pairs(pairs)
    if split_by:
        rows = split_by_entity(rows, split_by.split(","), seed=split_seed)[half]
    return rows[:limit]


def neutral_text(source: str | None) -> str | None:
    """The text that `NeutralOption` names: a shipped one, or a file.

    Raises:
        DataFileError: there is none, or it cannot be read as UTF-8.
    """
    from interp.shipped import locate

    return None if source is None else read_text(locate(source, "a text file"))


def read_text(file: Path) -> str:
    """The text of a file that an option names.

    Raises:
        DataFileError: it cannot be read as UTF-8.
    """
    from interp.errors import DataFileError

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataFileError(
            f"cannot read {file} as UTF-8 text ({type(error).__name__})."
        ) from error


def print_table(frame: "pd.DataFrame", title: str) -> None:
    """A table on stdout."""
    table = Table(*(str(column) for column in frame.columns), title=title)
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else escape(str(v)) for v in row))
    stdout.print(table)


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
