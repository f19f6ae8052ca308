"""`interp show`: a run folder of any kind as a page."""

from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.grouped import Record, command
from circuits.cli.options import PageOption
from circuits.cli.output import stdout

app = typer.Typer()


@command(app, "interp show runs/first", "interp show runs/first --standalone --out first.html")
def show(
    run: Annotated[Path, typer.Argument(help="A run folder of any verb, or a ledger of edits.")],
    out: PageOption = None,
    standalone: Annotated[
        bool,
        typer.Option(
            "--standalone",
            help="Put plotly (5 MB) into the page, instead of plotly.min.js beside it.",
        ),
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Id of the prompt drawn token by token, of `query-value find`; by default the "
            "first."
        ),
    ] = None,
) -> Record:
    """Write the figures, tables and provenance of a run as a page that opens offline."""
    from circuits.kinds import read

    found = read(run, prompt)
    page = found.report.write(out or run / "index.html", standalone)
    yield lambda: {"run": str(run), "page": str(page), "kind": found.kind} | found.result.summary()
    stdout.print(f"wrote {page}", soft_wrap=True)
