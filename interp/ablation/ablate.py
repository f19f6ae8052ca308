"""Ablation: replace components by what carries no information, and read what is lost."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from interp.ablation.controls import controlled, write_norms
from interp.ablation.readouts import (
    Readouts,
    answer_reader,
    n_read,
    named_readouts,
    read_answers,
    text_reader,
    windows,
)
from interp.ablation.replacement import Replacement, Rewrites, aligned, check_kind
from interp.ablation.result import AblationResult, Columns, result_of
from interp.ablation.rows import Read, run_sets
from interp.brief import brief
from interp.data.alignment import Partner
from interp.data.answers import Aliases, AnswerTree, described
from interp.data.pair_records import no_span
from interp.data.pairs import (
    AnswerMode,
    Pair,
    PromptPairs,
    TokenPair,
    load_pairs,
    tokenise,
    unpaired,
    warn_of,
)
from interp.data.prompts import Prompts, TokenPrompt, as_prompts, prompts_of
from interp.data.token_batch import TokenBatch, laid_out
from interp.errors import DataError, PlanError
from interp.forward.continuations import readable
from interp.metrics import AnyMetric
from interp.model.components import (
    SITE_OF,
    ComponentKind,
    Components,
    ComponentSet,
    Sets,
    as_sets,
    layers_of,
)
from interp.model.model import Model
from interp.progress import Progress, reported
from interp.results.run_folder import ARRAYS, RunFolder, Steps, fingerprint, identity, names_of

EXAMPLES_AT_ONCE, SETS_AT_ONCE = 16, 512
"""Pairs or windows, and sets, of a shard: what a killed run loses at most."""

ClusterBy = str | Callable[[Pair], Any]


def ablate(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    sets: Components | ComponentSet | Sets,
    kind: str = "resample",
    *,
    readouts: Sequence[AnyMetric] = ("logit_diff", "accuracy"),
    answers: AnswerMode = "whole",
    candidates: Sequence[str] | None = None,
    reference: Prompts | None = None,
    neutral: str | None = None,
    n_random: int = 20,
    match_norms: bool = False,
    cluster_by: ClusterBy | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | bool = True,
) -> AblationResult:
    """Ablate sets of components on the clean prompt of every pair, each against random sets.

    A component is replaced at every token, those of the answers behind the prompt, too. Values
    are exact: each equals a separate forward pass with hooks.

    Args:
        model: from `interp.load_model`.
        pairs: anything `load_pairs` takes.
        sets: one set, as names (``"a3.h1,m5"`` or a list), a table or an array of scores; or
            named sets, such as `singles`, `cumulative` and `all_but` make.
        kind: ``"resample"``: the activation of the token's partner in the pair's corrupt prompt (a
            token without one is not replaced); ``"mean"``: over `reference`, at each position if
            all prompts are of one form, else and at answers' tokens over all tokens; ``"zero"``;
            ``"noise"`` added, of 3 standard deviations of the activations at all tokens of the 16
            pairs (or windows of text) of a block.
        readouts: metrics as `interp.patch` takes them, ``"accuracy"`` among `candidates`, or
            ``"vocab_accuracy"``.
        answers: ``"whole"``: all tokens of the answers; ``"first"``: the first of each alone.
        candidates: by default all answers and wrong answers of the pairs. Of several tokens each,
            they are all read behind every prompt.
        reference: prompts of the mean (of pairs, the clean ones). Use others than `pairs`.
        neutral: a text unrelated to the task, whose perplexity shows damage in general. There,
            means are over the text itself, and a window is resampled from the next one.
        n_random: matched random sets for each set: as many heads and neurons in each layer, as
            many MLPs. Fewer where no more exist.
        match_norms: match heads and neurons also by the mean norm of what they write.
        cluster_by: for intervals over entities: the span whose clean text is a pair's entity
            (such as ``"subject"``), or a function of the pair.
        seed: of the random sets, the noise and the bootstrap.
        out: a run folder. A stopped run resumes there, a finished one is loaded.
        force: replace another run, or a damaged one, that `out` holds.
        progress: called with (ablated runs done, in all); True draws a bar where one is watched.

    Warns:
        InterpWarning: tokens without a partner are not resampled; ``result.warnings`` says so, too.
            Or pairs of `reference` cannot be used.

    Raises:
        PlanError: a component that the model does not have; an unknown kind, or one that lacks its
            reference; an unknown readout, or with `out` a function without source.
        DataError: no pair is usable, or one lacks an entity or is not among the candidates.
        RunFolderError: `out` holds another run.
        OutOfMemory: even one row at a time does not fit.

    Source: resampling: Chan et al. 2022 (causal scrubbing), Zhang & Nanda, arXiv 2309.16042;
    mean: Wang et al., arXiv 2211.00593; noise: Meng et al., arXiv 2202.05262.
    """
    if not model.arch.causal:
        raise PlanError(
            f"{model.name} attends in both directions and predicts no next token; use "
            "`interp.attribute` on compiled programs."
        )
    wanted = named_readouts(readouts)
    averaged = [] if reference is None else _prompts(model, reference)
    how, data, chosen = check_kind(kind, averaged), load_pairs(pairs), as_sets(model, sets)
    data = data.rendered(model)

    def measured(steps: Steps) -> AblationResult:
        kept, refused = tokenise(model, data, answers)
        kept, unread = readable(model, kept, n_read(wanted))
        clusters = _clusters([pair.pair for pair in kept], cluster_by)
        kinds: set[ComponentKind] = {c.kind for one in chosen.values() for c in one.components}
        examples = prompts_of(kept)[:EXAMPLES_AT_ONCE]
        norms = write_norms(model, kinds, examples) if match_norms else {}
        plan = controlled(model, chosen, n_random, seed, norms)
        replaced = Replacement(model, how, _layers(model, plan.distinct), averaged, seed)
        read = read_answers(model, kept, wanted, candidates, answers)
        tasks = [_pair_task(replaced, kept, read, wanted)]
        if neutral is not None:
            tasks.append(_text_task(replaced, windows(model, neutral)))
        values, seconds = _run_tasks(model, tasks, plan.distinct, steps, progress)
        return result_of(
            {name: values[name] for name in (*wanted, "nll") if name in values},
            plan,
            [pair.pair.id for pair in kept],
            units={name: metric.unit for name, metric in wanted.items()},
            answers=described((pair.answers for pair in kept), answers),
            clusters=tuple(clusters),
            excluded=(*refused, *unread),
            model=model.name,
            kind=how,
            source=data.source,
            seed=seed,
            seconds=seconds,
            mean_over=tasks[0].replaced.mean_over,
            unpaired=unpaired(kept) if how == "resample" else (),
        )

    if out is None:
        return measured(Steps()).warned()
    names = [metric.identity for metric in wanted.values()]
    options = {"kind": how, "readouts": names, "n_random": n_random, "match_norms": match_norms}
    options |= {"answers": answers, "candidates": candidates, "seed": seed}
    options |= {"neutral": neutral and fingerprint(neutral)}
    members = [[name, *map(str, one.components), *one.among] for name, one in chosen.items()]
    means = [(prompt.ids, prompt.spans) for prompt in averaged]
    given = (members, means, _clusters(data, cluster_by))
    options |= zip(("sets", "reference", "clusters"), map(fingerprint, given), strict=True)
    options |= names_of(data) | identity(model)
    with RunFolder.open(out, "ablate", options, unit="runs", force=force) as run:
        if not run.finished:
            result = measured(run)
            note = {"seed": seed, "weights": model.weights_hash}
            run.finish(lambda at: result.save(at, note))
    return AblationResult.load(out).warned()


def _prompts(model: Model, reference: Prompts) -> list[TokenPrompt]:
    """Reference prompts; of prompt pairs those that fit the model, with a warning of others."""
    if isinstance(reference, PromptPairs):
        kept, refused = tokenise(model, reference)
        warn_of(refused, len(kept))
        return prompts_of(kept)
    return as_prompts(model, reference)


def _clusters(pairs: Sequence[Pair], by: ClusterBy | None) -> list[str]:
    """The entity of each pair; none where every pair stands for itself."""
    if by is None:
        return []
    return [_span(pair, by) if isinstance(by, str) else str(by(pair)) for pair in pairs]


def _span(pair: Pair, name: str) -> str:
    if name not in pair.spans:
        raise DataError(f"{pair.where}: {no_span(name, pair.spans)}")
    start, end = pair.spans[name][0]
    return pair.clean[start:end]


def _layers(model: Model, sets: Sequence[ComponentSet]) -> dict[str, list[int]]:
    """The layers of each site in which some set replaces something."""
    found: dict[str, set[int]] = {}
    for one in sets:
        for kind in one.among:
            found[SITE_OF[kind]] = set(layers_of(model, kind))
        for component in () if one.among else one.components:
            found.setdefault(SITE_OF[component.kind], set()).add(component.layer)
    return {site: sorted(layers) for site, layers in found.items()}


# --- what is run -------------------------------------------------------------------------------


@brief
@dataclass(frozen=True)
class _Task:
    """Examples that run under every set: pairs, or windows of text.

    They are resampled from `counterparts`, each token from its partner in `partners`; `places` are
    the positions at which a replacement can change something. Both count the tokens of `answers`
    behind the prompts, which are the same behind both.
    """

    name: str
    prompts: Sequence[TokenPrompt]
    counterparts: Sequence[TokenPrompt]
    answers: Sequence[tuple[Aliases, ...]]
    first: Sequence[tuple[int, int]]
    partners: Sequence[Partner]
    places: Sequence[Sequence[int]]
    replaced: Replacement
    reader: Callable[[slice, TokenBatch], Read]

    def batch(self, prompts: Sequence[TokenPrompt], some: slice) -> TokenBatch:
        """Some of the prompts or counterparts, with the answers behind them."""
        ids = [prompt.ids for prompt in prompts[some]]
        return laid_out(self.replaced.model, ids, self.answers[some], self.first[some])


def _pair_task(
    replaced: Replacement,
    kept: Sequence[TokenPair],
    answers: Sequence[tuple[Aliases, ...]],
    readouts: Readouts,
) -> _Task:
    prompts, others = prompts_of(kept), prompts_of(kept, "corrupt")
    behind = [len(AnswerTree.of(own).tokens) for own in answers]
    partners = [
        (*pair.partner, *range(len(pair.corrupt), len(pair.corrupt) + n))
        for pair, n in zip(kept, behind, strict=True)
    ]
    # nothing differs between the two prompts before their first different token, and a token
    # without a partner cannot be resampled
    resampled = replaced.kind == "resample"
    places = [
        [i for i, j in enumerate(own) if j is not None and i >= pair.first_difference]
        if resampled
        else range(len(own))
        for pair, own in zip(kept, partners, strict=True)
    ]
    by_position = aligned([*prompts, *replaced.reference])
    own = dataclasses.replace(replaced, by_position=by_position, n_behind=max(behind))
    first = [(pair.answer, pair.wrong_answer) for pair in kept]

    def read(_: slice, tokens: TokenBatch) -> Read:
        return answer_reader(replaced.model, readouts, tokens.answers)

    return _Task("pairs", prompts, others, answers, first, partners, places, own, read)


def _text_task(replaced: Replacement, text: Sequence[TokenPrompt]) -> _Task:
    """Neutral text is its own reference, and each window's counterpart is the next."""
    own, others = dataclasses.replace(replaced, reference=text), [*text[1:], text[0]]
    every = [tuple(range(len(window.ids))) for window in text]
    none = [()] * len(text)

    def read(part: slice, _: TokenBatch) -> Read:
        return text_reader(replaced.model, text[part])

    return _Task("text", text, others, none, [(0, 0)] * len(text), every, every, own, read)


def _run_tasks(
    model: Model,
    tasks: Sequence[_Task],
    sets: Sequence[ComponentSet],
    steps: Steps,
    progress: Progress | bool,
) -> tuple[Columns, float]:
    """Every readout of every example under every set, and the seconds it took."""

    @lru_cache(maxsize=1)
    def rewrites(number: int, lo: int) -> Rewrites:
        """Recorded once for all blocks of sets, and not at all where their shards are there."""
        task, some = tasks[number], slice(lo, lo + EXAMPLES_AT_ONCE)
        tokens, others = task.batch(task.prompts, some), task.batch(task.counterparts, some)
        return task.replaced.of(tokens, others, task.partners[some], lo)

    out: Columns = {}
    seconds, done = 0.0, 0
    total = len(sets) * sum(len(task.prompts) for task in tasks)
    blocks = [
        (number, lo, first)
        for number, task in enumerate(tasks)
        for lo in range(0, len(task.prompts), EXAMPLES_AT_ONCE)
        for first in range(0, len(sets), SETS_AT_ONCE)
    ]
    with reported(progress, "ablating", total, "runs") as report:
        for number, lo, first in blocks:
            task, some = tasks[number], sets[first : first + SETS_AT_ONCE]
            make = partial(_run, model, task, lo, some, partial(rewrites, number, lo))
            arrays = steps.step(f"{task.name}-{lo:06d}-{first:06d}", make, ARRAYS)
            seconds += float(arrays.pop("seconds")[0])
            _fill(out, arrays, (len(task.prompts), len(sets)), lo, first)
            done += len(some) * len(task.prompts[lo : lo + EXAMPLES_AT_ONCE])
            steps.count(done, total)
            report(done, total)
    return out, seconds


def _run(
    model: Model,
    task: _Task,
    lo: int,
    sets: Sequence[ComponentSet],
    rewrites: Callable[[], Rewrites],
) -> dict[str, np.ndarray]:
    """One shard: by readout the unablated and the ablated values, and the seconds it took."""
    started = time.perf_counter()
    some = slice(lo, min(lo + EXAMPLES_AT_ONCE, len(task.prompts)))
    ablated = [one.ablated(model) for one in sets]
    tokens = task.batch(task.prompts, some)
    read = task.reader(some, tokens)
    found = run_sets(model, tokens, task.places[some], ablated, rewrites(), read)
    arrays = {"seconds": np.array([time.perf_counter() - started])}
    for name, (baseline, values) in found.items():
        arrays |= {f"{name}.baseline": baseline, f"{name}.ablated": values}
    return arrays


def _fill(
    out: Columns, arrays: dict[str, np.ndarray], shape: tuple[int, int], lo: int, first: int
) -> None:
    for name in {key.rpartition(".")[0] for key in arrays}:
        baseline, ablated = arrays[f"{name}.baseline"], arrays[f"{name}.ablated"]
        if name not in out:
            out[name] = np.zeros(shape[0]), np.zeros(shape)
        rows, columns = slice(lo, lo + len(ablated)), slice(first, first + ablated.shape[1])
        out[name][0][rows], out[name][1][rows, columns] = baseline, ablated
