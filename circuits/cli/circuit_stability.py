"""`interp circuit stability`: how much of a circuit would be chosen again from other prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.cli.grouped import Record
from circuits.cli.options import InChat, Into, OnModel, PairRows
from circuits.cli.output import print_run, print_table, stdout
from circuits.discovery.stability_settings import StabilitySettings
from interp.errors import PlanError

if TYPE_CHECKING:
    from circuits.discovery import Stability


def stability(
    on: OnModel,
    of_rows: PairRows,
    into: Into,
    chosen: Annotated[dict[str, Any], StabilitySettings],
    in_chat: InChat,
    test_limit: Annotated[
        int | None,
        typer.Option(
            min=0, help="Run circuits on the first N rows of the test half; 0: run none of them."
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the scores of each method, which another run on the same prompts "
            "reads back; by default they lie in --out."
        ),
    ] = None,
) -> Record:
    """Resample prompts, groups of them and methods: which edges are chosen again.

    With --split-by, circuits are found on the discovery half of the entities, and the consensus
    circuit, those of single samples and of groups are run on the test half.
    """
    from circuits import discovery

    if of_rows.split_by:
        chosen.setdefault("entities", of_rows.split_by.split(",")[0].strip())
    settings = StabilitySettings(**chosen)
    settings.check()
    tested = bool(of_rows.split_by) and test_limit != 0
    unused = [name for name in ("samples", "sample_size", "ablation") if name in chosen]
    if not tested and (test_limit or unused):
        name = "test-limit" if test_limit else unused[0].replace("_", "-")
        raise PlanError(f"--{name} needs --split-by and test rows: circuits run on other entities.")
    rows, test = of_rows.load("discovery", in_chat), None
    if tested:
        half = PairRows(of_rows.pairs, test_limit, of_rows.split_by, of_rows.split_seed)
        test = half.load("test", in_chat)
    out: dict[str, Any] = {"out": into.out, "scores": scores, "force": into.force}
    found = discovery.stability(on.load(), rows, settings, test=test, **out)
    yield lambda: {"run": into.run, **found.summary()}
    _print(found)
    print_run(into.out, found.excluded)


def _print(found: "Stability") -> None:
    s, (value, low, high) = found.settings, found.stable
    stdout.print(
        f"{value:.0f} [{low:.0f}, {high:.0f}] of the top {s.edges} of {found.graph.n_edges} edges "
        f"have inclusion {s.threshold:g} or more ({s.resamples} resamples of {len(found.pairs)} "
        f"pairs, {s.methods[0]})"
    )
    halves = found.replicated
    stdout.print(
        f"of them the other half finds {halves['replicated']:.3f} again, of the other top edges "
        f"{halves['rest']:.3f} ({halves['halves']} random halves)"
    )
    print_table(found.agreement(), f"disjoint samples; edges by chance {found.chance:.3f}")
    print_table(found.tests, "groups of prompts, beside chance")
    methods: Any = found.between[found.between["kind"] == "methods"].drop(columns="kind")
    if len(methods):
        print_table(methods, "methods: top edges (Jaccard) and rank correlation")
    held = found.held_out
    if held is not None:
        title = f"circuits of as many edges on {len(held.pairs)} test pairs"
        print_table(held.circuits().fillna(""), title)
        print_table(held.areas(), "rankings of edges on test pairs")
        if len(held.groups) > 1:
            print_table(held.own_and_other(), f"groups' top {s.edges} edges on test pairs")
