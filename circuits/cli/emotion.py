"""`interp emotion`: bring emotions about, find their directions, components and circuits."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.cli import emotion_control
from circuits.cli.emotion_shared import (
    DISCOVERY_TEXTS,
    TEST_TEXTS,
    TUNING_TEXTS,
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
    choice,
    names_in,
)
from circuits.cli.output import load, print_json, print_table, stdout

if TYPE_CHECKING:
    from circuits.emotion.discovery import Settings

app = typer.Typer(
    name="emotion",
    help="Emotion circuits: find them, prove them, control text with them.",
    no_args_is_help=True,
)
app.add_typer(emotion_control.app)

StylesOption = Annotated[
    str | None,
    typer.Option(help="Frames and word sets, such as felt:A,day:B; by default the preset's."),
]
PaperOption = Annotated[
    str | None,
    typer.Option(help="Use the published settings, in this style: a frame and a word set."),
]
EventsOption = Annotated[
    str | None,
    typer.Option(
        help="Texts in SEV's schema: a shipped name, a file or a Hub data set; by default the "
        "shipped discovery set."
    ),
]


@app.command(
    epilog="Example: `interp emotion elicit --model smollm2-135m --reader gemma-3-270m --n 24 "
    "--out runs/emotion/smollm2/elicited --json`"
)
def elicit(
    model: ModelOption,
    reader: Annotated[
        str, typer.Option(help="Another model, on whose activations the judge is fitted.")
    ],
    out: NeededOutOption,
    force: ForceOption = False,
    datasets: DatasetsOption = None,
    events: EventsOption = None,
    n: Annotated[
        int, typer.Option(min=1, help="Number of events replied to, in six emotions each.")
    ] = 48,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for replies in each emotion by words and by demonstrations, and judge them."""
    from circuits.emotion.control import Control
    from circuits.emotion.controlling import Writer, evaluate
    from circuits.emotion.doses import prompted_arms
    from circuits.emotion.marking import Limits
    from circuits.emotion.running import judges_of
    from circuits.emotion.situations import Asking, situations
    from interp.results.run_folder import RunFolder
    from interp.results.run_key import fingerprint, identity

    given = texts_of(datasets, events or in_folder(datasets, DISCOVERY_TEXTS), plain=TUNING_TEXTS)
    asking, texts = Asking(given.frames, given.replies), situations(given.events, n)
    loaded = load(model, device, dtype)
    arms = prompted_arms(bool(getattr(loaded.tokenizer, "chat_template", None)))
    named = {"reader": reader, "n": n, "arms": [arm.name for arm in arms]}
    named |= {"texts": fingerprint(given)} | identity(loaded)
    with RunFolder.open(out, "emotion elicit", named, unit="arms", force=force) as kept:
        if not kept.finished:
            judges = judges_of(load(reader, device, dtype), given)
            writer = Writer(loaded, asking, texts, steps=kept, progress=say)
            kept.finish(evaluate(writer, arms, judges, Limits()).save)
    result = Control.load(out)
    if as_json:
        print_json({"run": str(out), **result.summary()})
        return
    columns = ["arm", "n", "accuracy", "accuracy_low", "accuracy_high", "neutral"]
    table = result.table()
    print_table(table.loc[:, [c for c in columns if c in table]], f"replies asked of {model}")
    stdout.print(f"run folder: {out}", highlight=False, soft_wrap=True)


@app.command(
    epilog="Example: `interp emotion circuit --model smollm2-135m --out runs/emotion/smollm2/"
    "discovery --json`"
)
def circuit(
    model: ModelOption,
    out: NeededOutOption,
    force: ForceOption = False,
    datasets: DatasetsOption = None,
    events: EventsOption = None,
    styles: StylesOption = None,
    paper: PaperOption = None,
    limit: ScenariosOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find every emotion's circuit: directions, scores, influence, allocation."""
    from circuits.emotion.selection import overlap_table

    settings = _settings(styles, paper)
    texts_of(datasets, events or in_folder(datasets, DISCOVERY_TEXTS))  # bad files are told now
    loaded = load(model, device, dtype)
    found = discovered(loaded, out, datasets, settings, events, limit, force)
    if as_json:
        print_json({"model": model, "run": str(out), **found.summary()})
        return
    for preset, circuits in found.circuits.items():
        print_table(overlap_table(circuits), f"{preset}: Jaccard index of circuits")
    stdout.print(f"run folder: {out}", highlight=False, soft_wrap=True)


@app.command(
    epilog="Example: `interp emotion directions --model smollm2-135m --discovery runs/emotion/"
    "smollm2/discovery --json`"
)
def directions(
    model: ModelOption,
    discovery: DiscoveryOption,
    datasets: DatasetsOption = None,
    events: Annotated[
        str | None,
        typer.Option(help="Unseen texts in SEV's schema; by default the shipped test set."),
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="Number of unseen scenarios that are read.")] = 24,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find where emotions point, and read unseen texts: other words, other frames, no word."""
    from circuits.emotion.data import load_vignettes
    from circuits.emotion.transfer import tables
    from circuits.emotion.trying import transfer_tests
    from interp.results.files import replacing

    unseen = texts_of(datasets, events or in_folder(datasets, TEST_TEXTS))
    vignettes = load_vignettes(in_folder(datasets, "emotion_vignettes.jsonl"))
    loaded = load(model, device, dtype)
    found = found_in(loaded, discovery, datasets)
    read = transfer_tests(
        loaded, found, unseen.frames, unseen.events, vignettes, unseen.replies, n, say
    )
    table = tables(read)
    with replacing(discovery / "transfer.parquet") as file:
        table.to_parquet(file, index=False)
    at: Any = table[table["layer"] == found.layer]
    if as_json:
        rows = [dict(row) for _, row in at.iterrows()]
        print_json({"model": model, "run": str(discovery), "layer": found.layer, "tests": rows})
        return
    print_table(at, f"accuracy at layer {found.layer} (chance 0.167; null: 95th percentile)")


@app.command(
    epilog="Example: `interp emotion locate --model smollm2-135m --discovery runs/emotion/"
    "smollm2/discovery --emotion anger --top 10`"
)
def locate(
    model: ModelOption,
    discovery: DiscoveryOption,
    emotion: EmotionOption = "anger",
    score: Annotated[
        str, choice(("centred", "paper"), "Score of a component; paper is the signed mean.")
    ] = "centred",
    top: Annotated[int, typer.Option(min=1, help="Number of neurons and heads shown.")] = 10,
    datasets: DatasetsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the neurons and heads that write an emotion, and each sublayer's influence."""
    from circuits.emotion.selection import top_table

    loaded = load(model, device, dtype)
    found = found_in(loaded, discovery, datasets)
    scored = {str(kind): own for kind, own in found.scores.items()}
    table = top_table(scored[score], emotion, top)
    weights = found.influence.weights(emotion)
    if as_json:
        rows = [dict(row) for _, row in table.iterrows()]
        influence = {"mlp": weights["neuron"].tolist(), "attention": weights["head"].tolist()}
        said = {"model": model, "run": str(discovery), "emotion": emotion, "score": score}
        print_json(said | {"components": rows, "influence": influence})
        return
    print_table(table, f"{emotion}: what writes it most, {score} score")
    for part, values in (("MLP", weights["neuron"]), ("attention", weights["head"])):
        best = int(values.argmax())
        stdout.print(f"{part} influence is largest in layer {best}: {values[best]:.3f}")


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
    return Settings(styles=tuple(names_in(styles))) if styles else Settings()
