"""`interp ablate`: ablate components from the command line, into a run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.grouped import Record, command
from circuits.cli.options import (
    ABLATIONS,
    METRICS,
    AnswersOption,
    InChat,
    Into,
    LimitOption,
    NeutralOption,
    OnModel,
    PairsOption,
    choice,
    metric_choice,
    names_in,
)
from circuits.cli.output import neutral_text, print_run, print_table, stdout
from interp.progress import bar

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer()
MODES = ("singles", "set", "all-but", "curve")
READOUTS = (*METRICS, "accuracy", "vocab_accuracy")


@command(
    app,
    "interp ablate --model smollm2-135m --pairs country_capitals --mode singles --limit 16 "
    "--out runs/singles",
    "interp ablate --model smollm2-135m --pairs country_capitals --components "
    "a23.h4,a29.h1,a23.h1 --mode curve --kind mean --limit 64 --random 100 "
    "--neutral neutral_text --out runs/curve --json",
)
def ablate(
    on: OnModel,
    into: Into,
    in_chat: InChat,
    pairs: PairsOption,
    components: Annotated[
        str | None,
        typer.Option(
            help="Components, with commas: a3.h1 or L3H1 a head, a3 all heads of a layer, m5 an "
            "MLP, m5.n17 a neuron, m5.e2 an expert."
        ),
    ] = None,
    components_file: Annotated[
        Path | None,
        typer.Option(help="File of components, one per line; for a curve in ranked order."),
    ] = None,
    kind: Annotated[str, choice(ABLATIONS, "What takes the components' place.")] = "resample",
    mode: Annotated[
        str,
        choice(
            MODES,
            "Ablate each component alone, all together, all but them, or the first 1, 2, 4, ….",
        ),
    ] = "set",
    readouts: Annotated[
        str,
        metric_choice(
            READOUTS, "What is measured; accuracy chooses among all answers.", True, "readout"
        ),
    ] = "logit_diff,accuracy",
    answers: AnswersOption = "whole",
    reference: Annotated[
        str | None,
        typer.Option(help="Pairs for --kind mean; by default the rows of --pairs after --limit."),
    ] = None,
    neutral: NeutralOption = None,
    random: Annotated[int, typer.Option(min=0, help="Number of matched random sets per set.")] = 20,
    match_norms: Annotated[
        bool,
        typer.Option("--match-norms", help="Match random sets by the norm of their output, too."),
    ] = False,
    cluster_by: Annotated[
        str | None,
        typer.Option(
            help="Span that names a pair's entity, such as subject; intervals resample it."
        ),
    ] = None,
    limit: LimitOption = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of random sets, noise and confidence intervals.")
    ] = 0,
) -> Record:
    """Ablate components and show what is lost, against matched random sets."""
    import interp
    from interp.errors import PlanError
    from interp.model.components import refuse_unreadable

    if reference is not None and kind != "mean":
        raise PlanError(f"--reference is of --kind mean, not {kind}; leave one of them out.")
    rows = in_chat.rows(interp.load_pairs(pairs))
    given = _components(components, components_file)
    refuse_unreadable(given or ())
    options: dict[str, Any] = {"readouts": names_in(readouts), "neutral": neutral_text(neutral)}
    options |= {"answers": answers}
    own = reference and in_chat.rows(interp.load_pairs(reference))
    others = own or limit and rows[limit:]
    if kind == "mean":
        options["reference"] = others or None
    options |= {"n_random": random, "match_norms": match_norms, "cluster_by": cluster_by}
    options |= {"seed": seed, "out": into.out, "force": into.force}
    model = on.load()
    sets = _sets(model, mode, given)
    with bar("ablating", "runs") as report:
        result = interp.ablate(model, rows[:limit], sets, kind, **options, progress=report)
    yield lambda: {"run": into.run, "mode": mode, **result.summary()}
    _print(result, into.out)


def _components(given: str | None, file: Path | None) -> list[str] | None:
    """Names from the option or the file's lines; `PlanError` for both, or a file without any."""
    from interp.data.records import read_text
    from interp.errors import PlanError

    if given is not None and file is not None:
        raise PlanError("--components and --components-file are both given; leave one out.")
    if file is None:
        return None if given is None else names_in(given)
    names = [line.strip() for line in read_text(file, "components").splitlines() if line.strip()]
    if not names:
        raise PlanError(f"{file} names no components; write one per line, such as a3.h1.")
    return names


def _sets(model: Any, mode: str, given: list[str] | None) -> Any:
    import interp
    from interp.errors import PlanError

    if mode == "singles":
        return interp.singles(model, given)
    if given is None:
        raise PlanError(f"--mode {mode} needs --components or --components-file.")
    make = {"curve": interp.cumulative, "all-but": interp.all_but}.get(mode)
    return given if make is None else make(model, given)


def _print(result: Any, out: Path | None) -> None:
    stdout.print(
        f"[bold]{result.kind} ablation[/bold] on {escape(result.model)}: {len(result.sets)} "
        f"set{'s' * (len(result.sets) != 1)}, {result.n_pairs} pairs of {escape(result.source)} "
        f"({len(result.excluded)} excluded), {result.seconds:.2f} s"
    )
    for readout in result.readouts:
        baseline = float(result.reading(readout)["baseline"].mean())
        print_table(_brief(result.top(10, readout)), f"{readout}: {baseline:.3f} unablated")
    for name, reason in list(result.uncontrolled.items())[:5]:
        stdout.print(f"[dim]no control for {escape(name)}: {escape(reason)}[/dim]")
    print_run(out, result.excluded)


def _brief(table: "pd.DataFrame") -> "pd.DataFrame":
    """The columns that a terminal has room for."""
    bounds = {
        "95 % interval": zip(table["low"], table["high"], strict=True),
        "random sets": zip(table["random_low"], table["random_high"], strict=True),
    }
    text = {name: [f"{a:.2f} to {b:.2f}" for a, b in pairs] for name, pairs in bounds.items()}
    return table[["set", "effect"]].assign(**text, p=table["p"])
