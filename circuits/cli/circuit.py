"""`interp circuit`: discover circuits, compare, show and export them."""

from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from circuits.cli import circuit_evaluation, marks
from circuits.cli.options import (
    ATTRIBUTION,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    LimitOption,
    MetricOption,
    SplitByOption,
    SplitSeedOption,
    choice,
)
from circuits.cli.output import load, load_rows, print_json, print_table, stdout

if TYPE_CHECKING:
    from circuits.discovery.circuit import Circuit

app = typer.Typer(help="Discover circuits, evaluate, compare, show and export them.")
app.command("validate", epilog=marks.EXAMPLE)(marks.validate)
app.command("evaluate", epilog=circuit_evaluation.EXAMPLES)(circuit_evaluation.evaluate)
METHODS = (*ATTRIBUTION, "eap-ig-activations", "eap-qk")
SELECTS = ("top", "greedy", "threshold", "nodes", "neurons", "acdc", "edge-pruning")
FORMATS = ("mib", "dot", "html")
CircuitArgument = Annotated[
    Path, typer.Argument(help="A circuit: a JSON file, or a folder of `discover`.")
]


@app.callback()
def circuit() -> None:
    """Circuits as files in MIB's JSON form."""


@app.command(
    epilog="Examples:\n\n"
    "`interp circuit discover --model smollm2-135m --pairs ioi --limit 32 "
    "--split-by io,s1 --size 0.02 --out runs/ioi-circuit`\n\n"
    "`interp circuit discover --scores runs/ioi-edges --select greedy --size 500 "
    "--out circuit.json`"
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
    from circuits.discovery.circuit import NAME
    from circuits.discovery.search import discover as discovered
    from circuits.discovery.search import into_folder
    from circuits.discovery.search import select as selected
    from circuits.discovery.settings import DiscoverySettings
    from interp.attribution.scores import Scores
    from interp.errors import PlanError
    from interp.results.folder import read_manifest
    from interp.results.run_folder import fingerprint, identity, names_of

    settings = DiscoverySettings(
        select=select,
        method=method,
        size=size,
        threshold=threshold,
        signed=signed,
        metric=metric,
        seed=seed,
    )
    if scores is None and (model is None or pairs is None):
        raise PlanError("nothing to discover from: give --model and --pairs, or --scores.")
    if scores is not None and (model or pairs or select not in SELECTS[:-2]):
        raise PlanError(
            "--scores replaces --model and --pairs; acdc and edge-pruning need the latter."
        )
    settings.check()
    if out.is_dir() == (out.suffix == ".json") and out.exists():
        what = "a folder" if out.is_dir() else "a file"
        raise PlanError(f"--out {out} is {what}; name FILE.json, or a folder.")
    if scores is not None:
        given = scores
        named = {"scores": fingerprint(read_manifest(scores)["files"])}

        def find(keep: Path | None) -> "Circuit":
            return selected(Scores.load(given), settings, str(given))

    else:
        rows = load_rows(pairs or "", limit, split_by, split_seed, "discovery")
        loaded = load(model or "", device, dtype)
        named = names_of(rows) | identity(loaded)

        def find(keep: Path | None) -> "Circuit":
            return discovered(loaded, rows, settings, keep)

    if out.suffix == ".json":
        found = find(None)
        file = found.save(out)
    else:
        found = into_folder(out, settings, named, find, force)
        file = out / NAME
    report = {"file": str(file), "select": select, **found.summary()}
    if as_json:
        print_json(report)
    else:
        _print_summary(found)
        stdout.print(f"circuit: {file}   (interp circuit show {file})", soft_wrap=True)


def _print_summary(found: "Circuit") -> None:
    import pandas as pd

    stdout.print(escape(repr(found)), highlight=False)
    strongest = found.strongest()
    if strongest:
        print_table(pd.DataFrame(strongest, columns=["edge", "score"]), "strongest edges")


# --- compare, show, export ---------------------------------------------------------------------


COMPARED = {
    "expected": "edges by chance",
    "shared_edges": "shared edges",
    "rank_correlation": "rank correlation",
}


@app.command(epilog="Example: `interp circuit compare capitals.json ioi.json`")
def compare(
    circuits: Annotated[list[Path], typer.Argument(help="Two circuits or more.")],
    as_json: JsonOption = False,
) -> None:
    """Show how much circuits of one model share, beside what chance would give."""
    import pandas as pd

    from circuits.discovery.compare import overlap
    from interp.errors import PlanError

    names = list(dict.fromkeys(map(str, circuits)))
    if len(names) < 2:
        raise PlanError(f"only {names[0]} was given; name two circuits or more to compare.")
    loaded = {name: _needed(Path(name))[1] for name in names}
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
        stdout.print(
            f"{short[name]}: {escape(name)}, {found.n_edges} edges", highlight=False, soft_wrap=True
        )
    table = pd.DataFrame(rows).drop(columns=["only_first", "only_second"])
    table = table.replace({"first": short, "second": short})
    print_table(table.rename(columns=COMPARED), "overlap (edges and nodes: Jaccard)")


@app.command(epilog="Example: `interp circuit show circuit.json`  (writes circuit.html)")
def show(
    circuit: CircuitArgument,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the drawing; by default CIRCUIT.html.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Summarise a circuit and draw it."""
    file, found = _needed(circuit)
    target = out or file.with_suffix(".html")
    found.report().write(target)
    if as_json:
        print_json({"file": str(file), "page": str(target), **found.summary()})
    else:
        _print_summary(found)
        stdout.print(f"wrote {target}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: `interp circuit export circuit.json --format dot --out circuit.dot`")
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
    import json

    from interp.errors import PlanError
    from interp.results.folder import write_text

    writers = {
        "mib": lambda found, path: write_text(path, json.dumps(found.to_json())),
        "dot": lambda found, path: write_text(path, found.to_dot()),
        "html": lambda found, path: found.report().write(path, standalone=True),
    }
    _, found = _needed(circuit)
    if out.is_dir():
        raise PlanError(f"--out {out} is a folder; name the file to write.")
    writers[form](found, out)
    if as_json:
        print_json({"file": str(out), "format": form, "n_edges": found.n_edges})
    else:
        stdout.print(f"wrote {out}", highlight=False, soft_wrap=True)


def _needed(path: Path) -> tuple[Path, "Circuit"]:
    from circuits.discovery.circuit import NAME, Circuit

    return path / NAME if path.is_dir() else path, Circuit.load(path)
