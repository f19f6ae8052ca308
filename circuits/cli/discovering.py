"""What `interp circuit discover` was asked for, checked, and carried out."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from circuits.discovery.circuit import (
    Circuit,
    greedy_edges,
    threshold_edges,
    top_edges,
    top_neurons,
    top_nodes,
)
from circuits.discovery.mib import NAME, load_circuit, save_circuit
from circuits.discovery.running import Bench, bench
from circuits.discovery.search import Pruning, acdc, edge_pruning
from interp.attribution.attribute import attribute_to
from interp.attribution.scores import EdgeScores, NodeScores, Scores, UnitScores
from interp.data.pairs import PromptPairs
from interp.errors import PlanError
from interp.model.model import Model
from interp.progress import bar
from interp.results import folder
from interp.results.run_folder import RunFolder

FROM_SCORES: dict[str, tuple[str, str | None, type[Scores]]] = {
    "top": ("edges", None, EdgeScores),
    "greedy": ("edges", None, EdgeScores),
    "threshold": ("edges", None, EdgeScores),
    "nodes": ("nodes", None, NodeScores),
    "neurons": ("mlp_post", "layer,neuron", UnitScores),
}
"""Ways to select from scores: what is scored, over which axes, and the kind of scores."""
NEEDS_SIZE = ("top", "greedy", "nodes", "neurons", "edge-pruning")
NEEDS_THRESHOLD = ("threshold", "acdc")


@dataclass(frozen=True)
class Request:
    """The options of `interp circuit discover`."""

    select: str
    method: str
    size: str | None
    threshold: float | None
    signed: bool
    metric: str
    seed: int

    def check(self, scores: Path | None, model: str | None, pairs: str | None) -> None:
        """Refuse options that are missing, or that would go unused.

        Raises:
            PlanError: which, and what to give.
        """
        if scores is None and (model is None or pairs is None):
            raise PlanError("nothing to discover from: give --model and --pairs, or --scores.")
        if scores is not None and (model or pairs or self.select not in FROM_SCORES):
            raise PlanError(
                "--scores replaces --model and --pairs; acdc and edge-pruning need the latter."
            )
        if self.select in NEEDS_SIZE and self.size is None:
            raise PlanError(f"--select {self.select} needs --size: a number, or a part of all.")
        if self.select in NEEDS_THRESHOLD and self.threshold is None:
            raise PlanError(f"--select {self.select} needs --threshold.")
        unused = {
            "--size": self.select == "threshold" and self.size is not None,
            "--threshold": self.select not in NEEDS_THRESHOLD and self.threshold is not None,
            "--signed": self.select == "edge-pruning" and self.signed,
        }
        for option, given in unused.items():
            if given:
                raise PlanError(f"--select {self.select} has no use for {option}; leave it out.")

        if self.size is not None:
            self.n(10**9)

    def n(self, of: int) -> int:
        """How many of `of` components `size` asks for.

        Raises:
            PlanError: none, or no number.
        """
        text = self.size or "1.0"
        try:
            n = whole_number(text) if text.isdigit() else part_of(float(text), of)
        except ValueError as error:
            raise PlanError(
                f"--size {text!r}: write a number of components, 1 or more, or a part of all "
                "between 0 and 1, such as 0.02."
            ) from error
        if not n:
            raise PlanError(f"--size {text} of {of} components is none; take a larger part.")
        return n


def check_out(out: Path) -> None:
    """Refuse to write a circuit over something else, before anything is measured.

    Raises:
        PlanError: what is there.
    """
    if out.is_dir() == (out.suffix == ".json") and out.exists():
        what = "a folder" if out.is_dir() else "a file"
        raise PlanError(f"--out {out} is {what}; name FILE.json, or a folder.")


def discovered_into(
    out: Path,
    request: Request,
    named: Mapping[str, Any],
    find: Callable[[Path], Circuit],
    force: bool,
) -> Circuit:
    """A circuit in a run folder, with the scores that chose it.

    Args:
        out: the folder.
        request: what to do.
        named: the options that `request` lacks.
        find: folder for scores -> the circuit.
        force: replace another run.
    """
    with RunFolder.open(out, "circuit discover", {**asdict(request), **named}, force=force) as run:
        if not run.finished:
            scores = run.work / "scores"
            found = find(scores)

            def write(at: Path) -> None:
                about = {"kind": "circuit", "model": found.model, "provenance": folder.provenance()}
                folder.write(at, about, {}, {})
                save_circuit(found, at / NAME)
                if scores.exists():
                    shutil.copytree(scores, at / "scores")

            run.finish(write)
    return load_circuit(out)


def check_found(found: Circuit) -> None:
    """Refuse to write a circuit of nothing.

    Raises:
        PlanError: it has no edges.
    """
    if not found.n_edges:
        raise PlanError(
            f"{found.method or 'the circuit'} keeps no path from the input to the logits; take "
            "more components, or a lower threshold."
        )


def whole_number(text: str) -> int:
    """A number of components."""
    if not int(text):
        raise ValueError(text)
    return int(text)


def part_of(part: float, of: int) -> int:
    """A part of a number of components, rounded down as MIB does."""
    if not 0 < part <= 1:
        raise ValueError(part)
    return int(part * of)


def found_from_scores(request: Request, path: Path) -> Circuit:
    """Select from a run folder of scores.

    Raises:
        PlanError: scores of another kind than this selection needs.
    """
    scores = Scores.load(path)
    of, _, kind = FROM_SCORES[request.select]
    if not isinstance(scores, kind):
        raise PlanError(
            f"{path} holds {scores.KIND.replace('_', ' ')}, and --select {request.select} needs "
            f"scores of {of}: `interp attribute --of {of}`."
        )
    found = _selected(request, scores)
    check_found(found)
    return found


def _selected(request: Request, scores: Any) -> Circuit:
    absolute = not request.signed
    if request.select == "threshold":
        return threshold_edges(scores, request.threshold or 0.0, absolute)
    total = int(scores.values[0].size)
    select = {"greedy": greedy_edges, "nodes": top_nodes, "neurons": top_neurons}
    return select.get(request.select, top_edges)(scores, request.n(total), absolute)


def found_from_model(
    request: Request, model: Model, rows: PromptPairs, keep: Path | None
) -> Circuit:
    """Score the rows and select, or search.

    Args:
        request: what to do.
        model: the model.
        rows: discovery prompts.
        keep: run folder for the scores, so that a stopped run resumes; ``None`` keeps none.
    """
    found = _found_from_model(request, model, rows, keep)
    check_found(found)
    return found


def _found_from_model(
    request: Request, model: Model, rows: PromptPairs, keep: Path | None
) -> Circuit:
    if request.select == "edge-pruning":
        return _pruned(request, _bench(request, model, rows))
    if request.select == "acdc":
        start = None
        if request.size is not None:
            start = top_edges(*_sized(request, _scores(request, model, rows, keep, "top")))
        with bar("ACDC", "edges") as report:
            return acdc(_bench(request, model, rows), request.threshold or 0.0, start, report)
    return _selected(request, _scores(request, model, rows, keep, request.select))


def _sized(request: Request, scores: Any) -> tuple[Any, int, bool]:
    return scores, request.n(scores.graph.n_edges), not request.signed


def _bench(request: Request, model: Model, rows: PromptPairs) -> Bench:
    return bench(model, rows, request.metric)


def _pruned(request: Request, data: Bench) -> Circuit:
    kept = request.n(data.graph.n_edges) / data.graph.n_edges
    with bar("edge pruning", "steps") as report:
        return edge_pruning(data, Pruning(target=1 - kept, seed=request.seed), report)


def _scores(
    request: Request, model: Model, rows: PromptPairs, keep: Path | None, select: str
) -> Scores:
    of, over, _ = FROM_SCORES[select]
    options: dict[str, Any] = {
        "of": of,
        "over": over,
        "method": request.method,
        "metric": request.metric,
    }
    with bar(f"{request.method} of {of}", "pairs") as report:
        return attribute_to(model, rows, **options, out=keep, progress=report)
