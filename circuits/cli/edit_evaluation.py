"""`interp edit evaluate`: edit methods judged on cases."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.options import (
    N_TOKENS,
    CasesOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    LimitOption,
    ModelOption,
    OutOption,
    PlacementOption,
    SplitOption,
    TokensOption,
    choice,
    names_in,
    numbers,
)
from circuits.cli.output import load, neutral_text, print_json, print_table, stdout
from circuits.editing.methods import BASELINES, INFORMED, METHODS
from interp.progress import bar

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = (
    "Examples:\n\n"
    "`interp edit evaluate --model gemma-3-270m --cases multihop_chains --split "
    "design --methods rome,ace,none --limit 12 --out runs/edits-compared --json`\n\n"
    "`interp edit evaluate --model gemma-3-270m --cases MQuAKE-CF-3k-v2.json --methods "
    "rome+,memit+,ace --limit 100 --seeds 0,1,2 --out runs/mquake`"
)


def evaluate(
    model: ModelOption,
    cases: CasesOption,
    methods: Annotated[
        str,
        choice(
            (*METHODS, *INFORMED, *BASELINES),
            "Editing methods; + after a name gives it the two-hop prompts and preserved questions "
            "that ace gets. Baselines: none (unedited), told (the edit in the prompt), ike (in the "
            "prompt, with demonstrations).",
            many=True,
        ),
    ] = "ace,pmet,memit,rome,alphaedit,ifmet,ft,none",
    split: SplitOption = None,
    placement: PlacementOption = None,
    shots: Annotated[
        str,
        typer.Option(
            help="Demonstrations before every question: direct, reasoned (chain of thought), or a "
            "file with MQuAKE's prompts."
        ),
    ] = "direct",
    neutral: Annotated[
        str | None,
        typer.Option(help="Text for divergence and perplexity: neutral_text, or a text file."),
    ] = None,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential", help="Make the edits one on top of the other; ask after the last one."
        ),
    ] = False,
    seeds: Annotated[
        str, typer.Option(help="Random seeds for contexts and controls, such as 0,1,2.")
    ] = "0",
    limit: LimitOption = None,
    n_tokens: TokensOption = N_TOKENS,
    out: OutOption = None,
    force: ForceOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Edit each case by each method, and ask what became of the model."""
    from circuits.editing.comparing import compare_into
    from circuits.editing.evaluation import load_cases, shots_named
    from circuits.editing.layer_selection import selection_for

    names = names_in(methods)
    draws, demonstrations = numbers("--seeds", seeds) or [], shots_named(shots)
    rows = load_cases(cases, split)
    text = neutral_text(neutral)
    loaded = load(model, device, dtype)
    at = selection_for(loaded, placement, *names)
    with bar("editing", "") as report:
        result = compare_into(
            out,
            loaded,
            rows,
            names,
            at,
            seeds=draws,
            limit=limit,
            shots=demonstrations,
            neutral=text,
            sequential=sequential,
            n_tokens=n_tokens,
            force=force,
            progress=lambda what, done, total: report(done, total, what),
        )
    found = result.summary()
    if as_json:
        print_json({"run": str(out) if out else None, **found})
        return
    print_table(
        _by_metric(found["methods"]),
        f"{found['n_filtered']} of {found['n_cases']} cases ({found['n_asked']} asked), "
        f"{found['model']}",
    )
    for reason, n in found["excluded"].items():
        stdout.print(f"[dim]{n} left out: {escape(reason)}[/dim]", highlight=False)
    if out:
        stdout.print(f"run folder: {out}", highlight=False, soft_wrap=True, markup=False)


def _by_metric(methods: dict[str, dict[str, Any]]) -> "pd.DataFrame":
    """A line a figure and a column a method, which fits a terminal; without the intervals."""
    import pandas as pd

    first = next(iter(methods.values()))
    figures = [name for name, value in first.items() if not isinstance(value, list)]
    columns = {
        method: ["–" if line[name] is None else f"{line[name]:.3g}" for name in figures]
        for method, line in methods.items()
    }
    return pd.DataFrame({"figure": figures} | columns)
