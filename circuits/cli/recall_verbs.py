"""`interp recall-reasoning`: build the cells, run the study, replicate the published statistics."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.grouped import Record, command
from circuits.cli.options import (
    InChat,
    IntoFolder,
    JacobianOption,
    Loading,
    NeutralOption,
    OnModel,
    RecipeModelOption,
    choice,
)
from circuits.cli.output import neutral_text, print_run, print_table, stderr, stdout
from circuits.recall_reasoning.designs import DESIGNS
from circuits.recall_reasoning.settings import (
    BridgeSettings,
    FeasibilitySettings,
    StudySettings,
    ThoughtSettings,
    load_recipe,
)
from interp.data.records import checked
from interp.errors import PlanError

app = typer.Typer(
    help="Recall versus reasoning: separate circuits, tested by dissociation.", no_args_is_help=True
)

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

FactsOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder with your own recall_facts.jsonl and neutral_text.txt; by default the "
        "shipped ones.",
    ),
]


@command(
    app,
    "interp recall-reasoning build --model gemma-3-270m --design A-conflict --out runs/cells.jsonl "
    "--json",
)
def build(
    on: OnModel,
    out: Annotated[Path, typer.Option(help="JSONL file to write.")],
    in_chat: InChat,
    design: DesignOption = "A-conflict",
    datasets: DatasetsOption = None,
    n: Annotated[int, typer.Option(min=1, help="Number of pairs drawn per cell and split.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for splits and draws.")] = 0,
    filtered: Annotated[
        bool,
        typer.Option("--filtered/--all", help="Keep only the pairs that the model gets right."),
    ] = True,
) -> Record:
    """Draw the cells of a design in a model's tokens, and keep what it gets right."""
    from circuits.recall_reasoning.filter import filtered as ask
    from circuits.recall_reasoning.sources import build as draw

    model = on.load()
    data = draw(model, DESIGNS[design], datasets, n, seed, in_chat.options())
    asked = ask(model, data)
    (asked.data if filtered else data).save(out)
    cells, rejected = asked.counts, len(data.rejected)
    record = {"model": on.model, "out": str(out), "cells": cells.to_dict("records")}
    yield lambda: record | {"rejected": rejected}
    columns = ["split", "cell", "drawn", "clean_right", "both_right", "by_shortcut", "kept"]
    print_table(cells.loc[:, columns], f"{design} on {on.model}")
    stdout.print(f"{rejected} rows could not be matched; wrote {out}")


@command(app, "interp recall-reasoning feasible --model smollm2-135m --n 20 --out runs/feasible")
def feasible(
    on: OnModel,
    into: IntoFolder,
    changes: Annotated[dict[str, Any], FeasibilitySettings],
    in_chat: InChat,
    datasets: DatasetsOption = None,
) -> Record:
    """Ask every cell's questions in every form: which designs can the model be studied by?"""
    from circuits.recall_reasoning.feasibility import feasibility

    settings = checked(FeasibilitySettings, changes | in_chat.settings(), "settings")
    found = feasibility(on.load(), settings, into.out, datasets=datasets, force=into.force)
    yield lambda: {"run": str(into.out), "page": str(into.out / "index.html"), **found.summary()}
    columns = ["cell", "questions", "form", "asked", "written", "leads", "kept", "n"]
    print_table(found.cells.loc[:, columns], f"answers of {on.model}")
    columns = ["design", "form", "feasible", "kept", "to_draw", "reason"]
    print_table(found.designs.loc[:, columns], "designs of run")
    print_run(into.out)


@command(
    app,
    "interp recall-reasoning run --model two-hop-organism --design 2x2 --out runs/organism",
    "interp recall-reasoning run --recipe qwen2.5-7b-instruct --out runs/qwen --json",
)
def run(
    *,
    into: IntoFolder,
    changes: Annotated[dict[str, Any], StudySettings],
    in_chat: InChat,
    model: RecipeModelOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A shipped recipe such as smollm2-135m, or a JSON file of your own."),
    ] = None,
    datasets: DatasetsOption = None,
    neutral: NeutralOption = None,
    how: Loading,
) -> Record:
    """Find a circuit for each ability and test whether one goes without the other."""
    from circuits.recall_reasoning.sources.organism import story_text, world_of
    from circuits.recall_reasoning.study import study
    from interp.loading.organisms import ORGANISMS

    asked = load_recipe(recipe) if recipe else None
    name = model or (asked and asked.model)
    if name is None:
        raise PlanError("no model: give --model, or a --recipe that names one.")
    settings = (asked.settings if asked else StudySettings()).but(**changes, **in_chat.settings())
    text = neutral_text(neutral)
    loaded = how.load(name, asked and asked.dtype)
    if text is None and loaded.name in ORGANISMS:
        text = story_text(world_of(loaded))

    def say(line: str) -> None:
        stderr.print(f"[dim]{escape(line)}[/dim]")

    result = study(loaded, settings, into.out, datasets, text, force=into.force, say=say)
    yield lambda: {"run": str(into.out), "page": str(into.out / "index.html"), **result.summary()}
    for line in result.verdict:
        stdout.print(f"• {escape(line)}")
    columns = ["seed", "circuit", "own_accuracy", "own_effect", "other_accuracy", "other_effect"]
    columns += ["needed", "intact", "specific"]
    print_table(result.chosen.loc[:, columns], "chosen circuits, test")
    print_run(into.out)


@command(
    app,
    "interp recall-reasoning bridge --model gemma-3-270m --layers 0,4,8,12,16 --out runs/bridge",
)
def bridge(
    on: OnModel,
    into: IntoFolder,
    changes: Annotated[dict[str, Any], BridgeSettings],
    in_chat: InChat,
    datasets: FactsOption = None,
    jacobian: JacobianOption = None,
) -> Record:
    """Read the bridge entity of two-hop prompts, swap it, and count the answers that follow."""
    from circuits.recall_reasoning.bridge import bridge as study
    from interp.lens import JacobianLens

    settings = checked(BridgeSettings, changes | in_chat.settings(), "settings")
    fitted = None if jacobian is None else JacobianLens.load(jacobian)
    given: dict[str, Any] = {"datasets": datasets, "jacobian": fitted, "force": into.force}
    found = study(on.load(), settings, into.out, **given)
    yield lambda: {"run": str(into.out), "page": str(into.out / "index.html"), **found.summary()}
    stdout.print(escape(repr(found)))
    read = ["lens", "position", "depth", "rank", "control_rank", "beats", "n"]
    print_table(found.best_read.loc[:, read], "bridge, at its best depth")
    swapped = ["swaps", "position", "layer", "condition", "follows", "stays", "n"]
    print_table(found.chosen.loc[:, swapped], "swaps, layer chosen on other countries")
    print_run(into.out)


@command(app, "interp recall-reasoning thought --model smollm2-135m --n 40 --out runs/thought")
def thought(
    on: OnModel,
    into: IntoFolder,
    changes: Annotated[dict[str, Any], ThoughtSettings],
    in_chat: InChat,
    datasets: FactsOption = None,
) -> Record:
    """Edit written chains of thought, and count the final answers that follow."""
    from circuits.recall_reasoning.thought import thought as study

    settings = checked(ThoughtSettings, changes | in_chat.settings(), "settings")
    found = study(on.load(), settings, into.out, datasets=datasets, force=into.force)
    yield lambda: {"run": str(into.out), "page": str(into.out / "index.html"), **found.summary()}
    stdout.print(escape(repr(found)), highlight=False)
    print_table(found.rates.loc[:, ["condition", "outcome", "rate", "n"]], "final answers")
    print_run(into.out)


@command(app, "interp recall-reasoning replicate --model smollm2-135m --out runs/published --json")
def replicate(
    on: OnModel,
    into: IntoFolder,
    published: Annotated[
        str | None, typer.Option(help="The released prompts (JSON); by default the same words.")
    ] = None,
    datasets: DatasetsOption = None,
    design: DesignOption = "A-nonce",
    n: Annotated[int, typer.Option(min=3, help="Number of matched prompts per kind.")] = 30,
) -> Record:
    """Replicate the published layer, head and neuron tests, also on length-matched prompts."""
    from circuits.recall_reasoning.published import Replication, matched_prompts, published_prompts
    from circuits.recall_reasoning.published import replicate as test
    from circuits.recall_reasoning.sources import build as draw
    from interp.data.datasets import folder
    from interp.results.run_folder import fingerprint, identity, in_one_piece

    if design in ("A-ioi", "puzzles"):
        raise PlanError(f"--design {design}: its prompts are not matched in length; name another.")
    source = published or (datasets or folder()) / "recall_facts.jsonl"
    sets = {"published": published_prompts(source)}
    model, chosen = on.load(), DESIGNS[design]
    sets["matched"] = matched_prompts(draw(model, chosen, datasets, n, 0), chosen.cells[:2], n)
    named = {"sets": fingerprint(sets)} | identity(model)
    verb = "recall-reasoning replicate"
    result = in_one_piece(into.out, verb, named, lambda: test(model, sets), Replication, into.force)
    yield lambda: {"run": str(into.out), "page": str(into.out / "index.html"), **result.summary()}
    print_table(result.confounds.T.reset_index(), f"published statistics on {on.model}")
    print_run(into.out)
