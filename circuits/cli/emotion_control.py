"""`interp emotion` control, evaluate and run: text under a modulation, and the arms compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.emotion_shared import (
    TEST_TEXTS,
    DatasetsOption,
    DiscoveryOption,
    EmotionOption,
    ScenariosOption,
    discovered,
    found_in,
    in_folder,
    say,
    texts_of,
)
from circuits.cli.options import (
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    ModelOption,
    NeededOutOption,
    RecipeModelOption,
    names_in,
)
from circuits.cli.output import load, print_json, print_table, stdout

if TYPE_CHECKING:
    from circuits.emotion.control import Control
    from circuits.emotion.discovery import Settings
    from circuits.emotion.recipe import Recipe
    from circuits.emotion.running import Sources

app = typer.Typer()

RecipeOption = Annotated[
    str | None,
    typer.Option(
        help="Recipe: a shipped one such as smollm2-135m, or a file; by default the model's own."
    ),
]
EventsOption = Annotated[
    str | None,
    typer.Option(
        help="Texts to reply to, in SEV's schema: a shipped name, a file or a Hub data set; by "
        "default the shipped test set."
    ),
]
ArmsOption = Annotated[
    str | None,
    typer.Option(help="Conditions, with commas; by default all. unmodulated always runs."),
]
NOption = Annotated[
    int | None, typer.Option(min=1, help="Number of situations; by default the recipe's.")
]
PublishedOption = Annotated[
    str | None,
    typer.Option(help="Judged replies of another model, on which the judges are fitted, too."),
]
ReaderOption = Annotated[
    str | None,
    typer.Option(help="Model that the first judge reads with; another one than --model."),
]
MOST = 1.5
"""A dose above so many times the tuned one brings out profanity and hatred."""


@app.command(
    epilog="Example: `interp emotion control --model smollm2-135m --discovery runs/emotion/"
    "discovery --emotion fear --n 4`"
)
def control(
    model: ModelOption,
    discovery: DiscoveryOption,
    emotion: EmotionOption = "anger",
    arm: Annotated[
        str, typer.Option(help="Condition: circuit, steering, prompting, random, ….")
    ] = "circuit",
    strength: Annotated[
        float | None, typer.Option(help="Strength instead of the tuned one; at most 1.5 times it.")
    ] = None,
    any_dose: Annotated[
        bool, typer.Option("--any-dose", help="Allow any strength; expect profanity and hatred.")
    ] = False,
    n: Annotated[int, typer.Option(min=1, help="Number of situations.")] = 4,
    events: EventsOption = None,
    datasets: DatasetsOption = None,
    recipe: RecipeOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write replies to events in one emotion, beside unmodulated replies."""
    from circuits.emotion.controlling import Writer
    from circuits.emotion.quality import uncoarse
    from circuits.emotion.running import all_arms, chosen_arms
    from circuits.emotion.situations import situations

    said = _recipe(model, recipe)
    sources = texts_of(datasets, events or in_folder(datasets, TEST_TEXTS))
    loaded = load(model, device, dtype or said.dtype)
    found = found_in(loaded, discovery, datasets, _settings(said))
    plain, *rest = chosen_arms(all_arms(loaded, found, said), [arm])
    asked = _at(rest[0] if rest else plain, strength, any_dose)
    asking, texts = sources.asking(said.style), situations(sources.events, n)
    writer = Writer(loaded, asking, texts, said.decoding)
    tables: list[Any] = [writer.write(one) for one in (plain, asked)]
    before, after = (table[table["emotion"] == emotion] for table in tables)
    rows = [
        {"text": text, "unmodulated": uncoarse(one), arm: uncoarse(other)}
        for text, one, other in zip(after["text"], before["reply"], after["reply"], strict=True)
    ]
    if as_json:
        print_json({"model": model, "emotion": emotion, "arm": arm, "replies": rows})
        return
    for row in rows:
        stdout.print(f"[bold]{escape(row['text'])}[/bold]")
        for name in ("unmodulated", arm):
            stdout.print(f"  {name}: {escape(row[name])}", highlight=False)


def _at(arm: Any, strength: float | None, any_dose: bool) -> Any:
    """An arm at another strength.

    Raises:
        PlanError: the arm has no dose, or the dose is above the cap.
    """
    from dataclasses import replace

    from interp.errors import PlanError

    if strength is None:
        return arm
    if not arm.modulation.pushes:
        raise PlanError(f"{arm.name} has no dose; leave --strength out.")
    tuned = arm.modulation.pushes[0].strength
    if strength > MOST * tuned and not any_dose:
        raise PlanError(
            f"--strength {strength:g} is above {MOST:g} times the tuned {tuned:g}: replies turn "
            "incoherent, and coarse or hateful. Lower it, or add --any-dose."
        )
    return replace(arm, modulation=arm.modulation.at(strength))


@app.command(
    epilog="Example: `interp emotion evaluate --model smollm2-135m --discovery runs/emotion/"
    "discovery --out runs/emotion/control --json`"
)
def evaluate(
    model: ModelOption,
    discovery: DiscoveryOption,
    out: NeededOutOption,
    force: ForceOption = False,
    events: EventsOption = None,
    arms: ArmsOption = None,
    n: NOption = None,
    recipe: RecipeOption = None,
    reader: ReaderOption = None,
    published: PublishedOption = None,
    datasets: DatasetsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare all conditions on the same events, judged with the target hidden."""
    said = _recipe(model, recipe, n, reader)
    sources = texts_of(datasets, events or in_folder(datasets, TEST_TEXTS), published)
    result = _compared(said, discovery, out, sources, datasets, arms, device, dtype, force)
    _told(result, out, as_json)


@app.command(
    epilog="Examples:\n\n`interp emotion run --model smollm2-135m --out runs/emotion/smollm2 "
    "--json`\n\n`interp emotion run --recipe "
    "llama-3.2-3b-instruct --out runs/emotion/llama --json`"
)
def run(
    out: Annotated[Path, typer.Option(help="Folder for all stages; a stopped run resumes.")],
    force: ForceOption = False,
    model: RecipeModelOption = None,
    recipe: RecipeOption = None,
    events: EventsOption = None,
    arms: ArmsOption = None,
    n: NOption = None,
    reader: ReaderOption = None,
    published: PublishedOption = None,
    discovery_events: Annotated[
        str | None,
        typer.Option(help="Texts for discovery, in SEV's schema; by default the shipped ones."),
    ] = None,
    limit: ScenariosOption = None,
    datasets: DatasetsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole chain: discovery, circuits, replies in every condition, judges, a page."""
    said = _recipe(model, recipe, n, reader)
    sources = texts_of(datasets, events or in_folder(datasets, TEST_TEXTS), published)
    result = _compared(
        said, out / "discovery", out / "control", sources, datasets, arms, device, dtype, force,
        discovery_events, limit, force,
    )  # fmt: skip
    _told(result, out / "control", as_json)


def _compared(
    recipe: "Recipe",
    discovery: Path,
    out: Path,
    sources: "Sources",
    datasets: Path | None,
    arms: str | None,
    device: str | None,
    dtype: str | None,
    force: bool,
    discovery_events: str | None = None,
    limit: int | None = None,
    discover_anew: bool = False,
) -> "Control":
    from circuits.emotion.running import compare

    if discovery_events is not None:
        texts_of(datasets, discovery_events)  # bad files are told before a model is loaded
    loaded = load(recipe.model, device, dtype or recipe.dtype)
    settings = _settings(recipe)
    if discovery_events is None and limit is None and not discover_anew:
        found = found_in(loaded, discovery, datasets, settings)
    else:
        found = discovered(
            loaded, discovery, datasets, settings, discovery_events, limit, discover_anew
        )
    return compare(
        loaded,
        found,
        recipe,
        sources,
        lambda name: load(name, device, None),
        out,
        names_in(arms) if arms else None,
        force,
        say,
    )


def _told(result: "Control", out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"run": str(out), "page": str(out / "index.html"), **result.summary()})
        return
    columns = ["arm", "n", "accuracy", "quality", "joint", "joint_low", "joint_high", "ratio"]
    print_table(result.table().loc[:, columns], f"{result.model}: judge {result.judges[0]}")
    stdout.print(f"run folder: {out}, page: {out / 'index.html'}", highlight=False, soft_wrap=True)


def _recipe(
    model: str | None, path: str | None, n: int | None = None, reader: str | None = None
) -> "Recipe":
    """The recipe that a file or the model's name gives, with what the command line overrides.

    Raises:
        PlanError: neither is given, or none is shipped for the model.
    """
    from dataclasses import replace

    from circuits.emotion.recipe import Recipe, recipe_of
    from interp.errors import PlanError

    if path is not None:
        found = Recipe.load(path)
    elif model is not None:
        found = recipe_of(model)
    else:
        raise PlanError("no model: give --model, or a --recipe that names one.")
    given = {"model": model, "n": n, "reader": reader}
    return replace(found, **{key: value for key, value in given.items() if value is not None})


def _settings(recipe: "Recipe") -> "Settings":
    from circuits.emotion.discovery import Settings

    return Settings.paper(recipe.paper) if recipe.paper else Settings()
