"""`interp attribute`: score edges, nodes or units from the command line, into a run folder."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.grouped import command
from circuits.cli.options import (
    ATTRIBUTION,
    AnswersOption,
    InChat,
    Into,
    JsonOption,
    MetricOption,
    OnModel,
    PairRows,
    SeedOption,
    choice,
)
from circuits.cli.output import print_json, print_run, print_table, stdout
from interp.model.sites import AXES, SITES
from interp.progress import bar

app = typer.Typer()
UNIT_AXES = tuple(axis for axis in AXES if axis != "span")
METHODS = (*ATTRIBUTION, "eap-ig-activations", "eap-qk", "grad-drop")


@command(
    app,
    "interp attribute --model smollm2-135m --pairs ioi --limit 32 --split-by io,s1 "
    "--out runs/ioi-edges",
    "interp attribute --model smollm2-135m --pairs country_capitals --of mlp_post "
    "--over layer,neuron --method eap-ig --limit 16 --out runs/neurons --json",
)
def attribute(
    on: OnModel,
    of_rows: PairRows,
    into: Into,
    in_chat: InChat,
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
    answers: AnswersOption = "whole",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of interpolation points of eap-ig and eap-gl.")
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Score what the metric owes to edges, nodes or units, by about one backward pass per pair."""
    from interp.attribution.attribute import attribute_to, refuse_mismatch

    refuse_mismatch(of, over, method)
    rows, model = of_rows.load("discovery", in_chat), on.load()
    options: dict[str, Any] = {"of": of, "over": over, "method": method, "metric": metric}
    with bar(f"{method} of {of}", "pairs") as report:
        options |= {"steps": steps, "answers": answers, "seed": seed, "progress": report}
        scores = attribute_to(model, rows, **options, out=into.out, force=into.force)
    if as_json:
        print_json({"run": into.run, **scores.summary(seed), "seed": seed})
        return
    stdout.print(escape(repr(scores)))
    print_table(scores.top(10, seed), "strongest (positive = supports the answer; 95 % interval)")
    print_run(into.out, scores.excluded)
