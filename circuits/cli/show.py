"""`interp show`: a run folder as a self-contained page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli.output import JsonOption, print_json, stdout

EXAMPLES = "Example: `interp show runs/first`  (writes runs/first/index.html)"


def show(
    run: Annotated[Path, typer.Argument(help="A run folder of `patch` or `attribute`.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; default RUN/index.html.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run's figure, baselines and strongest cells as one HTML file."""
    summary, page = _read(run)
    target = out or run / "index.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    if as_json:
        print_json({"run": str(run), "page": str(target), **summary})
    else:
        stdout.print(f"wrote {target}", highlight=False, soft_wrap=True)


def _read(run: Path) -> tuple[dict[str, Any], str]:
    """A run's summary and its page."""
    from interp import folder
    from interp.attribution.figures import scores_page
    from interp.attribution.scores import Scores
    from interp.figures import page
    from interp.results import PatchResult

    if str(folder.read_manifest(run).get("kind")).endswith("_scores"):
        scores = Scores.load(run)
        title = f"{scores.method} on {scores.model}, {scores.source}"
        return scores.summary(), scores_page(scores, title)
    result = PatchResult.load(run)
    return result.summary(), page(result, f"{result.site} on {result.model}, {result.source}")
