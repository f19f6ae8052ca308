"""`interp circuit validate`: mark attribution methods on a compiled program."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.output import JsonOption, print_json, print_table

EXAMPLE = "Example: `interp circuit validate tracr-hist --methods exact,eap,eap-dg`"


def validate(
    fixture: Annotated[Path, typer.Argument(help="A compiled program: .npz, with .json beside.")],
    methods: Annotated[
        str, typer.Option(help="Attribution methods of edges, comma-separated.")
    ] = "exact,eap,eap-ig,eap-dg",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; default cpu.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Mark attribution methods on a compiled program, whose true circuit is known."""
    import pandas as pd

    from circuits.discovery.compiled import validate_methods
    from interp.errors import MetricError
    from interp.graph import Graph
    from interp.plain import load_program

    names = [name for name in methods.split(",") if name]
    if not names:
        raise MetricError("--methods names no method; give some, such as exact,eap,eap-dg.")
    marks = validate_methods(fixture, names, device)
    n_edges = Graph.of(load_program(fixture).arch).n_edges
    if as_json:
        rows = {mark.method: asdict(mark) for mark in marks}
        for row in rows.values():
            del row["method"]
        print_json({"program": fixture.stem, "n_edges": n_edges, "methods": rows})
    else:
        print_table(pd.DataFrame(marks), f"{fixture.stem}: {n_edges} edges")
