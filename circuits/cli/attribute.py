"""`interp attribute`: score edges, nodes or units from the command line, into a run folder."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.options import (
    ATTRIBUTION,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    LimitOption,
    MetricOption,
    ModelOption,
    OutOption,
    PairsOption,
    SeedOption,
    SplitByOption,
    SplitSeedOption,
    choice,
)
from circuits.cli.output import load, load_rows, print_json, print_table, stdout
from interp.model.sites import AXES, SITES
from interp.progress import bar

EXAMPLES = (
    "Examples:\n\n"
    "`interp attribute --model smollm2-135m --pairs ioi --limit 32 "
    "--split-by io,s1 --out runs/ioi-edges`\n\n"
    "`interp attribute --model smollm2-135m --pairs country_capitals --of mlp_post "
    "--over layer,neuron --method eap-ig --limit 16 --out runs/neurons --json`"
)

UNIT_AXES = tuple(axis for axis in AXES if axis != "span")
METHODS = (*ATTRIBUTION, "eap-ig-activations", "eap-qk", "grad-drop")


def attribute(
    model: ModelOption,
    pairs: PairsOption,
    method: Annotated[
        str,
        choice(
            METHODS,
            "How scores are estimated. exact: edges and nodes only; eap-ig-activations: edges; "
            "eap-qk: edges and the sites q and k; grad-drop: a site.",
        ),
    ] = "eap-dg",
    of: Annotated[
        str,
        choice(
            ("edges", "nodes", *SITES),
            "What is scored: edges, nodes, or units of a site.",
            noun="site",
        ),
    ] = "edges",
    over: Annotated[
        str | None,
        choice(UNIT_AXES, "Axes of a site; by default layer,pos.", many=True, noun="axis"),
    ] = None,
    metric: MetricOption = "logit_diff",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of interpolation points of eap-ig and eap-gl.")
    ] = None,
    limit: LimitOption = None,
    split_by: SplitByOption = None,
    split_seed: SplitSeedOption = 0,
    out: OutOption = None,
    force: ForceOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score what the metric owes to edges, nodes or units, by about one backward pass per pair."""
    from interp.attribution.resuming import attribute_into, attribute_to, refuse_mismatch

    refuse_mismatch(of, over, method)
    rows = load_rows(pairs, limit, split_by, split_seed, "discovery")
    loaded = load(model, device, dtype)
    options: dict[str, Any] = {
        "of": of,
        "over": over,
        "method": method,
        "metric": metric,
        "steps": steps,
    }
    with bar(f"{method} of {of}", "pairs") as report:
        if out is None:
            scores = attribute_to(loaded, rows, **options, progress=report)
        else:
            scores = attribute_into(
                out, loaded, rows, **options, seed=seed, force=force, progress=report
            )
    if as_json:
        print_json({"run": str(out) if out else None, **scores.summary(seed), "seed": seed})
        return
    stdout.print(escape(repr(scores)), highlight=False)
    print_table(scores.top(10, seed), "strongest (positive = supports the answer; 95 % interval)")
    for row in scores.excluded[:5]:
        stdout.print(f"[dim]excluded {escape(row.id)}: {escape(row.reason)}[/dim]", highlight=False)
    if out:
        stdout.print(f"run folder: {out}   (interp show {out})", soft_wrap=True, markup=False)
