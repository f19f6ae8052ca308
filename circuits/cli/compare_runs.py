"""`interp compare`: two runs of `interp patch`, cell by cell."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from circuits.cli.grouped import command
from circuits.cli.options import JsonOption, SeedOption
from circuits.cli.output import print_json, print_table, stdout

app = typer.Typer()


@command(app, "interp compare runs/first runs/second --top 5")
def compare(
    first: Annotated[Path, typer.Argument(help="A run folder of `interp patch`.")],
    second: Annotated[Path, typer.Argument(help="Another one, over the same axes.")],
    top: Annotated[
        int, typer.Option(min=1, help="Number of cells shown, the largest differences first.")
    ] = 20,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare two patching runs: the difference of the effect at every cell, with its interval."""
    from interp.patching.result import PatchResult

    a, b = PatchResult.load(first), PatchResult.load(second)
    cells = a.compare(b, seed)
    paired, order = bool(cells.attrs["paired"]), (-cells["difference"].abs()).argsort(kind="stable")
    cells = cells.iloc[order].reset_index(drop=True)
    if as_json:
        runs = {"first": str(first), "second": str(second)}
        rows = cells.to_dict("records")
        said = {"paired": paired, "differ": cells.attrs["differ"], "metric": a.metric}
        print_json(runs | said | {"cells": rows, "seed": seed})
        return
    print_table(cells.head(top), f"{a.site} on {a.model} against {b.site} on {b.model}: {a.metric}")
    how = (
        f"paired: both runs measure the same {a.n_pairs} pairs"
        if paired
        else f"not paired: the runs measure different pairs ({a.n_pairs} and {b.n_pairs}), so the "
        "intervals are wider"
    )
    stdout.print(f"difference = second - first, 95 % interval, {how}")
    for name, two in cells.attrs["differ"].items():
        text = f"the runs differ in {name}: {two[0]} and {two[1]}"
        stdout.print(f"[yellow]{escape(text)}[/yellow]")
