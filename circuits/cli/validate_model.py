"""`interp validate`: does a model do what its map says?"""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from circuits.cli.grouped import command
from circuits.cli.options import JsonOption, Loading
from circuits.cli.output import print_json, stdout

app = typer.Typer()


@command(app, "interp validate gemma-3-270m")
def validate(
    model: Annotated[
        str, typer.Argument(help="Built-in name, Hub id, folder, .gguf file or compiled program.")
    ],
    how: Loading,
    as_json: JsonOption = False,
) -> None:
    """Run the conformance checks on a model and say what holds. Exit code 2 if any fails."""
    import interp

    checks = interp.validate(how.load(model))
    holds = all(check.holds for check in checks)
    if as_json:
        rows = [
            {"check": c.name, "holds": c.holds, "applies": c.applies, "detail": c.detail}
            for c in checks
        ]
        print_json({"model": model, "holds": holds, "checks": rows})
    else:
        table = Table("holds", "check", "detail")
        for check in checks:
            yes = "[green]yes[/green]" if check.applies else "–"
            table.add_row(yes if check.holds else "[red]NO[/red]", check.name, escape(check.detail))
        stdout.print(table)
    if not holds:
        raise typer.Exit(2)
