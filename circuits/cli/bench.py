"""`interp bench`: ours beside the baselines, in one process."""

from typing import Annotated

import typer
from rich.table import Table

from circuits.cli.grouped import Record, command
from circuits.cli.options import OnModel, PairsOption, choice, names_in
from circuits.cli.output import stdout

app = typer.Typer(help="Time interp's sweeps beside other libraries' in one process.")
BASELINES = ("hooks", "transformer-lens", "nnsight")


@command(
    app,
    "interp bench sweep --model smollm2-135m --pairs country_capitals "
    "--baselines hooks,transformer-lens,nnsight",
)
def sweep(
    on: OnModel,
    pairs: PairsOption,
    baselines: Annotated[
        str, choice(BASELINES, "What to compare with.", many=True)
    ] = "hooks,transformer-lens,nnsight",
    over: Annotated[
        str, choice(("layer,pos", "layer,head"), "Axes: of resid_pre, or of the heads' z.")
    ] = "layer,pos",
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of timed rounds; medians are shown.")
    ] = 3,
) -> Record:
    """Run the first usable pair's denoising sweep with interp and each baseline, interleaved."""
    import interp
    from interp.bench.baselines import bench_sweep

    rows, names = interp.load_pairs(pairs), names_in(baselines)
    report = bench_sweep(on.load(), rows, names, over, repeats)
    yield lambda: report
    title = f"{report['cells']} cells, {report['n_tokens']} tokens, {report['device']}"
    table = Table("who", "seconds", "interp is faster by", "max |difference|", title=title)
    table.add_row("interp", f"{report['seconds']:.3f}", "", "")
    bound = f"plain forward of the same tokens (interp takes {report['over_bound']:.2f}x that)"
    table.add_row(bound, f"{report['bound_seconds']:.3f}", "", "")
    for name, baseline in report["baselines"].items():
        seconds, faster = f"{baseline['seconds']:.2f}", f"{baseline['speedup']:.1f}x"
        table.add_row(name, seconds, faster, f"{baseline['max_abs_error']:.1e}")
    stdout.print(table)
