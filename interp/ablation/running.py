"""Run a request: pairs and windows of text in shards, each set and each control once."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.ablation.controls import controlled, write_norms
from interp.ablation.readouts import (
    AnswerReader,
    Functions,
    TextReader,
    candidate_tokens,
    windows,
)
from interp.ablation.result import AblationResult, Columns, result_of
from interp.ablation.rows import Read, run_sets
from interp.ablation.values import AblateKind, Replacement, Rewrites, aligned
from interp.brief import brief
from interp.data.pairs import Pair, PromptPairs, TokenPair, tokenise
from interp.data.prompts import TokenPrompt, prompts_of
from interp.errors import DataError
from interp.model.components import SITE_OF, ComponentKind, ComponentSet, Sets
from interp.model.model import Model
from interp.progress import Progress, reported
from interp.results.run_folder import RunFolder
from interp.results.run_key import fingerprint, identity, names_of
from interp.results.steps import ARRAYS, Steps

EXAMPLES_AT_ONCE, SETS_AT_ONCE = 16, 512
"""Pairs or windows, and sets, of a shard: what a killed run loses at most."""

ClusterBy = str | Callable[[Pair], Any]


@brief
@dataclass(frozen=True)
class Request:
    """What `interp.ablate` was asked for, checked; its arguments explain the fields."""

    model: Model
    pairs: PromptPairs
    sets: Sets
    kind: AblateKind
    readouts: tuple[str, ...]
    functions: Functions
    candidates: tuple[str, ...] | None
    reference: Sequence[TokenPrompt]
    neutral: str | None
    n_random: int
    match_norms: bool
    cluster_by: ClusterBy | None
    seed: int

    @cached_property
    def options(self) -> dict[str, Any]:
        """Everything but model and pairs that decides the numbers, for the record."""
        said = ("kind", "readouts", "candidates", "n_random", "match_norms", "seed")
        sets = [[name, *map(str, one.components), *one.among] for name, one in self.sets.items()]
        return {name: getattr(self, name) for name in said} | {
            "sets": fingerprint(sets),
            "reference": fingerprint([prompt.ids for prompt in self.reference]),
            "neutral": self.neutral and fingerprint(self.neutral),
            "clusters": fingerprint(self.clusters(self.pairs)),
        }

    def clusters(self, pairs: Sequence[Pair]) -> list[str]:
        """The entity of each pair; none where every pair stands for itself.

        Raises:
            DataError: a pair lacks the span.
        """
        by = self.cluster_by
        if by is None:
            return []
        return [_span(pair, by) if isinstance(by, str) else str(by(pair)) for pair in pairs]


def _span(pair: Pair, name: str) -> str:
    if name not in pair.spans:
        raise DataError(
            f"{pair.where}: no span {name!r} to cluster by; this pair has "
            f"{', '.join(pair.spans) or 'none'}."
        )
    start, end = pair.spans[name][0]
    return pair.clean[start:end]


def measured_into(
    out: Path, request: Request, progress: Progress | bool, force: bool
) -> AblationResult:
    """As `measured`, into a run folder, resuming where an earlier call was stopped.

    Raises:
        RunFolderError: `out` holds another run.
    """
    model = request.model
    named = request.options | names_of(request.pairs) | identity(model)
    with RunFolder.open(out, "ablate", named, unit="runs", force=force) as run:
        if not run.finished:
            result = measured(request, run, progress)
            note = {"seed": request.seed, "weights": model.weights_hash}
            run.finish(lambda at: result.save(at, note))
    return AblationResult.load(out)


def measured(request: Request, steps: Steps, progress: Progress | bool) -> AblationResult:
    """Carry a request out; finished shards are kept as steps."""
    model = request.model
    kept, excluded = tokenise(model, request.pairs)
    prompts = prompts_of(kept)
    plan = controlled(model, request.sets, request.n_random, request.seed, _norms(request, prompts))
    distinct = plan.distinct
    replaced = Replacement(
        model, request.kind, _layers(model, distinct), request.reference, request.seed
    )
    tasks = [_pair_task(request, replaced, kept)]
    if request.neutral is not None:
        tasks.append(_text_task(replaced, windows(model, request.neutral)))
    values, seconds = _measure(model, tasks, distinct, steps, progress)
    order = [*request.readouts, *(["nll"] if request.neutral is not None else [])]
    return result_of(
        {name: values[name] for name in order},
        plan,
        [pair.pair.id for pair in kept],
        clusters=tuple(request.clusters([pair.pair for pair in kept])),
        excluded=tuple(excluded),
        model=model.name,
        kind=request.kind,
        source=request.pairs.source,
        seed=request.seed,
        seconds=seconds,
        mean_over=tasks[0].replaced.mean_over,
    )


def _norms(request: Request, prompts: Sequence[TokenPrompt]) -> Any:
    if not request.match_norms:
        return {}
    kinds: list[ComponentKind] = [c.kind for one in request.sets.values() for c in one.components]
    return write_norms(request.model, kinds, prompts[:EXAMPLES_AT_ONCE])


def _layers(model: Model, sets: Sequence[ComponentSet]) -> dict[str, list[int]]:
    """The layers of each site in which some set replaces something."""
    found: dict[str, set[int]] = {}
    for one in sets:
        for kind in one.among:
            found[SITE_OF[kind]] = set(range(model.arch.n_layers))
        for component in () if one.among else one.components:
            found.setdefault(SITE_OF[component.kind], set()).add(component.layer)
    return {site: sorted(layers) for site, layers in found.items()}


# --- what is run -------------------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class Task:
    """Examples that run under every set: pairs, or windows of text.

    Attributes:
        name: of its shards.
        prompts: the examples.
        counterparts: what they are resampled from.
        starts: first position that a replacement can change.
        replaced: by what.
        reader: (first, one past the last example) -> how to read these.
    """

    name: str
    prompts: Sequence[TokenPrompt]
    counterparts: Sequence[TokenPrompt]
    starts: Sequence[int]
    replaced: Replacement
    reader: Callable[[int, int], Read]


def _pair_task(request: Request, replaced: Replacement, kept: Sequence[TokenPair]) -> Task:
    model, prompts = request.model, prompts_of(kept)
    answers = torch.tensor([[pair.answer, pair.wrong_answer] for pair in kept])
    tokens = candidate_tokens(model, kept, request.candidates)
    resampled = request.kind == "resample"
    return Task(
        "pairs",
        prompts,
        prompts_of(kept, "corrupt"),
        # nothing differs between the two prompts before their first different token
        [pair.first_difference if resampled else 0 for pair in kept],
        dataclasses.replace(replaced, by_position=aligned([*prompts, *request.reference])),
        lambda lo, hi: AnswerReader(
            model, request.readouts, answers[lo:hi], tokens, request.functions
        ),
    )


def _text_task(replaced: Replacement, text: Sequence[TokenPrompt]) -> Task:
    """Neutral text is its own reference, and each window's counterpart is the next."""
    return Task(
        "text",
        text,
        [*text[1:], text[0]],
        [0] * len(text),
        dataclasses.replace(replaced, reference=text),
        lambda lo, hi: TextReader(replaced.model, text[lo:hi]),
    )


def _measure(
    model: Model,
    tasks: Sequence[Task],
    sets: Sequence[ComponentSet],
    steps: Steps,
    progress: Progress | bool,
) -> tuple[Columns, float]:
    """Every readout of every example under every set, and the seconds it took."""

    @lru_cache(maxsize=1)
    def rewrites(number: int, lo: int) -> Rewrites:
        """Recorded once for all blocks of sets, and not at all where their shards are there."""
        task, some = tasks[number], slice(lo, lo + EXAMPLES_AT_ONCE)
        return task.replaced.of(task.prompts[some], task.counterparts[some], lo)

    out: Columns = {}
    seconds, done = 0.0, 0
    total = len(sets) * sum(len(task.prompts) for task in tasks)
    with reported(progress, "ablating", total, "runs") as report:
        for number, lo, first in _blocks(tasks, len(sets)):
            task, some = tasks[number], sets[first : first + SETS_AT_ONCE]
            recorded = partial(rewrites, number, lo)
            measure = partial(_run, model, task, lo, some, recorded)
            arrays = steps.step(f"{task.name}-{lo:06d}-{first:06d}", measure, ARRAYS)
            seconds += float(arrays.pop("seconds")[0])
            _fill(out, arrays, (len(task.prompts), len(sets)), lo, first)
            done += len(some) * len(task.prompts[lo : lo + EXAMPLES_AT_ONCE])
            steps.count(done, total)
            report(done, total)
    return out, seconds


def _blocks(tasks: Sequence[Task], n_sets: int) -> list[tuple[int, int, int]]:
    """(number of the task, first example, first set) of every shard."""
    return [
        (number, lo, first)
        for number, task in enumerate(tasks)
        for lo in range(0, len(task.prompts), EXAMPLES_AT_ONCE)
        for first in range(0, n_sets, SETS_AT_ONCE)
    ]


def _run(
    model: Model,
    task: Task,
    lo: int,
    sets: Sequence[ComponentSet],
    rewrites: Callable[[], Rewrites],
) -> dict[str, np.ndarray]:
    """One shard: by readout the unablated and the ablated values, and the seconds it took."""
    started = time.perf_counter()
    some = slice(lo, min(lo + EXAMPLES_AT_ONCE, len(task.prompts)))
    ablated = [one.ablated(model) for one in sets]
    read = task.reader(some.start, some.stop)
    found = run_sets(model, task.prompts[some], task.starts[some], ablated, rewrites(), read)
    arrays = {"seconds": np.array([time.perf_counter() - started])}
    for name, (baseline, values) in found.items():
        arrays |= {f"{name}.baseline": baseline, f"{name}.ablated": values}
    return arrays


def _fill(
    out: Columns, arrays: dict[str, np.ndarray], shape: tuple[int, int], lo: int, first: int
) -> None:
    for name in {key.partition(".")[0] for key in arrays}:
        baseline, ablated = arrays[f"{name}.baseline"], arrays[f"{name}.ablated"]
        if name not in out:
            out[name] = np.zeros(shape[0]), np.zeros(shape)
        rows, columns = slice(lo, lo + len(ablated)), slice(first, first + ablated.shape[1])
        out[name][0][rows], out[name][1][rows, columns] = baseline, ablated
