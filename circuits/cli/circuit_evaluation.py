"""`interp circuit evaluate`: a circuit, or circuits of every size, on test prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.options import Into, JsonOption, MetricOption, OnModel, PairRows, choice
from circuits.cli.output import print_json, print_table, stdout

if TYPE_CHECKING:
    from circuits.discovery import Circuit, Evaluation, Faithfulness
    from interp.data.pairs import PromptPairs

EXAMPLES = (
    "interp circuit evaluate runs/ioi-circuit/circuit.json --model smollm2-135m --pairs ioi "
    "--split-by io,s1 --limit 32 --out runs/ioi-evaluated",
    "interp circuit evaluate runs/ioi-edges --model smollm2-135m --pairs ioi --split-by io,s1 "
    "--limit 32 --out runs/ioi-curve --json",
)
CUT = ("resample", "zero", "mean")


def evaluate(
    what: Annotated[Path, typer.Argument(help="A circuit, or a run folder of edge scores.")],
    on: OnModel,
    of_rows: PairRows,
    into: Into,
    metric: MetricOption = "logit_diff",
    ablation: Annotated[str, choice(CUT, "What edges outside the circuit carry.")] = "resample",
    n_random: Annotated[
        int, typer.Option("--random", min=0, help="Number of random control circuits per kind.")
    ] = 20,
    seed: Annotated[
        int, typer.Option(help="Random seed for confidence intervals and random circuits.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run a circuit, or the circuits of every size that scores give, on test prompts."""
    from circuits import discovery
    from circuits.kinds import write_page
    from interp.results.run_folder import fingerprint, identity, in_one_piece, names_of

    given = _circuit_at(what)
    scored: Any = _edge_scores(what) if given is None else None
    rows, model = of_rows.load("test"), on.load()
    named = {"metric": metric, "ablation": ablation, "clusters": of_rows.split_by, "seed": seed}
    named |= names_of(rows) | identity(model)
    if given is None:
        named |= {"scores": fingerprint([scored.values.values, scored.to_frame().to_dict("list")])}
    else:
        named |= {"circuit": fingerprint(given.to_json()), "n_random": n_random}

    def made() -> Any:
        cut: Any = ablation
        test = discovery.Evaluator.of(model, rows, metric, cut)
        clusters = _clusters(rows, test.ids, of_rows.split_by)
        if given is None:
            return discovery.faithfulness(test, scored, clusters=clusters, seed=seed)
        return discovery.evaluate(test, given, n_random, seed, clusters)

    kind = discovery.Faithfulness if given is None else discovery.Evaluation
    options: dict[str, Any] = {"page": write_page, "force": into.force}
    done: Any = in_one_piece(into.out, "circuit evaluate", named, made, kind, **options)
    page, summary = into.out and into.out / "index.html", done.summary()
    if as_json:
        head = {"run": into.run, "kind": "scores" if given is None else "circuit"}
        print_json(head | summary | {"page": str(page) if page else None, "seed": seed})
        return
    if given is None:
        _print_curve(done, summary)
    else:
        _print_circuit(given, done, summary)
    if page:
        stdout.print(f"figure: {page}", highlight=False, soft_wrap=True)


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
        f"{f['high']:.3f}, n = {summary['n_pairs']} pairs)",
        highlight=False,
    )
    for kind, drawn in summary["random"].items():
        stdout.print(
            f"random {kind}: {drawn['mean']:.3f} on average, {drawn['max']:.3f} at most, of "
            f"{drawn['n']}; p = {drawn['p']:.3f}",
            highlight=False,
        )


def _print_curve(done: "Faithfulness", summary: dict[str, Any]) -> None:
    print_table(done.to_frame(), f"{done.method} on {done.model}: f at every size, {done.ablation}")
    for name in ("CPR", "CMD", "log_CPR", "log_CMD"):
        value, low, high = summary[name].values()
        stdout.print(f"{name} {value:.3f} (95 % interval {low:.3f} to {high:.3f})", highlight=False)
