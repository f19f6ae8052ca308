"""`interp circuit`: discover circuits, compare, show, export them, and validate methods."""

import json
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.circuit_evaluation import EXAMPLES, evaluate
from circuits.cli.grouped import command
from circuits.cli.options import (
    ATTRIBUTION,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    LimitOption,
    MetricOption,
    PairRows,
    SplitByOption,
    SplitSeedOption,
    choice,
    names_in,
)
from circuits.cli.output import load, print_json, print_table, stdout
from circuits.discovery.discovery_settings import SCORED, SELECTS, DiscoverySettings
from interp.errors import PlanError

if TYPE_CHECKING:
    from circuits.discovery.circuit import Circuit

app = typer.Typer(help="Discover circuits, evaluate, compare, show and export them.")
command(app, *EXAMPLES)(evaluate)
METHODS = (*ATTRIBUTION, "eap-ig-activations", "eap-qk")
FORMATS = ("mib", "dot", "html")
CircuitArgument = Annotated[
    Path, typer.Argument(help="A circuit: a JSON file, or a folder of `discover`.")
]


@app.callback()
def circuit() -> None:
    """Circuits as files in MIB's JSON form."""


@command(
    app,
    "interp circuit discover --model smollm2-135m --pairs ioi --limit 32 --split-by io,s1 "
    "--size 0.02 --out runs/ioi-circuit",
    "interp circuit discover --scores runs/ioi-edges --select greedy --size 500 --out circuit.json",
)
def discover(
    out: Annotated[
        Path, typer.Option(help="FILE.json for the circuit, or a folder for circuit and scores.")
    ],
    force: ForceOption = False,
    model: Annotated[
        str | None, typer.Option(help="Built-in name, Hub id, local folder or .gguf file.")
    ] = None,
    pairs: Annotated[
        str | None, typer.Option(help="Prompt pairs to discover on, as in `interp patch`.")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Run folder of `interp attribute`, instead of --model and --pairs."),
    ] = None,
    method: Annotated[
        str, choice(METHODS, "How scores are estimated, as in `interp attribute`.")
    ] = "eap-dg",
    select: Annotated[
        str,
        choice(SELECTS, "How edges are chosen: from scores, or by search (acdc, edge-pruning)."),
    ] = "top",
    size: Annotated[
        str | None,
        typer.Option(help="Components to take: a number, or a fraction of all, such as 0.02."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Lowest score kept (threshold), or ACDC's threshold, in metric units."),
    ] = None,
    signed: Annotated[
        bool, typer.Option("--signed", help="Rank by signed score, not by its absolute value.")
    ] = False,
    metric: MetricOption = "logit_diff",
    limit: LimitOption = None,
    split_by: SplitByOption = None,
    split_seed: SplitSeedOption = 0,
    seed: Annotated[int, typer.Option(help="Random seed for the masks of edge pruning.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose a circuit: by scores, or by search. Writes it as JSON."""
    from circuits.discovery import search
    from circuits.discovery.circuit import NAME
    from interp.attribution.scores import Scores
    from interp.results.folder import read_manifest
    from interp.results.run_folder import fingerprint, identity, names_of

    if scores is None and (model is None or pairs is None):
        raise PlanError("nothing to discover from: give --model and --pairs, or --scores.")
    if scores is not None and (model or pairs or select not in SCORED):
        raise PlanError(
            "--scores replaces --model and --pairs; acdc and edge-pruning need the latter."
        )
    settings = DiscoverySettings(
        select=select,
        method=method,
        size=size,
        threshold=threshold,
        signed=signed,
        metric=metric,
        seed=seed,
    )
    settings.check()
    if out.is_dir() == (out.suffix == ".json") and out.exists():
        what = "a folder" if out.is_dir() else "a file"
        raise PlanError(f"--out {out} is {what}; name FILE.json, or a folder.")
    if scores is not None:
        named = {"scores": fingerprint(read_manifest(scores)["files"])}

        def find(keep: Path | None) -> "Circuit":
            return search.select(Scores.load(scores), settings, str(scores))

    else:
        rows = PairRows(pairs or "", limit, split_by, split_seed).load("discovery")
        loaded = load(model or "", device, dtype)
        named = names_of(rows) | identity(loaded)

        def find(keep: Path | None) -> "Circuit":
            return search.discover(loaded, rows, settings, keep)

    if out.suffix == ".json":
        found, file = find(None), out
        found.save(file)
    else:
        found, file = search.into_folder(out, settings, named, find, force), out / NAME
    if as_json:
        print_json({"file": str(file), "select": select, **found.summary()})
    else:
        _print_summary(found)
        stdout.print(f"circuit: {file}   (interp circuit show {file})", soft_wrap=True)


def _print_summary(found: "Circuit") -> None:
    import pandas as pd

    stdout.print(escape(repr(found)), highlight=False)
    strongest = found.strongest()
    if strongest:
        print_table(pd.DataFrame(strongest, columns=["edge", "score"]), "strongest edges")


COMPARED = {
    "expected": "edges by chance",
    "shared_edges": "shared edges",
    "rank_correlation": "rank correlation",
}


@command(app, "interp circuit compare capitals.json ioi.json")
def compare(
    circuits: Annotated[list[Path], typer.Argument(help="Two circuits or more.")],
    as_json: JsonOption = False,
) -> None:
    """Show how much circuits of one model share, beside what chance would give."""
    import pandas as pd

    from circuits.discovery import Circuit, overlap

    names = list(dict.fromkeys(map(str, circuits)))
    if len(names) < 2:
        raise PlanError(f"only {names[0]} was given; name two circuits or more to compare.")
    loaded = {name: Circuit.load(name) for name in names}
    rows = [
        {"first": a, "second": b, **asdict(overlap(loaded[a], loaded[b]))}
        for a, b in combinations(loaded, 2)
    ]
    if as_json:
        listed = [{"file": name, **found.summary()} for name, found in loaded.items()]
        print_json({"circuits": listed, "overlaps": rows})
        return
    short = {name: f"{i}" for i, name in enumerate(loaded, 1)}
    for name, found in loaded.items():
        text = f"{short[name]}: {escape(name)}, {found.n_edges} edges"
        stdout.print(text, highlight=False, soft_wrap=True)
    table = pd.DataFrame(rows).drop(columns=["only_first", "only_second"])
    table = table.replace({"first": short, "second": short})
    print_table(table.rename(columns=COMPARED), "overlap (edges and nodes: Jaccard)")


@command(app, "interp circuit show circuit.json")
def show(
    circuit: CircuitArgument,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the drawing; by default CIRCUIT.html.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Summarise a circuit and draw it."""
    from circuits.discovery.circuit import NAME, Circuit

    found, file = Circuit.load(circuit), circuit / NAME if circuit.is_dir() else circuit
    page = found.report().write(out or file.with_suffix(".html"))
    if as_json:
        print_json({"file": str(file), "page": str(page), **found.summary()})
    else:
        _print_summary(found)
        stdout.print(f"wrote {page}", highlight=False, soft_wrap=True)


@command(app, "interp circuit export circuit.json --format dot --out circuit.dot")
def export(
    circuit: CircuitArgument,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    form: Annotated[
        str,
        choice(FORMATS, "MIB's JSON, Graphviz's dot, or a drawing in HTML.", "--format"),
    ] = "mib",
    as_json: JsonOption = False,
) -> None:
    """Write a circuit in another form."""
    from circuits.discovery.circuit import Circuit
    from interp.results.folder import write_text

    found = Circuit.load(circuit)
    if out.is_dir():
        raise PlanError(f"--out {out} is a folder; name the file to write.")
    if form == "html":
        found.report().write(out, standalone=True)
    else:
        write_text(out, found.to_dot() if form == "dot" else json.dumps(found.to_json()))
    if as_json:
        print_json({"file": str(out), "format": form, "n_edges": found.n_edges})
    else:
        stdout.print(f"wrote {out}", highlight=False, soft_wrap=True)


@command(app, "interp circuit validate tracr-hist --methods exact,eap,eap-dg")
def validate(
    program: Annotated[
        str, typer.Argument(help="tracr-hist, -sort, -reverse, -xproportion, or a .npz file.")
    ],
    methods: Annotated[
        str, choice(METHODS, "Attribution methods of edges.", many=True)
    ] = "exact,eap,eap-ig,eap-dg",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score attribution methods on a compiled program, whose true circuit is known."""
    import pandas as pd

    from circuits.discovery.ground_truth import validate_methods

    names = names_in(methods)
    if not names:
        raise PlanError("--methods names no method; give some, such as exact,eap,eap-dg.")
    found = [asdict(one) for one in validate_methods(program, names, device)]
    name, n_edges = Path(program).stem, int(2 * found[0]["half_edges"])
    if as_json:
        rows: dict[str, Any] = {one.pop("method"): one for one in found}
        print_json({"program": name, "n_edges": n_edges, "methods": rows})
    else:
        print_table(pd.DataFrame(found), f"{name}: {n_edges} edges")
