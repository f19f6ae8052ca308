"""`interp emotion`: find emotion directions and circuits, test them, control text with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli import affect_verbs
from circuits.cli.emotion_options import (
    ByRecipe,
    Compared,
    DiscoveryEventsOption,
    DiscoveryOption,
    EmotionOption,
    OnTexts,
    ScenariosOption,
    discovered,
    found_in,
    judged_on,
    say,
)
from circuits.cli.grouped import Record, command
from circuits.cli.options import IntoFolder, OnModel, choice, names_in
from circuits.cli.output import print_run, print_table, stdout
from circuits.emotion.emotion_settings import EffectSettings
from interp.data.records import checked

if TYPE_CHECKING:
    from circuits.emotion.emotion_comparison import EmotionComparison
    from circuits.emotion.emotion_settings import EmotionRecipe
    from circuits.emotion.endpoint_judge import EndpointJudge
    from circuits.emotion.prompts import EmotionTexts
    from circuits.emotion.result import EmotionDiscovery
    from interp.model.model import Model

app = typer.Typer(
    name="emotion",
    help="Emotion circuits: find them, test them, control text with them.",
    no_args_is_help=True,
)
app.registered_commands += affect_verbs.app.registered_commands
MOST = 1.5
"""A dose above so many times the tuned one brings out profanity and hatred."""
FOLDER = "runs/emotion/smollm2/discovery"


@command(app, f"interp emotion circuit --model smollm2-135m --out {FOLDER} --json")
def circuit(
    on: OnModel,
    into: IntoFolder,
    texts: OnTexts,
    styles: Annotated[
        str | None,
        typer.Option(help="Frames and word sets, such as felt:A,day:B; by default the preset's."),
    ] = None,
    paper: Annotated[
        str | None,
        typer.Option(help="Use the published settings, in this style: a frame and a word set."),
    ] = None,
    limit: ScenariosOption = None,
) -> Record:
    """Find every emotion's circuit: directions, scores, influence, selection."""
    from circuits.emotion.emotion_settings import EmotionSettings
    from circuits.emotion.selection import overlap_table
    from interp.errors import PlanError

    if paper and styles:
        raise PlanError("give --styles or --paper, not both: --paper names its style itself.")
    chosen = {} if styles is None else {"styles": names_in(styles)}
    own = checked(EmotionSettings, chosen, "settings")
    settings = own if paper is None else EmotionSettings.published(paper)
    texts.load("discovery")  # a bad file is refused before a model is loaded
    found = discovered(on.load(), into, texts, settings, limit)
    yield lambda: {"model": on.model, "run": str(into.out), **found.summary()}
    for preset, circuits in found.circuits.items():
        print_table(overlap_table(circuits), f"{preset}: Jaccard index of circuits")
    print_run(into.out)


@command(
    app, f"interp emotion test --model smollm2-135m --discovery {FOLDER} --out runs/emotion/test"
)
def test(
    on: OnModel,
    discovery: DiscoveryOption,
    into: IntoFolder,
    texts: OnTexts,
    changes: Annotated[dict[str, Any], EffectSettings],
) -> Record:
    """Test circuits causally on unseen texts: necessity and sufficiency, against random ones."""
    from circuits.emotion.circuit_effects import circuit_effects

    settings = checked(EffectSettings, changes, "settings")
    unseen, model = texts.load("test"), on.load()
    found = found_in(model, discovery, texts)
    given = (unseen.events, unseen.frames, settings)
    made = circuit_effects(model, found, *given, into.out, into.force, say)
    yield lambda: {"run": str(into.out), **made.summary()}
    print_table(made.overall, "necessity: left of the emotion gap; sufficiency: recovered")
    print_run(into.out)


@command(app, f"interp emotion directions --model smollm2-135m --discovery {FOLDER} --json")
def directions(
    on: OnModel,
    discovery: DiscoveryOption,
    texts: OnTexts,
    n: Annotated[int, typer.Option(min=1, help="Number of unseen scenarios that are read.")] = 24,
) -> Record:
    """Find where emotions point, and read unseen texts: other words, other frames, no word."""
    from circuits.emotion.texts import load_vignettes
    from circuits.emotion.transfer import tables, transfer_tests

    given, folder = texts.load("test"), texts.datasets
    own = folder / "emotion_vignettes.jsonl" if folder else "emotion_vignettes"
    vignettes = load_vignettes(own)
    model = on.load()
    found = found_in(model, discovery, texts)
    found.refuse_seen(given.events)
    read = (given.frames, given.events, vignettes, given.replies, n, say)
    bos = found.settings.double_bos
    readings = transfer_tests(model, found.by_style, *read, double_bos=bos)
    table: Any = tables(readings)
    at = table[table["layer"] == found.layer]
    record = {"model": on.model, "run": str(discovery), "layer": found.layer}
    rows = {"tests": at.to_dict("records"), "all_layers": table.to_dict("records")}
    yield lambda: record | rows
    print_table(at, f"accuracy at layer {found.layer} (chance 0.167; null: 95th percentile)")


@command(
    app, f"interp emotion locate --model smollm2-135m --discovery {FOLDER} --emotion anger --top 10"
)
def locate(
    on: OnModel,
    discovery: DiscoveryOption,
    texts: OnTexts,
    emotion: EmotionOption = "anger",
    score: Annotated[
        str, choice(("centred", "paper"), "Score of a component; paper is the signed mean.")
    ] = "centred",
    top: Annotated[int, typer.Option(min=1, help="Number of neurons and heads shown.")] = 10,
) -> Record:
    """Show the neurons and heads that write an emotion, and each sublayer's influence."""
    from circuits.emotion.selection import top_table

    found = found_in(on.load(), discovery, texts)
    table = top_table(found.scores["paper" if score == "paper" else "centred"], emotion, top)
    own = found.influence.of(emotion)
    influence = {"MLP": own["neurons"], "attention": own["heads"]}
    record = {"model": on.model, "run": str(discovery), "emotion": emotion, "score": score}
    values = {part.lower(): values.tolist() for part, values in influence.items()}
    rows: Any = table.to_dict("records")
    yield lambda: record | {"components": rows, "influence": values}
    print_table(table, f"{emotion}: what writes it most, {score} score")
    for part, values in influence.items():
        best = int(values.argmax())
        stdout.print(f"{part} influence is largest in layer {best}: {values[best]:.3f}")


# --- replies --------------------------------------------------------------------------------------


@command(
    app, f"interp emotion control --model smollm2-135m --discovery {FOLDER} --emotion fear --n 4"
)
def control(
    by: ByRecipe,
    discovery: DiscoveryOption,
    texts: OnTexts,
    emotion: EmotionOption = "anger",
    condition: Annotated[
        str, typer.Option(help="Condition: circuit, steering, prompting, random, ….")
    ] = "circuit",
    strength: Annotated[
        float | None, typer.Option(help="Strength instead of the tuned one; at most 1.5 times it.")
    ] = None,
    any_dose: Annotated[
        bool, typer.Option("--any-dose", help="Allow any strength; expect profanity and hatred.")
    ] = False,
    n: Annotated[int, typer.Option(min=1, help="Number of situations.")] = 4,
) -> Record:
    """Write replies to events in one emotion, beside unmodulated replies."""
    from circuits.emotion.emotion_metrics import presentable
    from circuits.emotion.prompts import ReplyPrompts
    from circuits.emotion.replies import ReplyWriter
    from circuits.emotion.steering import conditions_of
    from circuits.emotion.texts import situations
    from interp.errors import PlanError

    recipe, given = by.read(), texts.load("test")
    model = by.load(recipe)
    found = found_in(model, discovery, texts, recipe.settings)
    plain, *rest = conditions_of(model, found, recipe.doses, [condition])
    chosen = rest[0] if rest else plain
    if strength is not None:
        tuned, chosen = chosen.strength, chosen.at(strength)
        if abs(strength) > MOST * tuned and not any_dose:
            raise PlanError(
                f"the size of --strength {strength:g} is above {MOST:g} times the tuned {tuned:g}: "
                "replies turn incoherent, and coarse or hateful. Lower it, or add --any-dose."
            )
    asking = ReplyPrompts(given.frames, given.replies, recipe.style)
    writer = ReplyWriter(model, asking, situations(given.events, n), recipe.decoding)
    tables: list[Any] = [writer.write(one) for one in (plain, chosen)]
    before, after = (table[table["emotion"] == emotion] for table in tables)
    rows = [
        {"text": text, "unmodulated": presentable(one), condition: presentable(other)}
        for text, one, other in zip(after["text"], before["reply"], after["reply"], strict=True)
    ]
    record = {"model": recipe.model, "emotion": emotion, "condition": condition}
    yield lambda: record | {"replies": rows}
    for row in rows:
        stdout.print(f"[bold]{escape(row['text'])}[/bold]")
        for name in ("unmodulated", condition):
            stdout.print(f"  {name}: {escape(row[name])}")


@command(
    app,
    "interp emotion elicit --model smollm2-135m --judge-model gemma-3-270m --n 24 --out "
    "runs/emotion/smollm2/elicited --json",
)
def elicit(
    on: OnModel,
    into: IntoFolder,
    texts: OnTexts,
    judge_model: Annotated[
        str, typer.Option(help="Another model, whose activations the first judge reads.")
    ],
    n: Annotated[
        int, typer.Option(min=1, help="Number of events replied to, in six emotions each.")
    ] = 48,
) -> Record:
    """Ask for replies in each emotion by words and by demonstrations, and judge them."""
    from circuits.emotion.emotion_comparison import compare
    from circuits.emotion.emotion_settings import ReplySettings
    from circuits.emotion.steering import prompted_conditions
    from interp.data.chat import has_template

    given = texts.load("discovery", plain="tuning")
    settings = checked(ReplySettings, {"judge_model": judge_model, "n": n}, "settings")
    model = on.load()
    asked = prompted_conditions(has_template(model))
    result = compare(
        model, asked, settings, given, judged_on(on.how.device), into.out, None, into.force, say
    )
    yield from _shown(result, into.out, ["accuracy", "accuracy_low", "accuracy_high", "neutral"])


@command(
    app,
    f"interp emotion evaluate --model smollm2-135m --discovery {FOLDER} --out "
    "runs/emotion/comparison --json",
)
def evaluate(
    by: ByRecipe, discovery: DiscoveryOption, into: IntoFolder, texts: OnTexts, compared: Compared
) -> Record:
    """Compare all conditions on the same events, judged with the target hidden."""
    endpoint = compared.endpoint()  # refused now, before a model is loaded
    recipe = by.read(n=compared.n, judge_model=compared.judge_model)
    given = texts.load("test", published=compared.published)
    model = by.load(recipe)
    found = found_in(model, discovery, texts, recipe.settings)
    yield from _compared(model, found, recipe, given, by, compared, endpoint, into)


@command(
    app,
    "interp emotion run --model smollm2-135m --out runs/emotion/smollm2 --json",
    "interp emotion run --recipe llama-3.2-3b-instruct --out runs/emotion/llama --json",
)
def run(
    by: ByRecipe,
    into: IntoFolder,
    texts: OnTexts,
    compared: Compared,
    discovery_events: DiscoveryEventsOption = None,
    limit: ScenariosOption = None,
) -> Record:
    """Run the whole chain: discovery, circuits, replies in every condition, judges, a page."""
    endpoint = compared.endpoint()  # refused now, before a model is loaded
    recipe = by.read(n=compared.n, judge_model=compared.judge_model)
    given = texts.load("test", published=compared.published)
    own = OnTexts(texts.datasets, discovery_events)
    own.load("discovery")  # a bad file is refused before a model is loaded
    at, out = (IntoFolder(into.out / name, into.force) for name in ("discovery", "comparison"))
    model = by.load(recipe)
    found = discovered(model, at, own, recipe.settings, limit)
    yield from _compared(model, found, recipe, given, by, compared, endpoint, out)


def _compared(
    model: "Model",
    found: "EmotionDiscovery",
    recipe: "EmotionRecipe",
    texts: "EmotionTexts",
    by: ByRecipe,
    compared: Compared,
    endpoint: "EndpointJudge | None",
    into: IntoFolder,
) -> Record:
    from circuits.emotion.emotion_comparison import compare
    from circuits.emotion.steering import conditions_of

    names = names_in(compared.conditions) if compared.conditions else None
    conditions = conditions_of(model, found, recipe.doses, names)
    judge = judged_on(by.how.device)
    result = compare(
        model, conditions, recipe, texts, judge, into.out, found, into.force, say, endpoint
    )
    yield from _shown(result, into.out)


def _shown(result: "EmotionComparison", out: Path, columns: list[str] | None = None) -> Record:
    yield lambda: {"run": str(out), "page": str(out / "index.html"), **result.summary()}
    scores = columns or ["accuracy", "quality", "joint", "joint_low", "joint_high"]
    table = result.table().loc[:, ["condition", "n", *scores]]
    print_table(table, f"{result.model}: judge {result.judges[0]}")
    print_run(out)
