"""`interp edit sequence`: many edits of one model, one after the other and in one batch."""

from typing import Annotated

import typer
from rich.markup import escape

from circuits.cli.options import (
    N_TOKENS,
    CasesOption,
    Into,
    JsonOption,
    OnModel,
    PlacementOption,
    SplitOption,
    TokensOption,
    choice,
    names_in,
    numbers,
)
from circuits.cli.output import print_json, print_table, stdout
from circuits.editing.evaluation.sequence_settings import ORDERS, SequenceSettings
from circuits.editing.methods import INFORMED, METHODS
from interp.progress import bar

EXAMPLES = (
    "interp edit sequence --model smollm2-135m --cases multihop_chains --methods rome,memit,ace "
    "--lengths 1,10,100 --out runs/sequence",
)


def _says(field: str) -> str:
    return SequenceSettings.model_fields[field].description or ""


def sequence(
    on: OnModel,
    cases: CasesOption,
    into: Into,
    methods: Annotated[
        str, choice((*METHODS, *INFORMED), _says("methods"), many=True)
    ] = "rome,memit,alphaedit,ace",
    lengths: Annotated[str, typer.Option(help=_says("lengths"))] = "1,10,100",
    orders: Annotated[str, choice(tuple(ORDERS), _says("orders"), many=True)] = "row,batch",
    split: SplitOption = None,
    placement: PlacementOption = None,
    asked: Annotated[int, typer.Option(min=1, help=_says("n_asked"))] = 100,
    controls: Annotated[int, typer.Option(min=1, help=_says("n_controls"))] = 100,
    neutral: Annotated[str | None, typer.Option(help=_says("neutral"))] = None,
    seed: Annotated[int, typer.Option(help=_says("seed"))] = 0,
    n_tokens: TokensOption = N_TOKENS,
    as_json: JsonOption = False,
) -> None:
    """Edit one model many times, and ask after each number of edits what is left of them."""
    import pandas as pd

    from circuits.editing.evaluation.comparison_settings import neutral_text
    from circuits.editing.evaluation.formats import load_benchmark
    from circuits.editing.evaluation.sequences import edit_sequences
    from circuits.editing.layer_selection import selection_for
    from interp.data.records import checked

    settings = checked(
        SequenceSettings,
        {
            "methods": names_in(methods),
            "lengths": numbers("--lengths", lengths),
            "orders": names_in(orders),
            "n_asked": asked,
            "n_controls": controls,
            "neutral": neutral,
            "seed": seed,
            "n_tokens": n_tokens,
        },
        "options",
    )
    neutral_text(settings.neutral)  # refused before a model is loaded
    rows = load_benchmark(cases, split)
    model = on.load()
    layers = selection_for(model, placement, *settings.methods)
    with bar("editing", "") as report:
        result = edit_sequences(
            model,
            rows,
            settings,
            layers,
            out=into.out,
            force=into.force,
            progress=lambda what, done, total: report(done, total, what),
        )
    found = result.summary()
    if as_json:
        print_json({"run": into.run, **found})
        return
    print_table(pd.DataFrame(found["sequences"]).round(3), f"{result.model}, {result.source}")
    for what, why in found["stopped"].items():
        stdout.print(f"[dim]{escape(what)} stopped {escape(why)}[/dim]", highlight=False)
    for reason, n in found["excluded"].items():
        stdout.print(f"[dim]{n} cases left out: {escape(reason)}[/dim]", highlight=False)
    if into.out:
        stdout.print(f"run folder: {into.out}", highlight=False, soft_wrap=True, markup=False)
