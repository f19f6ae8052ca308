"""`interp circuit`: discover circuits, evaluate, compare, show and export them, mark methods."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli import marks
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
    SplitByOption,
    SplitSeedOption,
    choice,
)
from circuits.cli.output import load, load_rows, print_json, print_table, progress, stdout

if TYPE_CHECKING:
    from circuits.discovery.circuit import Circuit
    from circuits.discovery.running import Bench
    from interp.pairs import PromptPairs

app = typer.Typer(help="Discover circuits, evaluate, compare, show and export them.")
app.command("validate", epilog=marks.EXAMPLE)(marks.validate)
METHODS = (*ATTRIBUTION, "eap-ig-activations", "eap-qk")
SELECTS = ("top", "greedy", "threshold", "nodes", "neurons", "acdc", "edge-pruning")
CUT = ("resample", "zero", "mean")
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
    from circuits.cli.discovering import (
        Request,
        check_out,
        discovered_into,
        found_from_model,
        found_from_scores,
    )
    from circuits.discovery.mib import NAME, save_circuit
    from interp.folder import read_manifest
    from interp.run_key import fingerprint, identity, names_of

    request = Request(select, method, size, threshold, signed, metric, seed)
    request.check(scores=scores, model=model, pairs=pairs)
    check_out(out)
    if scores is not None:
        given = scores
        named = {"scores": fingerprint(read_manifest(scores)["files"])}

        def find(keep: Path | None) -> "Circuit":
            return found_from_scores(request, given)

    else:
        rows = load_rows(pairs or "", limit, split_by, split_seed, "discovery")
        loaded = load(model or "", device, dtype)
        named = names_of(rows) | identity(loaded)

        def find(keep: Path | None) -> "Circuit":
            return found_from_model(request, loaded, rows, keep)

    if out.suffix == ".json":
        found = find(None)
        file = save_circuit(found, out)
    else:
        found = discovered_into(out, request, named, find, force)
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


# --- evaluate ----------------------------------------------------------------------------------


@app.command(
    epilog="Examples:\n\n"
    "`interp circuit evaluate runs/ioi-circuit/circuit.json --model smollm2-135m "
    "--pairs ioi --split-by io,s1 --limit 32 --out runs/ioi-evaluated`\n\n"
    "`interp circuit evaluate runs/ioi-edges --model smollm2-135m --pairs ioi "
    "--split-by io,s1 --limit 32 --out runs/ioi-curve --json`"
)
def evaluate(
    what: Annotated[Path, typer.Argument(help="A circuit, or a run folder of edge scores.")],
    model: ModelOption,
    pairs: PairsOption,
    metric: MetricOption = "logit_diff",
    ablation: Annotated[str, choice(CUT, "What edges outside the circuit carry.")] = "resample",
    n_random: Annotated[
        int, typer.Option("--random", min=0, help="Number of random control circuits per kind.")
    ] = 20,
    limit: LimitOption = None,
    split_by: SplitByOption = None,
    split_seed: SplitSeedOption = 0,
    out: OutOption = None,
    force: ForceOption = False,
    seed: Annotated[
        int, typer.Option(help="Random seed for confidence intervals and random circuits.")
    ] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a circuit, or the circuits of every size that scores give, on test prompts."""
    from circuits.discovery.mib import to_json
    from circuits.discovery.running import bench
    from interp.run_key import fingerprint, identity, names_of

    given = _circuit_at(what)
    scored: Any = _edge_scores(what) if given is None else None
    rows = load_rows(pairs, limit, split_by, split_seed, "test")
    loaded = load(model, device, dtype)
    named = {"metric": metric, "ablation": ablation, "clusters": split_by, "seed": seed}
    named |= names_of(rows) | identity(loaded)

    def test() -> "tuple[Bench, tuple[str, ...] | None]":
        made = bench(loaded, rows, metric, ablation)  # pyright: ignore[reportArgumentType]
        return made, _clusters(rows, made.ids, split_by)

    if given is None:
        named |= {"scores": fingerprint([scored.values.values, scored.to_frame().to_dict("list")])}
        _evaluate_scores(test, scored, out, named, force, seed, as_json)
    else:
        named |= {"circuit": fingerprint(to_json(given)), "n_random": n_random}
        _evaluate_circuit(test, given, n_random, out, named, force, seed, as_json)


def _circuit_at(path: Path) -> "Circuit | None":
    """The circuit in a file or folder; ``None`` for a folder of something else."""
    from circuits.discovery.mib import NAME, load_circuit

    return load_circuit(path) if (path / NAME).is_file() or not path.is_dir() else None


def _clusters(
    rows: "PromptPairs", ids: tuple[str, ...], split_by: str | None
) -> tuple[str, ...] | None:
    """The first entity of each test pair: pairs that share it are resampled together."""
    if split_by is None:
        return None
    name = split_by.split(",")[0]
    entity = {pair.id: pair.clean[slice(*pair.spans[name][0])] for pair in rows}
    return tuple(entity[i] for i in ids)


Test = Callable[[], "tuple[Bench, tuple[str, ...] | None]"]
"""Runs the test prompts: the bench, and the clusters of its pairs."""


def _evaluate_circuit(
    test: Test,
    given: "Circuit",
    n_random: int,
    out: Path | None,
    named: dict[str, Any],
    force: bool,
    seed: int,
    as_json: bool,
) -> None:
    from circuits.discovery.evaluation import Evaluation, evaluate
    from circuits.kinds import write_page
    from interp.run_folder import in_one_piece
    from interp.steps import Codec

    def made() -> Evaluation:
        with progress("circuits", "run") as report:
            made, clusters = test()
            return evaluate(made, given, n_random, seed, clusters, report)

    kept: Codec[Evaluation] = Codec(
        lambda one, at: one.save(at, seed), lambda at: Evaluation.load(at, given)
    )
    done = in_one_piece(out, "circuit evaluate", named, made, kept, page=write_page, force=force)
    page = out and out / "index.html"
    summary: dict[str, Any] = {
        "run": str(out) if out else None,
        "kind": "circuit",
        **done.summary(seed),
    }
    if as_json:
        print_json({**summary, "page": str(page) if page else None, "seed": seed})
        return
    f = summary["faithfulness"]
    stdout.print(
        f"{escape(repr(given))}\n{done.metric}: {summary['full']:.3f} whole model, "
        f"{summary['empty']:.3f} all edges cut ({done.ablation}), {summary['circuit_metric']:.3f} "
        f"circuit\n[bold]faithfulness {f['value']:.3f}[/bold] (95 % interval {f['low']:.3f} to "
        f"{f['high']:.3f}, n = {summary['n_pairs']} pairs)",
        highlight=False,
    )
    for kind, drawn in summary["random"].items():
        stdout.print(
            f"random {kind}: {drawn['mean']:.3f} on average, {drawn['max']:.3f} at most, of "
            f"{drawn['n']}; p = {drawn['p']:.3f}",
            highlight=False,
        )
    if page:
        stdout.print(f"figure: {page}", highlight=False, soft_wrap=True)


def _evaluate_scores(
    test: Test,
    scores: Any,
    out: Path | None,
    named: dict[str, Any],
    force: bool,
    seed: int,
    as_json: bool,
) -> None:
    from circuits.discovery.faithfulness import Faithfulness, faithfulness
    from circuits.kinds import write_page
    from interp.run_folder import in_one_piece
    from interp.steps import Codec

    def made() -> Faithfulness:
        with progress("circuits", "run") as report:
            made, clusters = test()
            return faithfulness(made, scores, clusters=clusters, progress=report)

    kept: Codec[Faithfulness] = Codec(lambda one, at: one.save(at, seed), Faithfulness.load)
    done = in_one_piece(out, "circuit evaluate", named, made, kept, page=write_page, force=force)
    page = out and out / "index.html"
    run = str(out) if out else None
    summary: dict[str, Any] = {"run": run, "kind": "scores", **done.summary(seed)}
    if as_json:
        print_json({**summary, "page": str(page) if page else None, "seed": seed})
        return
    print_table(done.to_frame(), f"{done.method} on {done.model}: f at every size, {done.ablation}")
    for name in ("CPR", "CMD", "log_CPR", "log_CMD"):
        value, low, high = summary[name].values()
        stdout.print(f"{name} {value:.3f} (95 % interval {low:.3f} to {high:.3f})", highlight=False)
    if page:
        stdout.print(f"figure: {page}", highlight=False, soft_wrap=True)


def _edge_scores(path: Path) -> Any:
    from interp.attribution.scores import EdgeScores, Scores
    from interp.errors import RunFolderError

    scores = Scores.load(path)
    if not isinstance(scores, EdgeScores):
        raise RunFolderError(
            f"{path} holds {scores.KIND.replace('_', ' ')}; curves need scores of edges: "
            "`interp attribute --of edges`."
        )
    return scores


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

    from circuits.discovery.circuit import CircuitError
    from circuits.discovery.compare import overlap

    names = list(dict.fromkeys(map(str, circuits)))
    if len(names) < 2:
        raise CircuitError(f"only {names[0]} was given; name two circuits or more to compare.")
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
    _write_html(found, target)
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
    from circuits.discovery.circuit import CircuitError
    from circuits.discovery.drawing import to_dot
    from circuits.discovery.mib import save_circuit
    from interp.files import write_text

    writers = {
        "mib": save_circuit,
        "dot": lambda found, path: write_text(path, to_dot(found)),
        "html": lambda found, path: _write_html(found, path, standalone=True),
    }
    _, found = _needed(circuit)
    if out.is_dir():
        raise CircuitError(f"--out {out} is a folder; name the file to write.")
    writers[form](found, out)
    if as_json:
        print_json({"file": str(out), "format": form, "n_edges": found.n_edges})
    else:
        stdout.print(f"wrote {out}", highlight=False, soft_wrap=True)


def _needed(path: Path) -> tuple[Path, "Circuit"]:
    from circuits.discovery.mib import NAME, load_circuit

    return path / NAME if path.is_dir() else path, load_circuit(path)


def _write_html(found: "Circuit", path: Path, standalone: bool = False) -> None:
    from circuits.discovery.pages import circuit_report

    circuit_report(found).write(path, standalone)
