"""What the verbs of `interp emotion` share: options, texts, and the discovery in a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from circuits.cli.options import EMOTIONS, choice
from circuits.cli.output import stderr

if TYPE_CHECKING:
    from circuits.emotion.discovery import Discovery, Settings
    from circuits.emotion.running import Sources
    from interp.model.model import Model

DISCOVERY_TEXTS = "emotion_scenarios_discovery.jsonl"
TUNING_TEXTS = "emotion_scenarios_tuning.jsonl"
LABELLED = "emotion_blind_labels.jsonl"
TEST_TEXTS = "emotion_scenarios_test.jsonl"

DatasetsOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help=f"Folder with your own {DISCOVERY_TEXTS} and the like; by default the shipped data.",
    ),
]
EmotionOption = Annotated[str, choice(EMOTIONS, "Target emotion.")]
DiscoveryOption = Annotated[
    Path, typer.Option(help="Folder of `interp emotion circuit`; made if it does not exist.")
]
ScenariosOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Use only N discovery scenarios, of all themes."),
]


def say(stage: str, done: int, total: int) -> None:
    """One line on stderr for each finished stage or arm."""
    if done == total:
        stderr.print(f"[dim]{escape(stage)}: {total} done[/dim]", highlight=False)


def in_folder(datasets: Path | None, file: str) -> Path:
    """A file of the folder that --datasets names, else the shipped one."""
    from interp.data.datasets import folder

    return (datasets or folder()) / file


def texts_of(
    datasets: Path | None,
    events: str | Path,
    published: str | None = None,
    plain: str = DISCOVERY_TEXTS,
) -> "Sources":
    """Texts to reply to, and those that demonstrations and judges come from.

    Args:
        datasets: folder of the texts; None takes the shipped ones.
        events: scenarios whose events are replied to.
        published: judged replies of another model.
        plain: file in `datasets` with other events, to which the judges' reader replies.
    """
    from circuits.emotion.data import load_replies, load_scenarios
    from circuits.emotion.frames import load_frames
    from circuits.emotion.judge import load_labelled, load_verdicts
    from circuits.emotion.running import Sources

    return Sources(
        load_scenarios(events),
        load_frames(in_folder(datasets, "emotion_frames.json")),
        load_replies(in_folder(datasets, "emotion_replies.jsonl")),
        load_scenarios(in_folder(datasets, plain)),
        load_verdicts(published) if published else (),
        load_labelled(in_folder(datasets, LABELLED), "tuning"),
    )


def discovered(
    model: "Model",
    out: Path,
    datasets: Path | None,
    settings: "Settings | None" = None,
    events: str | None = None,
    limit: int | None = None,
    force: bool = False,
) -> "Discovery":
    """The discovery with these settings and texts in a folder: loaded, gone on with, or begun.

    Raises:
        RunFolderError: the folder holds another one.
    """
    from circuits.emotion.discovering import discover
    from circuits.emotion.trying import interleaved

    texts = texts_of(datasets, events or in_folder(datasets, DISCOVERY_TEXTS))
    scenarios = texts.events if limit is None else interleaved(texts.events)[:limit]
    return discover(model, scenarios, texts.frames, settings, texts.replies, out, force, say)


def found_in(
    model: "Model", folder: Path, datasets: Path | None, settings: "Settings | None" = None
) -> "Discovery":
    """The discovery in a folder, whatever its settings; a new one where there is none."""
    from circuits.emotion.discovery import Discovery

    if (folder / "manifest.json").is_file():
        return Discovery.load(folder).of(model)
    return discovered(model, folder, datasets, settings)
