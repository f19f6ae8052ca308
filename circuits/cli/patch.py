"""`interp patch`: one sweep from the command line, into a run folder."""

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from circuits.cli.options import (
    METRICS,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    LayersOption,
    LimitOption,
    ModelOption,
    OutOption,
    PairsOption,
    SeedOption,
    SiteOption,
    choice,
    numbers,
)
from circuits.cli.output import load, print_json, stdout
from interp.model.sites import AXES, parse_site
from interp.progress import bar

EXAMPLES = (
    "Examples:\n\n"
    "`interp patch --model smollm2-135m --pairs country_capitals "
    "--site resid_pre --over layer,pos --limit 16 --out runs/first`\n\n"
    "`interp patch --model gemma-3-270m --pairs ioi --site z --over layer,head "
    "--direction noise --out runs/heads --json`"
)


def patch(
    model: ModelOption,
    pairs: PairsOption,
    site: SiteOption = "resid_pre",
    over: Annotated[
        str,
        choice(AXES, "Axes of the sweep: pos or span, head or neuron.", many=True, noun="axis"),
    ] = "layer,pos",
    metric: Annotated[str, choice(METRICS, "What is measured at the last token.")] = "logit_diff",
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
    out: OutOption = None,
    force: ForceOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Patch a site at every cell of a sweep and show where the effect is."""
    import interp
    from interp.errors import InterpWarning
    from interp.patching.shards import patch_into
    from interp.patching.sweep import check_axes

    rows = interp.load_pairs(pairs)[:limit]
    chosen = numbers("--layers", layers)
    check_axes(parse_site(site)[0], over.split(","), at)
    loaded = load(model, device, dtype)
    options: dict[str, Any] = {
        "site": site,
        "over": over,
        "metric": metric,
        "direction": direction,
        "at": at,
        "layers": chosen,
        "neurons": neurons,
    }
    with bar(f"patching {site}", "pairs") as report:
        if out is None:
            with warnings.catch_warnings():  # said below, with the result
                warnings.simplefilter("ignore", InterpWarning)
                result = interp.patch(loaded, rows, **options, progress=report)
        else:
            result = patch_into(
                out, loaded, rows, **options, seed=seed, force=force, progress=report
            )
    if as_json:
        print_json({"run": str(out) if out else None, **result.summary(seed), "seed": seed})
    else:
        _print(result, out, seed)


def _print(result: Any, out: Path | None, seed: int) -> None:
    stdout.print(
        f"[bold]{result.site}[/bold] on {escape(result.model)}: "
        f"{result.n_pairs} pairs of {escape(result.source)} "
        f"({len(result.excluded)} excluded), {result.direction}, {result.seconds:.2f} s\n"
        f"{result.metric}: {float(result.clean.mean()):.3f} clean, "
        f"{float(result.corrupt.mean()):.3f} corrupt",
        highlight=False,
    )
    for text in result.warnings:
        stdout.print(f"[yellow]{escape(text)}[/yellow]", highlight=False)
    top = result.top(10, seed)
    table = Table(*top.columns, title="strongest cells (effect on the metric, 95 % interval)")
    for row in top.itertuples(index=False):
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else escape(str(v)) for v in row))
    stdout.print(table)
    if result.by_token:
        _print_carriers(result, seed)
    for row in result.excluded[:5]:
        stdout.print(f"[dim]excluded {escape(row.id)}: {escape(row.reason)}[/dim]", highlight=False)
    if out:
        stdout.print(
            f"run folder: {out}   (interp show {out})",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def _print_carriers(result: Any, seed: int) -> None:
    """Where the answer is, token by token."""
    for row in result.carriers(seed=seed).itertuples():
        stdout.print(
            f"[bold]token {row.pos} {escape(row.token.strip())}[/bold] carries the answer in "
            f"layers {row.first} to {row.last}: {row.mean:.0%} of the gap at layer {row.peak} "
            f"(95 % interval {row.low:.0%} to {row.high:.0%})",
            highlight=False,
        )
