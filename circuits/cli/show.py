"""`interp show`: a run folder as a self-contained page."""

from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.output import JsonOption, print_json, stdout

EXAMPLES = "Example: `interp show runs/first`  (writes runs/first/index.html)"


def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; default RUN/index.html.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run's figure, baselines and strongest cells as one HTML file."""
    from interp.figures import page
    from interp.results import PatchResult

    result = PatchResult.load(run)
    target = out or run / "index.html"
    title = f"{result.site} on {result.model}, {result.source}"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(result, title), encoding="utf-8")
    if as_json:
        print_json({"run": str(run), "page": str(target), **result.summary()})
    else:
        stdout.print(f"wrote {target}", highlight=False, soft_wrap=True)
