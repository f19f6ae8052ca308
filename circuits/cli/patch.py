"""`interp patch`: one sweep from the command line, into a run folder."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.grouped import Record, command
from circuits.cli.options import (
    METRICS,
    AnswersOption,
    InChat,
    Into,
    LayersOption,
    LimitOption,
    OnModel,
    PairsOption,
    SeedOption,
    SiteOption,
    choice,
    metric_choice,
    numbers,
)
from circuits.cli.output import print_run, print_table, stdout
from interp.model.sites import AXES, parse_site
from interp.progress import bar

app = typer.Typer()


@command(
    app,
    "interp patch --model smollm2-135m --pairs country_capitals --site resid_pre --over layer,pos "
    "--limit 16 --out runs/first",
    "interp patch --model gemma-3-270m --pairs ioi --site z --over layer,head --direction noise "
    "--out runs/heads --json",
)
def patch(
    on: OnModel,
    into: Into,
    in_chat: InChat,
    pairs: PairsOption,
    site: SiteOption = "resid_pre",
    over: Annotated[
        str,
        choice(
            AXES, "Axes of the sweep: pos or span; head, neuron or expert.", many=True, noun="axis"
        ),
    ] = "layer,pos",
    metric: Annotated[
        str, metric_choice(METRICS, "What is measured of the answers, or at the last token.")
    ] = "logit_diff",
    answers: AnswersOption = "whole",
    direction: Annotated[
        str,
        choice(
            ("denoise", "noise"),
            "denoise patches clean activations into the corrupt prompt; noise the reverse.",
        ),
    ] = "denoise",
    at: Annotated[
        str,
        typer.Option(help="Positions, where they are not an axis: all, last, or a span's name."),
    ] = "all",
    layers: LayersOption = None,
    neurons: Annotated[
        int, typer.Option(min=1, help="Number of neurons per group on the neuron axis.")
    ] = 1,
    limit: LimitOption = None,
    seed: SeedOption = 0,
) -> Record:
    """Patch a site at every cell of a sweep and show where the effect is."""
    import interp
    from interp.patching.sweep import check_axes

    rows = in_chat.rows(interp.load_pairs(pairs)[:limit])
    options: dict[str, Any] = {"site": site, "over": over, "metric": metric, "at": at}
    options |= {"direction": direction, "layers": numbers("--layers", layers), "neurons": neurons}
    options |= {"answers": answers}
    check_axes(parse_site(site)[0], over.split(","), at)
    model = on.load()
    options |= {"out": into.out, "seed": seed, "force": into.force}
    with bar(f"patching {site}", "pairs") as report:
        result = interp.patch(model, rows, **options, progress=report)
    yield lambda: {"run": into.run, **result.summary(seed), "seed": seed}
    stdout.print(
        f"[bold]{result.site}[/bold] on {escape(result.model)}: {result.n_pairs} pairs of "
        f"{escape(result.source)} ({len(result.excluded)} excluded), {result.direction}, "
        f"{result.seconds:.2f} s\n{result.metric}: {float(result.clean.mean()):.3f} clean, "
        f"{float(result.corrupt.mean()):.3f} corrupt"
    )
    top = result.top(10, seed)
    print_table(top, "strongest cells (effect on the metric, 95 % interval)")
    if top.attrs["near_ties"]:
        stdout.print(top.attrs["near_ties"])
    if result.by_token:
        _print_carriers(result, seed)
    print_run(into.out, result.excluded)


def _print_carriers(result: Any, seed: int) -> None:
    """Where the answer is, token by token."""
    for row in result.carriers(seed=seed).itertuples():
        stdout.print(
            f"[bold]token {row.pos} {escape(row.token.strip())}[/bold] carries the answer in "
            f"layers {row.first} to {row.last}: {row.mean:.0%} of the gap at layer {row.peak} "
            f"(95 % interval {row.low:.0%} to {row.high:.0%})"
        )
