"""`interp edit evaluate`: edit methods judged on cases."""

from typing import TYPE_CHECKING, Annotated, Any

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
from circuits.editing.evaluation.comparison_settings import ComparisonSettings
from circuits.editing.methods import BASELINES, INFORMED, METHODS
from interp.progress import bar

if TYPE_CHECKING:
    import pandas as pd

says = ComparisonSettings.says
FORMATS = ("mquake", "counterfact", "zsre", "ripple_edits")
EXAMPLES = (
    "interp edit evaluate --model gemma-3-270m --cases multihop_chains --split design --methods "
    "rome,ace,none --limit 12 --out runs/edits-compared --json",
    "interp edit evaluate --model gemma-3-270m --cases MQuAKE-CF-3k-v2.json --methods "
    "rome+,memit+,ace --limit 100 --seeds 0,1,2 --out runs/mquake",
    "interp edit evaluate --model gemma-3-270m --cases counterfact.json --methods rome,none "
    "--limit 100 --out runs/counterfact",
)


def evaluate(
    on: OnModel,
    cases: CasesOption,
    into: Into,
    methods: Annotated[
        str, choice((*METHODS, *INFORMED, *BASELINES), says("methods"), many=True)
    ] = "ace,pmet,memit,rome,alphaedit,ifmet,ft,none",
    split: SplitOption = None,
    format: Annotated[
        str | None,
        choice(FORMATS, "Format of the cases; by default recognised from the keys of their rows."),
    ] = None,
    placement: PlacementOption = None,
    shots: Annotated[str, typer.Option(help=says("shots"))] = "direct",
    neutral: Annotated[str | None, typer.Option(help=says("neutral"))] = None,
    sequential: Annotated[bool, typer.Option("--sequential", help=says("sequential"))] = False,
    seeds: Annotated[str, typer.Option(help=says("seeds"))] = "0",
    limit: Annotated[int | None, typer.Option(min=1, help=says("limit"))] = None,
    n_tokens: TokensOption = N_TOKENS,
    as_json: JsonOption = False,
) -> None:
    """Edit each case by each method, and ask what became of the model."""
    from circuits.editing.evaluation import compare_methods, load_benchmark
    from circuits.editing.layer_selection import selection_for

    settings = ComparisonSettings(
        methods=tuple(names_in(methods)),
        seeds=tuple(numbers("--seeds", seeds) or ()),
        limit=limit,
        shots=shots,
        neutral=neutral,
        sequential=sequential,
        n_tokens=n_tokens,
    )
    settings.demonstrations()  # refused before a model is loaded
    settings.neutral_text()
    rows = load_benchmark(cases, split, format)
    model = on.load()
    layers = selection_for(model, placement, *settings.methods)
    with bar("editing", "") as report:
        result = compare_methods(
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
    print_table(
        _by_metric(found["methods"]),
        f"{found['n_filtered']} of {found['n_cases']} cases ({found['n_asked']} asked), "
        f"{found['model']}",
    )
    for reason, n in found["excluded"].items():
        stdout.print(f"[dim]{n} left out: {escape(reason)}[/dim]", highlight=False)
    if into.out:
        stdout.print(f"run folder: {into.out}", highlight=False, soft_wrap=True, markup=False)


def _by_metric(methods: dict[str, dict[str, Any]]) -> "pd.DataFrame":
    """A line per figure and a column per method, which fits a terminal; without the intervals."""
    import pandas as pd

    first = next(iter(methods.values()))
    figures = [name for name, value in first.items() if not isinstance(value, list)]
    columns = {
        method: ["–" if line.get(name) is None else f"{line[name]:.3g}" for name in figures]
        for method, line in methods.items()
    }
    return pd.DataFrame({"figure": figures} | columns)
