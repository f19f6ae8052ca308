"""`interp edit evaluate`, `card` and `place`: methods and single edits tested, layers chosen."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.edit_cases import EditedCases, print_left_out
from circuits.cli.grouped import Record
from circuits.cli.options import (
    CasesOption,
    InChat,
    Into,
    IntoFolder,
    OnModel,
    SplitOption,
    choice,
    names_in,
    numbers,
)
from circuits.cli.output import print_run, print_table, stdout
from circuits.editing.evaluation.benchmark_metrics import BENCHMARK_METRICS
from circuits.editing.evaluation.comparison_settings import N_QUESTIONS, ComparisonSettings, Filter
from circuits.editing.methods import BASELINES, INFORMED, METHODS, NAMES
from interp.progress import bar

if TYPE_CHECKING:
    import pandas as pd

says = ComparisonSettings.says
FORMATS = tuple(BENCHMARK_METRICS)
N_ROWS = 3
"""Unusable rows that a terminal shows."""
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
    edited: EditedCases,
    into: Into,
    in_chat: InChat,
    methods: Annotated[
        str, choice((*METHODS, *INFORMED, *BASELINES), says("methods"), many=True)
    ] = ",".join(ComparisonSettings.model_validate({}).methods),
    format: Annotated[
        str | None,
        choice(FORMATS, "Format of the cases; by default recognised from the fields of a row."),
    ] = None,
    filter: Annotated[Filter, typer.Option(help=says("filter"))] = "composed",
    implicit: Annotated[str, choice(NAMES, says("implicit"))] = "given",
    shots: Annotated[str, typer.Option(help=says("shots"))] = "direct",
    sequential: Annotated[bool, typer.Option("--sequential", help=says("sequential"))] = False,
    fact_questions: Annotated[
        bool, typer.Option("--fact-questions/--no-fact-questions", help=says("fact_questions"))
    ] = True,
    seeds: Annotated[str, typer.Option(help=says("seeds"))] = "0",
    limit: Annotated[int | None, typer.Option(min=1, help=says("limit"))] = None,
) -> Record:
    """Edit each case by each method, and ask what became of the model."""
    from circuits.editing.evaluation import compare_methods
    from interp.data.records import checked

    settings = checked(
        ComparisonSettings,
        {
            "methods": names_in(methods),
            "seeds": numbers("--seeds", seeds),
            "limit": limit,
            "filter": filter,
            "implicit": implicit,
            "shots": shots,
            "neutral": edited.neutral,
            "sequential": sequential,
            "fact_questions": fact_questions,
            "n_tokens": edited.n_tokens,
        },
        "options",
    ).model_copy(update={"chat": in_chat.options()})
    result = edited.evaluated(on, settings, compare_methods, into, format)
    found = result.summary()
    yield lambda: {"run": into.run, **found}
    print_table(
        _by_metric(found["methods"], found["metrics"]),
        f"{found['n_filtered']} of {found['n_cases']} cases ({found['n_asked']} asked), "
        f"{found['model']}",
    )
    print_left_out(found["excluded"])
    for row in found["unusable"][:N_ROWS]:
        said = escape(f"{row['where']}: {row['reason']}")
        stdout.print(f"[dim]{said}[/dim]", soft_wrap=True)
    for outcome, n in found["implicit"].items():
        stdout.print(f"[dim]implicit names, {n}: {escape(outcome)}[/dim]")
    print_run(into.out)


CARD = "interp edit card runs/edits --model gemma-3-270m --out runs/card"


def card(
    edit: Annotated[Path, typer.Argument(help="Folder of the edit, or of the ledger it is in.")],
    on: OnModel,
    into: Into,
    id: Annotated[
        str | None,
        typer.Option("--edit", help="Id of the edit in the ledger; by default the last."),
    ] = None,
    old: Annotated[
        list[str] | None,
        typer.Option(
            help="The object of a fact before the edit, once for each; by default what the "
            "unedited model answers."
        ),
    ] = None,
    n: Annotated[
        int, typer.Option(min=1, help="Questions of each kind that are drawn from data, at most.")
    ] = N_QUESTIONS,
    seed: Annotated[int, typer.Option(help="Random seed for the questions drawn.")] = 0,
) -> Record:
    """Test one edit: is it written, is it used, does it contradict itself, what does it break?"""
    from circuits.editing.evaluation.card_measurement import card as measured
    from circuits.editing.evaluation.edit_card import EditCard
    from circuits.editing.ledger_folder import LedgerFolder
    from interp.results.run_folder import identity, in_one_piece

    one, before = LedgerFolder.of(edit).up_to(edit, id)
    model = on.load()
    for other in before:
        other.apply(model)
    named = {"edit": one.id, "old": list(old or ()), "n": n, "seed": seed} | identity(model)
    made = partial(measured, model, one, old=old or (), n=n, seed=seed)
    found = in_one_piece(into.out, "edit card", named, made, EditCard, into.force)
    yield lambda: {"run": into.run, **found.summary()}
    table: Any = found.table()
    lines = table[table["n"] > 0]
    kept = ["title", "n", "unedited", "edited", "prompt-only", "verdict"]
    print_table(lines[kept].rename(columns={"title": "metric"}), "; ".join(found.facts))
    stdout.print(escape(found.verdict()), soft_wrap=True)
    print_left_out(found.missing)
    print_run(into.out)


def place(
    on: OnModel,
    cases: CasesOption,
    into: IntoFolder,
    split: SplitOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Learn from the first N usable facts.")] = 120,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=1,
            help="Match score above which value neurons are active; by default as chosen.",
        ),
    ] = None,
    direct_threshold: Annotated[
        float | None,
        typer.Option(min=0.1, max=1, help="The same for facts without implicit names."),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Mean loss (nats) at which the search for query neurons ends; by default 0.3.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for the questions drawn.")] = 0,
) -> Record:
    """Choose the query and value layers in which the ace methods edit a model, from cases."""
    from circuits.editing import layer_search
    from circuits.editing.evaluation.formats import load_cases
    from circuits.editing.layer_selection import LayerSelection
    from interp.results.run_folder import fingerprint, identity, in_one_piece

    rows = load_cases(cases, split)
    model = on.load()
    given = {"threshold": threshold, "direct_threshold": direct_threshold, "until": until}
    named = given | {"limit": limit, "seed": seed} | identity(model)
    named |= {"cases": len(rows), "rows": fingerprint(list(rows))}

    def chosen() -> LayerSelection:
        with bar("asking", "questions") as report:
            found = layer_search.select_layers(model, rows, limit, seed=seed, progress=report)
        return replace(found, **{k: value for k, value in given.items() if value is not None})

    out = into.out
    found = in_one_piece(out, "edit place", named, chosen, LayerSelection, into.force)
    yield lambda: {"model": on.model, "placement": found.summary(), "run": str(out)}
    stdout.print(f"query layers {found.query}, value layers {found.value}: {out}", markup=False)


def _by_metric(
    methods: dict[str, dict[str, Any]], metrics: dict[str, dict[str, str]]
) -> "pd.DataFrame":
    """A line per figure with its protocol and a column per method; without the intervals."""
    import pandas as pd

    every = [item for line in methods.values() for item in line.items()]
    figures = list(dict.fromkeys(name for name, value in every if not isinstance(value, list)))
    columns = {
        method: ["–" if line.get(name) is None else f"{line[name]:.3g}" for name in figures]
        for method, line in methods.items()
    }
    protocols = [metrics.get(name, {}).get("protocol", "") for name in figures]
    return pd.DataFrame({"figure": figures} | columns | {"protocol": protocols})
