"""How stable a circuit is: scores of every prompt are computed once and resampled.

scores of each pair (any method) -> bootstrap over pairs, groups, methods -> inclusion of each edge
-> the consensus circuit, run on test prompts beside circuits of single samples and of groups
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits.discovery.evaluator import Evaluator
from circuits.discovery.held_out import run_held_out
from circuits.discovery.resampling import refuse_sizes, resampled
from circuits.discovery.stability_result import Stability
from circuits.discovery.stability_settings import StabilitySettings
from interp.attribution.attribute import attribute_to
from interp.attribution.scores import EdgeScores
from interp.data.pairs import Pair, PromptPairs, load_pairs
from interp.errors import DataError, PlanError, did_you_mean, shown
from interp.metrics import as_metric
from interp.model.graph import Graph
from interp.model.model import Model
from interp.progress import Progress, reported
from interp.results.run_folder import RunFolder, Steps, fingerprint, identity, names_of, page_of


def stability(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    settings: StabilitySettings | None = None,
    *,
    test: PromptPairs | None = None,
    out: str | Path | None = None,
    scores: str | Path | None = None,
    force: bool = False,
    progress: Progress | bool = True,
) -> Stability:
    """How much of the circuit of some prompts would be chosen again, and what the consensus does.

    Args:
        model: the model.
        pairs: prompts to discover on, anything `load_pairs` takes.
        settings: methods, sizes, thresholds, numbers of resamples, seed; by default eap-dg and
            1000 edges.
        test: prompts without a common entity (`split_by_entity`), on which the consensus circuit,
            circuits of single samples and those of groups are run; by default none is.
        out: run folder, where a stopped run resumes, and a finished one is loaded.
        scores: folder for the scores of each method, which another run on the same prompts reads
            back; by default they lie in `out`.
        force: replace another run that `out` holds.
        progress: as in `attribute_edges`.

    Raises:
        PlanError: settings that do not fit each other, the model or the number of pairs.
        DataError: rows without the group or the entity that the settings name.
        RunFolderError: `out` holds another run.
    """
    chosen = settings or StabilitySettings.model_validate({})
    chosen.check()
    rows = load_pairs(pairs).rendered(model)
    tested = None if test is None else test.rendered(model)
    refuse_sizes(chosen, Graph.of(model.arch))
    if tested is not None:
        _refuse_samples(chosen, len(rows))
    labels = [_labelled(some, chosen) for some in (rows, tested or rows)]
    if out is None:
        return _made(Steps(), model, rows, tested, chosen, scores, progress)
    named = chosen.model_dump() | {"metric": as_metric(chosen.metric).identity}
    named |= names_of(rows) | identity(model) | {"labels": fingerprint(labels)}
    named |= {"test": None if tested is None else fingerprint(tested)}
    with RunFolder.open(out, "circuit stability", named, unit="circuits", force=force) as run:
        if not run.finished:
            at = Path(scores or run.work / "scores")
            made = _made(run, model, rows, tested, chosen, at, progress)

            def keep(beside: Path) -> None:
                if scores is None:
                    shutil.copytree(at, beside / "scores")

            run.finish(made.save, keep, page=page_of(Stability))
    return Stability.load(out)


def _refuse_samples(settings: StabilitySettings, n_pairs: int) -> None:
    """Refuse (`PlanError`) single samples that would be all pairs."""
    if settings.samples and settings.sample_size >= n_pairs:
        raise PlanError(
            f"--sample-size {settings.sample_size}: there are {n_pairs} usable pairs; take smaller "
            "single samples, or --samples 0."
        )


def _made(
    steps: Steps,
    model: Model,
    rows: PromptPairs,
    test: PromptPairs | None,
    settings: StabilitySettings,
    scores: str | Path | None,
    progress: Progress | bool,
) -> Stability:
    found: list[Any] = []
    for method in settings.methods:
        out = None if scores is None else Path(scores) / method
        options: dict[str, Any] = {"metric": settings.metric, "answers": settings.answers}
        with reported(progress, f"{method} of edges", len(rows)) as report:
            of = attribute_to(
                model, rows, "edges", None, method, **options, out=out, progress=report
            )
        found.append(of)
        if test is not None:
            _refuse_samples(settings, of.n_pairs)
    groups, entities = _labels(rows, settings, found[0].values["pair"].values.tolist())
    done = resampled(found, settings, groups, entities)
    if test is None:
        return done
    on = Evaluator.of(model, test, settings.metric, settings.ablation, settings.answers)
    of_test, own_entities = _labels(test, settings, on.ids)
    try:
        consensus = done.consensus()
    except PlanError as error:  # the rest of the run stands
        warnings = (*done.warnings, f"nothing was run on the test prompts: {error}")
        return replace(done, warnings=warnings)
    ranking = consensus_ranking(found[0], done.edges["rank"].to_numpy(float))
    held = done.edges[list(settings.over)].min(axis=1) >= settings.threshold
    with reported(progress, "circuits on test prompts", 1, "run") as report:
        tested = run_held_out(
            on,
            found[0],
            ranking,
            consensus,
            int(held.sum()),
            (groups, of_test),
            own_entities,
            settings,
            steps,
            report,
        )
    return replace(done, held_out=tested)


def consensus_ranking(like: EdgeScores, ranks: Float[np.ndarray, " edge"]) -> EdgeScores:
    """Scores whose order is that of mean ranks, with the signs of the mean scores."""
    size = 1 - (ranks - 1) / len(ranks)
    values = np.copysign(size, like.mean().values).astype(np.float32)
    method = f"{like.method}, consensus"
    return replace(like, values=like.values[:1].copy(data=values[None]), method=method)


def _labelled(rows: PromptPairs, settings: StabilitySettings) -> dict[str, tuple[str, str]]:
    """Group and entity of each row by its id; empty texts where the settings name none."""

    def named(pair: Pair, name: str | None, of: Mapping[str, Any], what: str) -> Any:
        if name is not None and name not in of:
            hint = did_you_mean(name, of)
            raise DataError(f"{pair.where}: no {what.format(shown(name))}. {hint}")
        return None if name is None else of[name]

    found: dict[str, tuple[str, str]] = {}
    for pair in rows:
        group = named(pair, settings.by, pair.labels, "column {} to group by")
        spans = named(pair, settings.entities, pair.spans, "span {}")
        found[pair.id] = group or "", pair.clean[slice(*spans[0])] if spans else ""
    return found


def _labels(
    rows: PromptPairs, settings: StabilitySettings, ids: Sequence[str]
) -> tuple[list[str] | None, list[str] | None]:
    """Groups and entities of the rows that could be used, where the settings name them."""
    found = _labelled(rows, settings)
    groups, entities = ([found[id][side] for id in ids] for side in (0, 1))
    return settings.by and groups or None, settings.entities and entities or None
