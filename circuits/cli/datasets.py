"""`interp datasets`: the data sets that come with the package."""

from rich.table import Table

from circuits.cli.options import JsonOption
from circuits.cli.output import print_json, stdout

EXAMPLES = "Example: `interp datasets`"


def datasets(as_json: JsonOption = False) -> None:
    """List the shipped data sets; each option that takes data takes their names."""
    from interp.data import datasets as shipped

    rows = shipped.datasets().astype(object)
    rows = rows.where(rows.notna(), None).to_dict("records")
    if as_json:
        print_json({"datasets": rows, "folder": str(shipped.folder())})
        return
    table = Table("name", "kind", "rows", "what")
    for row in rows:
        table.add_row(row["name"], row["kind"], str(row["rows"] or ""), row["summary"])
    stdout.print(table)
    stdout.print(f"cards and files: {shipped.folder()}", highlight=False, soft_wrap=True)
