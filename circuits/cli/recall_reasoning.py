"""`interp recall-reasoning`: build the cells, run the study, replicate the published statistics."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    NeutralOption,
    load,
    neutral_text,
    print_json,
    print_table,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from circuits.recall_reasoning.replicate import Prompts
    from circuits.recall_reasoning.settings import Settings

app = typer.Typer(
    help="Recall versus reasoning: separate circuits, tested by dissociation.",
    no_args_is_help=True,
)

DesignOption = Annotated[
    str,
    typer.Option(
        help="2x2, A-D, A-C, A-conflict, A-nonce, A-ioi or puzzles: which cells are contrasted."
    ),
]
DatasetsOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder with your own recall_facts.jsonl, ioi.jsonl and linguistic_puzzles.jsonl; "
        "default: the shipped ones."
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
    n: Annotated[int, typer.Option(min=1, help="Pairs drawn a cell and split.")] = 120,
    seed: Annotated[int, typer.Option(help="Of splits and draws.")] = 0,
    filtered: Annotated[
        bool, typer.Option("--filtered/--all", help="Keep the pairs the model gets right.")
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
    out: Annotated[Path, typer.Option(help="Run folder; a stopped run resumes.")],
    model: Annotated[
        str | None, typer.Option(help="Built-in name, Hub id or local folder; else the recipe's.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A shipped recipe such as smollm2-135m, or a JSON file of your own."),
    ] = None,
    design: Annotated[
        str | None, typer.Option(help="2x2, A-conflict, A-nonce, A-ioi, …; else the recipe's.")
    ] = None,
    datasets: DatasetsOption = None,
    neutral: NeutralOption = None,
    sizes: Annotated[str | None, typer.Option(help="Heads in a circuit: 4,8,12,16.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Of the splits: 0,1,2.")] = None,
    ablations: Annotated[
        str | None, typer.Option(help="resample,mean,zero; the first decides.")
    ] = None,
    neurons: Annotated[str | None, typer.Option(help="Neurons in a circuit, such as 64.")] = None,
    mlps: Annotated[str | None, typer.Option(help="MLPs in a circuit, such as 1,2.")] = None,
    n_test: Annotated[int | None, typer.Option(min=1, help="Most test pairs a cell.")] = None,
    n_random: Annotated[int | None, typer.Option(min=1, help="Random sets a control.")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find a circuit for each ability and test whether one goes without the other."""
    from circuits.recall_reasoning.figures import study_page
    from circuits.recall_reasoning.studying import study

    name, settings, recipe_dtype = _asked(model, recipe)
    given = {"design": design, "n_test": n_test, "n_random": n_random, "ablations": ablations}
    given |= {"sizes": sizes, "seeds": seeds, "neurons": neurons, "mlps": mlps}
    settings = _with_options(settings, given)
    loaded = load(name, device, dtype or recipe_dtype)
    result = study(
        loaded,
        settings,
        out,
        datasets,
        _neutral(loaded, neutral),
        say=lambda line: stderr.print(f"[dim]{escape(line)}[/dim]", highlight=False),
    )
    page = out / "index.html"
    page.write_text(study_page(result, f"Recall versus reasoning on {result.model}"), "utf-8")
    if as_json:
        print_json({"run": str(out), "page": str(page), **result.summary()})
        return
    for line in result.verdict:
        stdout.print(f"• {escape(line)}", highlight=False)
    columns = ["seed", "circuit", "own_accuracy", "own_effect", "other_accuracy", "other_effect"]
    columns += ["needed", "intact", "specific"]
    print_table(result.chosen.loc[:, columns], "chosen circuits, test")
    stdout.print(f"run folder: {out}, page: {page}", highlight=False, soft_wrap=True)


def _neutral(model: Any, source: str | None) -> str | None:
    """The neutral text: a file's, or the stories of an organism's world.

    Raises:
        DataFileError: there is no such text.
    """
    from circuits.recall_reasoning.organism import story_text, world_of
    from interp.organisms import ORGANISMS

    if source is None and model.name in ORGANISMS:
        return story_text(world_of(model))
    return neutral_text(source)


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
        PlanError: a list of numbers does not parse.
    """
    from interp.errors import PlanError

    changed: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key == "ablations":
            changed[key] = tuple(value.split(","))
        elif key in ("sizes", "seeds", "neurons", "mlps"):
            try:
                changed[key] = tuple(int(part) for part in str(value).split(",") if part.strip())
            except ValueError as error:
                raise PlanError(f"--{key} {value!r}: give numbers with commas.") from error
        else:
            changed[key] = value
    return replace(settings, **changed).checked()


@app.command(
    epilog="Example: `interp recall-reasoning replicate --model smollm2-135m --out runs/published "
    "--json`"
)
def replicate(
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="Run folder.")],
    published: Annotated[
        str | None, typer.Option(help="The released prompts (JSON); default: the same words.")
    ] = None,
    datasets: DatasetsOption = None,
    design: Annotated[str, typer.Option(help="Design whose two cells are the matched prompts.")] = (
        "A-nonce"
    ),
    n: Annotated[int, typer.Option(min=3, help="Matched prompts of each kind.")] = 30,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The published layer, head and neuron tests, on published and on length-matched prompts."""
    from circuits.recall_reasoning.building import build as draw
    from circuits.recall_reasoning.cells import design_named
    from circuits.recall_reasoning.figures import replication_page
    from circuits.recall_reasoning.replicate import (
        matched_prompts,
        published_prompts,
    )
    from circuits.recall_reasoning.replicate import replicate as test
    from interp.shipped import folder

    source = published or (datasets or folder()) / "recall_facts.jsonl"
    sets: dict[str, Prompts] = {"published": published_prompts(source)}
    loaded = load(model, device, dtype)
    chosen = design_named(design)
    data = draw(loaded, chosen, datasets, n, 0)
    sets["matched"] = matched_prompts(data, chosen.cells[0], chosen.cells[1], n)
    result = test(loaded, sets)
    result.save(out)
    page = out / "index.html"
    page.write_text(replication_page(result, f"Published statistics on {model}"), "utf-8")
    if as_json:
        print_json({"run": str(out), "page": str(page), **result.summary()})
        return
    print_table(result.confounds.T.reset_index(), f"published statistics on {model}")
    stdout.print(f"run folder: {out}, page: {page}", highlight=False, soft_wrap=True)
