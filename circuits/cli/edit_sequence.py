"""`interp edit sequence`: many edits of one model, one after the other and in one batch."""

from typing import Annotated

import typer
from rich.markup import escape

from circuits.cli.edit_cases import EditedCases, print_left_out
from circuits.cli.grouped import Record
from circuits.cli.options import Into, OnModel, choice, names_in, numbers
from circuits.cli.output import print_run, print_table, stdout
from circuits.editing.evaluation.sequence_settings import ORDERS, SequenceSettings
from circuits.editing.methods import INFORMED, METHODS

says = SequenceSettings.says
EXAMPLES = (
    "interp edit sequence --model smollm2-135m --cases multihop_chains --methods rome,memit,ace "
    "--lengths 1,10,100 --out runs/sequence",
)


def sequence(
    on: OnModel,
    edited: EditedCases,
    into: Into,
    methods: Annotated[
        str, choice((*METHODS, *INFORMED), says("methods"), many=True)
    ] = "rome,memit,alphaedit,ace",
    lengths: Annotated[str, typer.Option(help=says("lengths"))] = "1,10,100",
    orders: Annotated[str, choice(ORDERS, says("orders"), many=True)] = "row,batch",
    asked: Annotated[int, typer.Option(min=1, help=says("n_asked"))] = 100,
    controls: Annotated[int, typer.Option(min=1, help=says("n_controls"))] = 100,
    seed: Annotated[int, typer.Option(help=says("seed"))] = 0,
) -> Record:
    """Edit one model many times, and ask after each number of edits what is left of them."""
    import pandas as pd

    from circuits.editing.evaluation.sequences import edit_sequences
    from interp.data.records import checked

    settings = checked(
        SequenceSettings,
        {
            "methods": names_in(methods),
            "lengths": numbers("--lengths", lengths),
            "orders": names_in(orders),
            "n_asked": asked,
            "n_controls": controls,
            "neutral": edited.neutral,
            "seed": seed,
            "n_tokens": edited.n_tokens,
        },
        "options",
    )
    result = edited.evaluated(on, settings, edit_sequences, into)
    found = result.summary()
    yield lambda: {"run": into.run, **found}
    print_table(pd.DataFrame(found["sequences"]).round(3), f"{result.model}, {result.source}")
    for what, why in found["stopped"].items():
        stdout.print(f"[dim]{escape(what)} stopped {escape(why)}[/dim]")
    print_left_out(found["excluded"])
    print_run(into.out)
