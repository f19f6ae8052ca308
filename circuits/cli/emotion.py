"""`interp emotion`: bring emotions about, find their directions, components and circuits."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    load,
    print_json,
    print_table,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from circuits.emotion.discovery import Discovery, Settings

app = typer.Typer(
    name="emotion",
    help="Emotion circuits: find them, prove them, control text with them.",
    no_args_is_help=True,
)

OutOption = Annotated[Path, typer.Option(help="Run folder; a stopped run resumes.")]
DatasetsOption = Annotated[
    Path, typer.Option(help="Folder with emotion_scenarios_discovery.jsonl and its companions.")
]
EventsOption = Annotated[
    Path | None, typer.Option(help="Discovery texts of SEV's schema; default: our own.")
]
StylesOption = Annotated[
    str | None, typer.Option(help="Frames and word sets: felt:A,day:B,…; else the preset's.")
]
PaperOption = Annotated[
    str | None,
    typer.Option(help="The published settings, in this style: a frame and a word set."),
]
DATASETS = Path("datasets")


@app.command(
    epilog="Example: `interp emotion circuit --model smollm2-135m --out runs/emotion/smollm2/"
    "discovery --json`"
)
def circuit(
    model: ModelOption,
    out: OutOption,
    datasets: DatasetsOption = DATASETS,
    events: EventsOption = None,
    styles: StylesOption = None,
    paper: PaperOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First N scenarios.")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find every emotion's circuit: directions, scores, influence, allocation."""
    from circuits.emotion.selection import overlap_table

    loaded = load(model, device, dtype)
    found = discovered(loaded, out, datasets, events, _settings(styles, paper), limit)
    if as_json:
        print_json({"model": model, "run": str(out), **found.summary()})
        return
    for preset, circuits in found.circuits.items():
        print_table(overlap_table(circuits), f"{preset}: Jaccard index of circuits")
    stdout.print(f"run folder: {out}", highlight=False, soft_wrap=True)


def discovered(
    model: Any,
    out: Path,
    datasets: Path = DATASETS,
    events: Path | None = None,
    settings: "Settings | None" = None,
    limit: int | None = None,
) -> "Discovery":
    """The discovery in a folder: loaded, gone on with, or begun."""
    from circuits.emotion.data import load_replies, load_scenarios
    from circuits.emotion.discovering import discover
    from circuits.emotion.frames import load_frames

    return discover(
        model,
        load_scenarios(events or datasets / "emotion_scenarios_discovery.jsonl")[:limit],
        load_frames(datasets / "emotion_frames.json"),
        settings,
        load_replies(datasets / "emotion_replies.jsonl"),
        out,
        _say,
    )


def _say(stage: str, done: int, total: int) -> None:
    if done == total:
        stderr.print(f"[dim]{escape(stage)}: {total} done[/dim]", highlight=False)


def _settings(styles: str | None, paper: str | None) -> "Settings":
    """The preset with what the command line overrides.

    Raises:
        PlanError: both --styles and --paper.
    """
    from circuits.emotion.discovery import Settings
    from interp.errors import PlanError

    if paper and styles:
        raise PlanError("give --styles or --paper, not both: --paper names its style itself.")
    if paper:
        return Settings.paper(paper)
    return Settings(styles=tuple(styles.split(","))) if styles else Settings()
