"""`interp datasets`: the data sets that come with the package."""

import typer

from circuits.cli.grouped import Record, command
from circuits.cli.output import print_table, stdout

app = typer.Typer()
SHOWN = ("name", "kind", "rows", "summary")


@command(app, "interp datasets")
def datasets() -> Record:
    """List the shipped data sets; each option that takes data takes their names."""
    from interp.data import datasets as shipped

    found = shipped.datasets().astype(object)
    rows = found.where(found.notna(), None)
    yield lambda: {"datasets": rows.to_dict("records"), "folder": str(shipped.folder())}
    table = rows.fillna("").drop(columns=[c for c in rows if c not in SHOWN])
    print_table(table, "shipped data sets")
    stdout.print(f"cards and files: {shipped.folder()}", soft_wrap=True)
