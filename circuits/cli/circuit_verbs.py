"""`interp circuit`: discover circuits, compare, show, export them, and score methods."""

import json
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.markup import escape

from circuits.cli import circuit_stability
from circuits.cli.grouped import Record, command
from circuits.cli.options import (
    MODEL,
    AnswersOption,
    DeviceOption,
    ForceOption,
    InChat,
    Into,
    LimitOption,
    Loading,
    MetricOption,
    OnModel,
    PairRows,
    SplitByOption,
    SplitSeedOption,
    choice,
    names_in,
)
from circuits.cli.output import print_table, stdout
from circuits.discovery.discovery_settings import SCORED, DiscoverySettings, Method
from interp.errors import PlanError

if TYPE_CHECKING:
    from circuits.discovery import Circuit, Evaluation, Faithfulness
    from interp.data.pairs import PromptPairs

app = typer.Typer(help="Discover circuits, evaluate, compare, show and export them.")
METHODS = get_args(Method)
CUT = ("resample", "zero", "mean")
FORMATS = ("mib", "dot", "html")
CircuitArgument = Annotated[
    Path, typer.Argument(help="A circuit: a JSON file, or a folder of `discover`.")
]


@command(
    app,
    "interp circuit discover --model smollm2-135m --pairs ioi --limit 32 --split-by io,s1 "
    "--size 0.02 --out runs/ioi-circuit",
    "interp circuit discover --scores runs/ioi-edges --select greedy --size 500 --out circuit.json",
)
def discover(
    *,
    out: Annotated[
        Path, typer.Option(help="FILE.json for the circuit, or a folder for circuit and scores.")
    ],
    chosen: Annotated[dict[str, Any], DiscoverySettings],
    in_chat: InChat,
    force: ForceOption = False,
    model: Annotated[str | None, typer.Option(help=f"{MODEL}.")] = None,
    pairs: Annotated[
        str | None, typer.Option(help="Prompt pairs to discover on, as in `interp patch`.")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Run folder of `interp attribute`, instead of --model and --pairs."),
    ] = None,
    limit: LimitOption = None,
    split_by: SplitByOption = None,
    split_seed: SplitSeedOption = 0,
    how: Loading,
) -> Record:
    """Choose a circuit: by scores, or by search. Writes it as JSON."""
    from circuits.discovery import search
    from circuits.discovery.circuit import NAME
    from interp.attribution.scores import Scores
    from interp.results.folder import read_manifest
    from interp.results.run_folder import fingerprint, identity, names_of

    settings = DiscoverySettings(**chosen)
    if scores is None and (model is None or pairs is None):
        raise PlanError("nothing to discover from: give --model and --pairs, or --scores.")
    fixed = settings.model_fields_set & {"method", "metric", "answers"}
    replaced = model or pairs or in_chat.options() or limit or split_by or split_seed or fixed
    if scores is not None and (replaced or how != Loading() or settings.select not in SCORED):
        raise PlanError(
            "--scores replaces --model and how it is loaded, --pairs with their chat, --limit, "
            "--split-by and --split-seed, --method, --metric and --answers; acdc and edge-pruning "
            "need a model and pairs."
        )
    settings.check()
    if out.is_dir() == (out.suffix == ".json") and out.exists():
        what = "a folder" if out.is_dir() else "a file"
        raise PlanError(f"--out {out} is {what}; name FILE.json, or a folder.")
    if out.is_file() and not force:
        raise PlanError(f"--out {out} exists; name another file, or pass --force to replace it.")
    if scores is not None:
        named = {"scores": fingerprint(read_manifest(scores)["files"])}

        def find(keep: Path | None) -> "Circuit":
            return search.select(Scores.load(scores), settings, str(scores))

    else:
        chosen_rows, held = PairRows(pairs or "", limit, split_by, split_seed), None
        if settings.chooses_size:
            rows, held = chosen_rows.held_out(in_chat)
        else:
            rows = chosen_rows.load("discovery", in_chat)
        loaded = how.load(model or "")
        rows, held = rows.rendered(loaded), held and held.rendered(loaded)
        named = names_of(rows) | identity(loaded)
        named |= {"held_out": fingerprint(held)} if held else {}

        def find(keep: Path | None) -> "Circuit":
            return search.discover(loaded, rows, settings, keep, held)

    if out.suffix == ".json":
        found, file = find(None), out
        found.save(file)
    else:
        found, file = search.into_folder(out, settings, named, find, force), out / NAME
    yield lambda: {"file": str(file), "select": settings.select, **found.summary()}
    _print_summary(found)
    stdout.print(f"circuit: {file}   (interp circuit show {file})", soft_wrap=True)


def _print_summary(found: "Circuit") -> None:
    import pandas as pd

    stdout.print(escape(repr(found)))
    if found.choice:
        stdout.print(escape(found.chosen_by), soft_wrap=True)
    strongest = found.strongest()
    if strongest:
        print_table(pd.DataFrame(strongest, columns=["edge", "score"]), "strongest edges")


@command(
    app,
    "interp circuit evaluate runs/ioi-circuit/circuit.json --model smollm2-135m --pairs ioi "
    "--split-by io,s1 --limit 32 --out runs/ioi-evaluated",
    "interp circuit evaluate runs/ioi-edges --model smollm2-135m --pairs ioi --split-by io,s1 "
    "--limit 32 --out runs/ioi-curve --json",
)
def evaluate(
    what: Annotated[Path, typer.Argument(help="A circuit, or a run folder of edge scores.")],
    on: OnModel,
    of_rows: PairRows,
    into: Into,
    in_chat: InChat,
    metric: MetricOption = "logit_diff",
    answers: AnswersOption = "whole",
    ablation: Annotated[str, choice(CUT, "What edges outside the circuit carry.")] = "resample",
    n_random: Annotated[
        int | None, typer.Option("--random", min=0, help="Random circuits per kind; by default 20.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed for confidence intervals and random circuits.")
    ] = 0,
) -> Record:
    """Run a circuit, or the circuits of every size that scores give, on test prompts."""
    from circuits import discovery
    from interp.metrics import as_metric
    from interp.results.folder import read_manifest
    from interp.results.run_folder import fingerprint, identity, in_one_piece, names_of

    given = _circuit_at(what)
    scored: Any = _edge_scores(what) if given is None else None
    if given is None and n_random is not None:
        raise PlanError(f"--random {n_random}: {what} holds scores; name a circuit, or drop it.")
    n_random = 20 if n_random is None else n_random
    rows, model = of_rows.load("test", in_chat), on.load()
    rows = rows.rendered(model)
    named = {"metric": as_metric(metric).identity, "answers": answers, "ablation": ablation}
    named |= {"clusters": of_rows.split_by, "seed": seed}
    named |= names_of(rows) | identity(model)
    if given is None:
        named |= {"scores": fingerprint(read_manifest(what)["files"])}
    else:
        named |= {"circuit": fingerprint(given.to_json()), "n_random": n_random}

    def made() -> Any:
        how: Any = (metric, ablation, answers)
        test = discovery.Evaluator.of(model, rows, *how)
        clusters = _clusters(rows, test.ids, of_rows.split_by)
        if given is None:
            return discovery.faithfulness(test, scored, clusters=clusters, seed=seed)
        return discovery.evaluate(test, given, n_random, seed, clusters)

    kind = discovery.Faithfulness if given is None else discovery.Evaluation
    done: Any = in_one_piece(into.out, "circuit evaluate", named, made, kind, into.force)
    page, summary = into.out and into.out / "index.html", done.summary()
    head = {"run": into.run, "kind": "scores" if given is None else "circuit"}
    yield lambda: head | summary | {"page": str(page) if page else None, "seed": seed}
    if given is None:
        _print_curve(done, summary)
    else:
        _print_circuit(given, done, summary)
    if page:
        stdout.print(f"figure: {page}", soft_wrap=True)


def _circuit_at(path: Path) -> "Circuit | None":
    """The circuit in a file or folder; ``None`` for a folder of something else."""
    from circuits.discovery.circuit import NAME, Circuit

    return Circuit.load(path) if (path / NAME).is_file() or not path.is_dir() else None


def _edge_scores(path: Path) -> Any:
    from interp.attribution.scores import Scores
    from interp.errors import RunFolderError

    scores = Scores.load(path)
    if scores.KIND != "edge_scores":
        raise RunFolderError(
            f"{path} holds {scores.KIND.replace('_', ' ')}; curves need scores of edges: "
            "`interp attribute --of edges`."
        )
    return scores


def _clusters(
    rows: "PromptPairs", ids: tuple[str, ...], split_by: str | None
) -> tuple[str, ...] | None:
    """The first entity of each test pair: pairs that share it are resampled together."""
    if split_by is None:
        return None
    name = split_by.split(",")[0]
    entity = {pair.id: pair.clean[slice(*pair.spans[name][0])] for pair in rows}
    return tuple(entity[i] for i in ids)


def _print_circuit(given: "Circuit", done: "Evaluation", summary: dict[str, Any]) -> None:
    f = summary["faithfulness"]
    stdout.print(
        f"{escape(repr(given))}\n{done.metric}: {summary['full']:.3f} full model, "
        f"{summary['empty']:.3f} all edges cut ({done.ablation}), {summary['circuit_metric']:.3f} "
        f"circuit\n[bold]faithfulness {f['value']:.3f}[/bold] (95 % interval {f['low']:.3f} to "
        f"{f['high']:.3f}, n = {summary['n_pairs']} pairs)"
    )
    for kind, drawn in summary["random"].items():
        stdout.print(
            f"random {kind}: {drawn['mean']:.3f} on average, {drawn['max']:.3f} at most, of "
            f"{drawn['n']}; p = {drawn['p']:.3f}"
        )


def _print_curve(done: "Faithfulness", summary: dict[str, Any]) -> None:
    print_table(done.to_frame(), f"{done.method} on {done.model}: f at every size, {done.ablation}")
    for name in ("CPR", "CMD", "log_CPR", "log_CMD"):
        value, low, high = summary[name].values()
        stdout.print(f"{name} {value:.3f} (95 % interval {low:.3f} to {high:.3f})")


command(
    app,
    "interp circuit stability --model smollm2-135m --pairs country_capitals --by template "
    "--split-by subject --methods eap-dg,eap --out runs/stability",
)(circuit_stability.stability)


@command(app, "interp circuit compare capitals.json ioi.json")
def compare(
    circuits: Annotated[list[Path], typer.Argument(help="Two circuits or more.")],
) -> Record:
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
    yield lambda: {
        "circuits": [{"file": name, **found.summary()} for name, found in loaded.items()],
        "overlaps": rows,
    }
    short = {name: f"{i}" for i, name in enumerate(loaded, 1)}
    for name, found in loaded.items():
        stdout.print(f"{short[name]}: {escape(name)}, {found.n_edges} edges", soft_wrap=True)
    table = pd.DataFrame(rows).drop(columns=["only_first", "only_second"])
    table = table.replace({"first": short, "second": short})
    table = table.rename(columns={"expected": "edges by chance"})
    table.columns = table.columns.str.replace("_", " ")
    print_table(table, "overlap (edges and nodes: Jaccard)")


@command(app, "interp circuit show circuit.json")
def show(
    circuit: CircuitArgument,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the drawing; by default CIRCUIT.html.")
    ] = None,
) -> Record:
    """Summarise a circuit and draw it."""
    from circuits.discovery.circuit import NAME, Circuit

    found, file = Circuit.load(circuit), circuit / NAME if circuit.is_dir() else circuit
    page = found.report().write(out or file.with_suffix(".html"))
    yield lambda: {"file": str(file), "page": str(page), **found.summary()}
    _print_summary(found)
    stdout.print(f"wrote {page}", soft_wrap=True)


@command(app, "interp circuit export circuit.json --format dot --out circuit.dot")
def export(
    circuit: CircuitArgument,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    form: Annotated[
        str, choice(FORMATS, "MIB's JSON, Graphviz's dot, or a drawing in HTML.", "--format")
    ] = "mib",
) -> Record:
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
    yield lambda: {"file": str(out), "format": form, "n_edges": found.n_edges}
    stdout.print(f"wrote {out}", soft_wrap=True)


@command(app, "interp circuit score-methods tracr-hist --methods exact,eap,eap-dg")
def score_methods(
    program: Annotated[
        str, typer.Argument(help="tracr-hist, -sort, -reverse, -xproportion, or a .npz file.")
    ],
    methods: Annotated[
        str, choice(METHODS, "Attribution methods of edges.", many=True)
    ] = "exact,eap,eap-ig,eap-dg",
    device: DeviceOption = None,
) -> Record:
    """Score attribution methods on a compiled program, whose true circuit is known."""
    import pandas as pd

    from circuits.discovery.ground_truth import score_methods as scored

    names = names_in(methods)
    if not names:
        raise PlanError("--methods names no method; give some, such as exact,eap,eap-dg.")
    found = [asdict(one) for one in scored(program, names, device)]
    name, n_edges = Path(program).stem, int(2 * found[0]["half_edges"])

    def record() -> dict[str, Any]:
        methods = {one["method"]: {k: one[k] for k in one if k != "method"} for one in found}
        return {"program": name, "n_edges": n_edges, "methods": methods}

    yield record
    print_table(pd.DataFrame(found), f"{name}: {n_edges} edges")
