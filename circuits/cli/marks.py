"""`interp circuit validate`: mark attribution methods on a compiled program."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.options import ATTRIBUTION, DeviceOption, JsonOption, choice, names_in
from circuits.cli.output import print_json, print_table

EXAMPLE = "Example: `interp circuit validate tracr-hist --methods exact,eap,eap-dg`"

METHODS = (*ATTRIBUTION, "eap-ig-activations", "eap-qk")


def validate(
    program: Annotated[
        str, typer.Argument(help="tracr-hist, -sort, -reverse, -xproportion, or a .npz file.")
    ],
    methods: Annotated[
        str, choice(METHODS, "Attribution methods of edges.", many=True)
    ] = "exact,eap,eap-ig,eap-dg",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mark attribution methods on a compiled program, whose true circuit is known."""
    import pandas as pd

    from circuits.discovery.ground_truth import validate_methods
    from interp.errors import PlanError
    from interp.loading.tracr import load_program
    from interp.model.graph import Graph

    names = names_in(methods)
    if not names:
        raise PlanError("--methods names no method; give some, such as exact,eap,eap-dg.")
    marks = validate_methods(program, names, device)
    n_edges = Graph.of(load_program(program).arch).n_edges
    if as_json:
        rows = {mark.method: asdict(mark) for mark in marks}
        for row in rows.values():
            del row["method"]
        print_json({"program": Path(program).stem, "n_edges": n_edges, "methods": rows})
    else:
        print_table(pd.DataFrame(marks), f"{Path(program).stem}: {n_edges} edges")
