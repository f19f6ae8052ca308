"""What every verb reads and prints: tables or one JSON object on stdout."""

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd


stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)


def load(name: str, device: str | None, dtype: str | None, quantization: str | None = None) -> Any:
    """Load a model, saying so."""
    with stderr.status(f"loading {name} …"):
        from transformers.utils import logging

        import interp

        logging.disable_progress_bar()
        model = interp.load_model(name, device=device, dtype=dtype, quantization=quantization)
    stderr.print(f"[dim]{escape(repr(model))}[/dim]")
    return model


def neutral_text(source: str | None) -> str | None:
    """The text that `NeutralOption` names, shipped or a file; `DataError` if it is not readable."""
    from interp.data.datasets import locate
    from interp.data.records import read_text

    return None if source is None else read_text(locate(source, "a text file"), "neutral text")


def print_table(frame: "pd.DataFrame", title: str) -> None:
    """A table on stdout."""
    table = Table(*(str(column) for column in frame.columns), title=title)
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else escape(str(v)) for v in row))
    stdout.print(table)


def print_run(out: Any, excluded: Any = ()) -> None:
    """What ends the output of a verb: the first rows left out, and the run folder."""
    for row in list(excluded)[:5]:
        stdout.print(f"[dim]excluded {escape(row.id)}: {escape(row.reason)}[/dim]")
    if out:
        stdout.print(f"run folder: {out}   (interp show {out})", soft_wrap=True, markup=False)


def print_json(record: dict[str, Any]) -> None:
    """The last line on stdout; numbers JSON cannot hold become null."""
    from interp.data.records import finite

    print(json.dumps(finite(record), ensure_ascii=False))
