"""`interp recall-reasoning`: build the cells, run the study, replicate the published statistics."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.options import (
    DESIGNS,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    ModelOption,
    NeededOutOption,
    NeutralOption,
    RecipeModelOption,
    choice,
    names_in,
    numbers,
)
from circuits.cli.output import load, neutral_text, print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from circuits.recall_reasoning.replicate import Prompts
    from circuits.recall_reasoning.settings import Settings

app = typer.Typer(
    help="Recall versus reasoning: separate circuits, tested by dissociation.",
    no_args_is_help=True,
)

CUT = ("resample", "mean", "zero")
DesignOption = Annotated[str, choice(DESIGNS, "Which kinds of prompts are contrasted.")]
DatasetsOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder with your own recall_facts.jsonl, ioi.jsonl and linguistic_puzzles.jsonl; "
        "by default the shipped ones.",
    ),
]


@app.command(
    epilog="Example: `interp recall-reasoning build --model gemma-3-270m --design A-conflict "
    "--out runs/cells.jsonl --json`"
)
def build(
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="JSONL file to write.")],
    design: DesignOption = "A-conflict",
    datasets: DatasetsOption = None,
    n: Annotated[int, typer.Option(min=1, help="Number of pairs drawn per cell and split.")] = 120,
    seed: Annotated[int, typer.Option(help="Random seed for splits and draws.")] = 0,
    filtered: Annotated[
        bool,
        typer.Option("--filtered/--all", help="Keep only the pairs that the model gets right."),
    ] = True,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the cells of a design in a model's tokens, and keep what it gets right."""
    from circuits.recall_reasoning.building import build as draw
    from circuits.recall_reasoning.cells import design_named
    from circuits.recall_reasoning.filtering import filtered as ask

    chosen = design_named(design)
    loaded = load(model, device, dtype)
    asked = ask(loaded, draw(loaded, chosen, datasets, n, seed))
    (asked.data if filtered else draw(loaded, chosen, datasets, n, seed)).save(out)
    rejected = len(asked.data.rejected)
    if as_json:
        cells = asked.counts.to_dict("records")
        print_json({"model": model, "out": str(out), "cells": cells, "rejected": rejected})
        return
    columns = ["split", "cell", "drawn", "clean_right", "both_right", "by_shortcut", "kept"]
    print_table(asked.counts.loc[:, columns], f"{design} on {model}")
    stdout.print(f"{rejected} rows could not be matched; wrote {out}", highlight=False)


@app.command(
    epilog="Examples:\n\n`interp recall-reasoning run --model two-hop-organism --design 2x2 --out "
    "runs/organism`\n\n`interp recall-reasoning run --recipe "
    "qwen2.5-7b-instruct --out runs/qwen --json`"
)
def run(
    out: NeededOutOption,
    force: ForceOption = False,
    model: RecipeModelOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A shipped recipe such as smollm2-135m, or a JSON file of your own."),
    ] = None,
    design: Annotated[
        str | None,
        choice(DESIGNS, "Which kinds of prompts are contrasted; by default the recipe's."),
    ] = None,
    datasets: DatasetsOption = None,
    neutral: NeutralOption = None,
    sizes: Annotated[
        str | None, typer.Option(help="Numbers of heads in a circuit, such as 4,8,12,16.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Random seeds for the splits, such as 0,1,2.")
    ] = None,
    ablations: Annotated[
        str | None, choice(CUT, "Ablations; the first one decides.", many=True)
    ] = None,
    neurons: Annotated[
        str | None, typer.Option(help="Numbers of neurons in a circuit, such as 64.")
    ] = None,
    mlps: Annotated[
        str | None, typer.Option(help="Numbers of MLPs in a circuit, such as 1,2.")
    ] = None,
    n_test: Annotated[
        int | None, typer.Option(min=1, help="Largest number of test pairs per cell.")
    ] = None,
    n_random: Annotated[
        int | None, typer.Option(min=1, help="Number of random sets per control.")
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find a circuit for each ability and test whether one goes without the other."""
    from circuits.recall_reasoning.studying import study

    name, settings, recipe_dtype = _asked(model, recipe)
    given = {"design": design, "n_test": n_test, "n_random": n_random, "ablations": ablations}
    given |= {"sizes": sizes, "seeds": seeds, "neurons": neurons, "mlps": mlps}
    settings = _with_options(settings, given)
    text = neutral_text(neutral)
    loaded = load(name, device, dtype or recipe_dtype)
    result = study(
        loaded,
        settings,
        out,
        datasets,
        _neutral(loaded, text),
        force=force,
        say=lambda line: stderr.print(f"[dim]{escape(line)}[/dim]", highlight=False),
    )
    page = out / "index.html"
    if as_json:
        print_json({"run": str(out), "page": str(page), **result.summary()})
        return
    for line in result.verdict:
        stdout.print(f"• {escape(line)}", highlight=False)
    columns = ["seed", "circuit", "own_accuracy", "own_effect", "other_accuracy", "other_effect"]
    columns += ["needed", "intact", "specific"]
    print_table(result.chosen.loc[:, columns], "chosen circuits, test")
    stdout.print(f"run folder: {out}, page: {page}", highlight=False, soft_wrap=True)


def _neutral(model: Any, text: str | None) -> str | None:
    """The neutral text: what was given, or the stories of an organism's world."""
    from circuits.recall_reasoning.organism import story_text, world_of
    from interp.loading.organisms import ORGANISMS

    if text is None and model.name in ORGANISMS:
        return story_text(world_of(model))
    return text


def _asked(model: str | None, recipe: str | None) -> tuple[str, "Settings", str | None]:
    """Model, settings and dtype from the options and the recipe.

    Raises:
        PlanError: neither names a model.
    """
    from circuits.recall_reasoning.settings import Settings, load_recipe
    from interp.errors import PlanError

    if recipe is not None:
        found, settings = load_recipe(recipe)
        return model or found["model"], settings, found["dtype"]
    if model is None:
        raise PlanError("no model: give --model, or a --recipe that names one.")
    return model, Settings(), None


def _with_options(settings: "Settings", given: Mapping[str, Any]) -> "Settings":
    """The settings with what the command line overrides.

    Raises:
        InterpError: a list of numbers does not parse.
    """
    changed: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key == "ablations":
            changed[key] = tuple(names_in(value))
        elif key in ("sizes", "seeds", "neurons", "mlps"):
            changed[key] = tuple(numbers(f"--{key}", value) or ())
        else:
            changed[key] = value
    return replace(settings, **changed).checked()


@app.command(
    epilog="Example: `interp recall-reasoning replicate --model smollm2-135m --out runs/published "
    "--json`"
)
def replicate(
    model: ModelOption,
    out: NeededOutOption,
    force: ForceOption = False,
    published: Annotated[
        str | None, typer.Option(help="The released prompts (JSON); by default the same words.")
    ] = None,
    datasets: DatasetsOption = None,
    design: DesignOption = "A-nonce",
    n: Annotated[int, typer.Option(min=3, help="Number of matched prompts per kind.")] = 30,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replicate the published layer, head and neuron tests, also on length-matched prompts."""
    from circuits.kinds import write_page
    from circuits.recall_reasoning.building import build as draw
    from circuits.recall_reasoning.cells import design_named
    from circuits.recall_reasoning.replicate import (
        Replication,
        matched_prompts,
        published_prompts,
    )
    from circuits.recall_reasoning.replicate import replicate as test
    from interp.data.datasets import folder
    from interp.results.run_folder import Codec, fingerprint, identity, in_one_piece

    source = published or (datasets or folder()) / "recall_facts.jsonl"
    sets: dict[str, Prompts] = {"published": published_prompts(source)}
    loaded = load(model, device, dtype)
    chosen = design_named(design)
    data = draw(loaded, chosen, datasets, n, 0)
    sets["matched"] = matched_prompts(data, chosen.cells[0], chosen.cells[1], n)
    kept: Codec[Replication] = Codec(lambda one, at: one.save(at), Replication.load)
    result = in_one_piece(
        out,
        "recall-reasoning replicate",
        {"sets": fingerprint(sets)} | identity(loaded),
        lambda: test(loaded, sets),
        kept,
        page=write_page,
        force=force,
    )
    page = out / "index.html"
    if as_json:
        print_json({"run": str(out), "page": str(page), **result.summary()})
        return
    print_table(result.confounds.T.reset_index(), f"published statistics on {model}")
    stdout.print(f"run folder: {out}, page: {page}", highlight=False, soft_wrap=True)
