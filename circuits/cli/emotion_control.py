"""`interp emotion` control, evaluate and run: text under a modulation, and the arms compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.emotion_shared import (
    TEST_TEXTS,
    DatasetsOption,
    DiscoveryOption,
    LimitOption,
    OutOption,
    discovered,
    found_in,
    in_folder,
    say,
    texts_of,
)
from circuits.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    load,
    print_json,
    print_table,
    stdout,
)

if TYPE_CHECKING:
    from circuits.emotion.control import Control
    from circuits.emotion.discovery import Settings
    from circuits.emotion.recipe import Recipe
    from circuits.emotion.running import Sources

app = typer.Typer()

RecipeOption = Annotated[
    str | None,
    typer.Option(help="A shipped recipe such as smollm2-135m, or a file; else the model's own."),
]
EventsOption = Annotated[
    str | None,
    typer.Option(
        help="Texts to reply to, of SEV's schema: a file, a Hub id; default our test set."
    ),
]
ArmsOption = Annotated[
    str | None, typer.Option(help="Arms with commas; default: all. unmodulated is always there.")
]
NOption = Annotated[int | None, typer.Option(min=1, help="Situations; else the recipe's.")]
PublishedOption = Annotated[
    str | None, typer.Option(help="Judged replies of another model, to fit the judges on, too.")
]
ReaderOption = Annotated[
    str | None, typer.Option(help="The model that the first judge reads with; not --model.")
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
    emotion: Annotated[str, typer.Option(help="Which emotion.")] = "anger",
    arm: Annotated[str, typer.Option(help="circuit, steering, prompting, random, …")] = "circuit",
    strength: Annotated[
        float | None, typer.Option(help="Instead of the tuned dose; at most 1.5 times it.")
    ] = None,
    any_dose: Annotated[
        bool, typer.Option("--any-dose", help="Allow more; expect profanity and hatred.")
    ] = False,
    n: Annotated[int, typer.Option(min=1, help="Situations.")] = 4,
    events: EventsOption = None,
    datasets: DatasetsOption = None,
    recipe: RecipeOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write replies to events in one emotion, beside the unmodulated ones."""
    from circuits.emotion.controlling import Writer
    from circuits.emotion.data import EMOTIONS
    from circuits.emotion.quality import uncoarse
    from circuits.emotion.running import all_arms, chosen_arms
    from circuits.emotion.situations import situations
    from interp.errors import PlanError, did_you_mean

    if emotion not in EMOTIONS:
        raise PlanError(f"unknown emotion {emotion!r}. {did_you_mean(emotion, EMOTIONS)}")
    said = _recipe(model, recipe)
    loaded = load(model, device, dtype or said.dtype)
    found = found_in(loaded, discovery, datasets, _settings(said))
    plain, *rest = chosen_arms(all_arms(loaded, found, said), [arm])
    asked = _at(rest[0] if rest else plain, strength, any_dose)
    sources = texts_of(datasets, events or in_folder(datasets, TEST_TEXTS))
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
    out: OutOption,
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
    """Put every arm to the same events, decode alike, judge with the target hidden."""
    said = _recipe(model, recipe, n, reader)
    sources = texts_of(datasets, events or in_folder(datasets, TEST_TEXTS), published)
    result = _compared(said, discovery, out, sources, datasets, arms, device, dtype)
    _told(result, out, as_json)


@app.command(
    epilog="Examples:\n\n`interp emotion run --model smollm2-135m --out runs/emotion/smollm2 "
    "--json`\n\n`interp emotion run --recipe "
    "llama-3.2-3b-instruct --out runs/emotion/llama --json`"
)
def run(
    out: Annotated[Path, typer.Option(help="Folder of all stages; a stopped run goes on.")],
    model: Annotated[
        str | None, typer.Option(help="Built-in name, Hub id or local folder; else the recipe's.")
    ] = None,
    recipe: RecipeOption = None,
    events: EventsOption = None,
    arms: ArmsOption = None,
    n: NOption = None,
    reader: ReaderOption = None,
    published: PublishedOption = None,
    discovery_events: Annotated[
        str | None, typer.Option(help="Texts for discovery, of SEV's schema; default: our own.")
    ] = None,
    limit: LimitOption = None,
    datasets: DatasetsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The whole chain: discovery, circuits, replies in every arm, judges, a page."""
    said = _recipe(model, recipe, n, reader)
    sources = texts_of(datasets, events or in_folder(datasets, TEST_TEXTS), published)
    result = _compared(
        said, out / "discovery", out / "control", sources, datasets, arms, device, dtype,
        discovery_events, limit,
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
    discovery_events: str | None = None,
    limit: int | None = None,
) -> "Control":
    from circuits.emotion.pages import control_page
    from circuits.emotion.running import compare

    loaded = load(recipe.model, device, dtype or recipe.dtype)
    settings = _settings(recipe)
    if discovery_events is None and limit is None:
        found = found_in(loaded, discovery, datasets, settings)
    else:
        found = discovered(loaded, discovery, datasets, settings, discovery_events, limit)
    result = compare(
        loaded,
        found,
        recipe,
        sources,
        lambda name: load(name, device, None),
        out,
        arms.split(",") if arms else None,
        say,
    )
    (out / "index.html").write_text(control_page(result, found), encoding="utf-8")
    return result


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
