"""`interp bench`: ours beside the peers, in one process."""

from typing import Annotated

import typer
from rich.table import Table

from circuits.cli.grouped import command
from circuits.cli.options import JsonOption, OnModel, PairsOption, choice, names_in
from circuits.cli.output import print_json, stdout

app = typer.Typer(help="Time interp's sweeps beside other libraries' in one process.")
PEERS = ("hooks", "transformer-lens", "nnsight")


@app.callback()
def bench() -> None:
    """Side-by-side timings."""


@command(
    app,
    "interp bench sweep --model smollm2-135m --pairs country_capitals "
    "--peers hooks,transformer-lens,nnsight",
)
def sweep(
    on: OnModel,
    pairs: PairsOption,
    peers: Annotated[str, choice(PEERS, "What to compare with.", many=True)] = ",".join(PEERS),
    over: Annotated[
        str, choice(("layer,pos", "layer,head"), "Axes: of resid_pre, or of the heads' z.")
    ] = "layer,pos",
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of timed rounds; medians are shown.")
    ] = 3,
    as_json: JsonOption = False,
) -> None:
    """Run the first usable pair's denoising sweep with interp and each peer, interleaved."""
    import interp
    from interp.bench.benchmark import bench_sweep

    rows = interp.load_pairs(pairs)
    loaded = on.load()
    names = names_in(peers)
    report = bench_sweep(loaded, rows, names, over, repeats)
    if as_json:
        print_json(report)
        return
    title = f"{report['cells']} cells, {report['n_tokens']} tokens, {report['device']}"
    table = Table("who", "seconds", "interp is faster by", "max |difference|", title=title)
    table.add_row("interp", f"{report['seconds']:.3f}", "", "")
    table.add_row("matrix products alone", f"{report['bound_seconds']:.3f}", "", "")
    for name, peer in report["peers"].items():
        table.add_row(
            name,
            f"{peer['seconds']:.2f}",
            f"{peer['speedup']:.1f}x",
            f"{peer['max_abs_error']:.1e}",
        )
    stdout.print(table)
