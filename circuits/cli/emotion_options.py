"""What the verbs of `interp emotion` share: options, texts, and the discovery in a folder."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.options import EMOTIONS, IntoFolder, Loading, RecipeModelOption, choice
from circuits.cli.output import load, stderr
from interp.data.records import checked

if TYPE_CHECKING:
    from circuits.emotion.emotion_settings import EmotionRecipe, EmotionSettings
    from circuits.emotion.endpoint_judge import EndpointJudge
    from circuits.emotion.prompts import EmotionTexts
    from circuits.emotion.result import EmotionDiscovery
    from interp.model.model import Model

EmotionOption = Annotated[str, choice(EMOTIONS, "Target emotion.")]
DiscoveryOption = Annotated[
    Path, typer.Option(help="Folder of `interp emotion circuit`; made if it does not exist.")
]
ScenariosOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Use only N discovery scenarios, of all themes."),
]
DiscoveryEventsOption = Annotated[
    str | None,
    typer.Option(help="Texts for discovery, in SEV's schema; by default the shipped ones."),
]
JudgeModelOption = Annotated[
    str | None, typer.Option(help="Model whose activations the first judge reads; not --model.")
]


@dataclass(frozen=True)
class OnTexts:
    """The options that choose texts."""

    datasets: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder with your own emotion_scenarios_discovery.jsonl and the like; by default "
            "the shipped data.",
        ),
    ] = None
    events: Annotated[
        str | None,
        typer.Option(
            help="Texts in SEV's schema: a shipped name, a file or a Hub data set; by default the "
            "shipped ones for this verb."
        ),
    ] = None

    def load(self, part: str, **options: Any) -> "EmotionTexts":
        """Read them; by default the events of a part: discovery, tuning or test."""
        from circuits.emotion.prompts import EmotionTexts

        return EmotionTexts.load(self.events or part, self.datasets, **options)


@dataclass(frozen=True)
class ByRecipe:
    """The options that choose a model and its recipe."""

    model: RecipeModelOption = None
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe: a shipped one such as smollm2-135m, or a file; by default the model's."
        ),
    ] = None
    how: Loading = Loading()

    def read(self, **changes: Any) -> "EmotionRecipe":
        """The recipe of the file or the model, with what the options override, or `PlanError`."""
        from circuits.emotion.emotion_settings import EmotionRecipe
        from interp.errors import PlanError

        if self.recipe is None and self.model is None:
            raise PlanError("no model: give --model, or a --recipe that names one.")
        found = (
            EmotionRecipe.of(self.model or "")
            if self.recipe is None
            else EmotionRecipe.load(self.recipe)
        )
        given = {"model": self.model, **changes}
        given = {name: value for name, value in given.items() if value is not None}
        return checked(EmotionRecipe, found.model_dump(mode="json") | given, "settings")

    def load(self, recipe: "EmotionRecipe") -> "Model":
        """Load the recipe's model, saying so."""
        return self.how.load(recipe.model, recipe.dtype)


@dataclass(frozen=True)
class Compared:
    """The options of a comparison."""

    conditions: Annotated[
        str | None,
        typer.Option(help="Conditions, with commas; by default all. unmodulated always runs."),
    ] = None
    n: Annotated[
        int | None, typer.Option(min=1, help="Number of situations; by default the recipe's.")
    ] = None
    judge_model: JudgeModelOption = None
    published: Annotated[
        str | None,
        typer.Option(help="Judged replies of another model, on which the judges are fitted, too."),
    ] = None
    judge_url: Annotated[
        str | None,
        typer.Option(
            help="Also ask a model behind an OpenAI-compatible interface, such as "
            "http://localhost:8000/v1; replies are sent there, with the key in INTERP_JUDGE_KEY."
        ),
    ] = None
    judge_name: Annotated[str | None, typer.Option(help="Name of that model there.")] = None

    def endpoint(self) -> "EndpointJudge | None":
        """The judge behind an interface, where one is asked for; `ModelError` if it is silent."""
        from circuits.emotion.endpoint_judge import EndpointJudge
        from interp.errors import PlanError

        if (self.judge_url is None) != (self.judge_name is None):
            raise PlanError("give --judge-url and --judge-name together.")
        if self.judge_url is None or self.judge_name is None:
            return None
        key = os.environ.get("INTERP_JUDGE_KEY")
        return EndpointJudge(self.judge_url, self.judge_name, key).checked()


def say(stage: str, done: int, total: int) -> None:
    """One line on stderr for each finished stage or condition."""
    if done == total:
        stderr.print(f"[dim]{escape(stage)}: {total} done[/dim]")


def judged_on(device: str | None) -> "Callable[[str], Model]":
    """Loads the judges' model by name, saying so."""
    return lambda name: load(name, device, None)


def discovered(
    model: "Model",
    into: IntoFolder,
    texts: OnTexts,
    settings: "EmotionSettings | None" = None,
    limit: int | None = None,
) -> "EmotionDiscovery":
    """The discovery in a folder: loaded, gone on with, or begun; `RunFolderError` for another."""
    from circuits.emotion.discovery import discover
    from circuits.emotion.texts import interleaved

    given = texts.load("discovery")
    scenarios = given.events if limit is None else interleaved(given.events)[:limit]
    read = (scenarios, given.frames, settings, given.replies)
    return discover(model, *read, into.out, into.force, say)


def found_in(
    model: "Model", folder: Path, texts: OnTexts, settings: "EmotionSettings | None" = None
) -> "EmotionDiscovery":
    """The discovery in a folder, whatever its settings; a new one where there is none."""
    from circuits.emotion.result import EmotionDiscovery

    if (folder / "manifest.json").is_file():
        return EmotionDiscovery.load(folder).of(model)
    return discovered(model, IntoFolder(folder), OnTexts(texts.datasets), settings)
