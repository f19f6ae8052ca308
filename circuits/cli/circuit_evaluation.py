"""`interp circuit evaluate`: a circuit, or circuits of every size, on test prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.options import (
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
from circuits.cli.output import load, load_rows, print_json, print_table, stdout

if TYPE_CHECKING:
    from circuits.discovery.circuit import Circuit
    from circuits.discovery.evaluator import Evaluator
    from interp.data.pairs import PromptPairs

EXAMPLES = (
    "Examples:\n\n"
    "`interp circuit evaluate runs/ioi-circuit/circuit.json --model smollm2-135m "
    "--pairs ioi --split-by io,s1 --limit 32 --out runs/ioi-evaluated`\n\n"
    "`interp circuit evaluate runs/ioi-edges --model smollm2-135m --pairs ioi "
    "--split-by io,s1 --limit 32 --out runs/ioi-curve --json`"
)
CUT = ("resample", "zero", "mean")


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
    from circuits.discovery.evaluator import Evaluator
    from interp.results.run_folder import fingerprint, identity, names_of

    given = _circuit_at(what)
    scored: Any = _edge_scores(what) if given is None else None
    rows = load_rows(pairs, limit, split_by, split_seed, "test")
    loaded = load(model, device, dtype)
    named = {"metric": metric, "ablation": ablation, "clusters": split_by, "seed": seed}
    named |= names_of(rows) | identity(loaded)

    def test() -> "tuple[Evaluator, tuple[str, ...] | None]":
        made = Evaluator.of(loaded, rows, metric, ablation)  # pyright: ignore[reportArgumentType]
        return made, _clusters(rows, made.ids, split_by)

    if given is None:
        named |= {"scores": fingerprint([scored.values.values, scored.to_frame().to_dict("list")])}
        _evaluate_scores(test, scored, out, named, force, seed, as_json)
    else:
        named |= {"circuit": fingerprint(given.to_json()), "n_random": n_random}
        _evaluate_circuit(test, given, n_random, out, named, force, seed, as_json)


def _circuit_at(path: Path) -> "Circuit | None":
    """The circuit in a file or folder; ``None`` for a folder of something else."""
    from circuits.discovery.circuit import NAME, Circuit

    return Circuit.load(path) if (path / NAME).is_file() or not path.is_dir() else None


def _clusters(
    rows: "PromptPairs", ids: tuple[str, ...], split_by: str | None
) -> tuple[str, ...] | None:
    """The first entity of each test pair: pairs that share it are resampled together."""
    if split_by is None:
        return None
    name = split_by.split(",")[0]
    entity = {pair.id: pair.clean[slice(*pair.spans[name][0])] for pair in rows}
    return tuple(entity[i] for i in ids)


Test = Callable[[], "tuple[Evaluator, tuple[str, ...] | None]"]
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
    from circuits.discovery import Evaluation, evaluate
    from circuits.kinds import write_page
    from interp.results.run_folder import in_one_piece

    def made() -> Evaluation:
        made, clusters = test()
        return evaluate(made, given, n_random, seed, clusters)

    done = in_one_piece(
        out, "circuit evaluate", named, made, Evaluation, page=write_page, force=force
    )
    page = out and out / "index.html"
    summary: dict[str, Any] = {
        "run": str(out) if out else None,
        "kind": "circuit",
        **done.summary(),
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
    from circuits.discovery import Faithfulness, faithfulness
    from circuits.kinds import write_page
    from interp.results.run_folder import in_one_piece

    def made() -> Faithfulness:
        made, clusters = test()
        return faithfulness(made, scores, clusters=clusters, seed=seed)

    done = in_one_piece(
        out, "circuit evaluate", named, made, Faithfulness, page=write_page, force=force
    )
    page = out and out / "index.html"
    run = str(out) if out else None
    summary: dict[str, Any] = {"run": run, "kind": "scores", **done.summary()}
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
