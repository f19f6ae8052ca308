"""Ablation: replace components by what carries no information, and read what is lost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp.ablation.readouts import named_readouts
from interp.ablation.result import AblationResult
from interp.ablation.running import ClusterBy, Request, measured, measured_into
from interp.ablation.values import check_kind
from interp.data.pairs import PromptPairs, load_pairs, tokenise
from interp.data.prompts import Prompts, TokenPrompt, as_prompts, prompts_of
from interp.errors import PlanError
from interp.metrics import AnyMetric
from interp.model.components import Components, ComponentSet, Sets, as_sets
from interp.model.model import Model
from interp.progress import Progress
from interp.results.steps import Steps


def ablate(
    model: Model,
    pairs: PromptPairs | Sequence[Any] | str,
    sets: Components | ComponentSet | Sets,
    kind: str = "resample",
    *,
    readouts: Sequence[AnyMetric] = ("logit_diff", "accuracy"),
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

    A component is replaced at every token. Values are exact: each equals a separate forward
    pass with hooks.

    Args:
        model: from `interp.load_model`.
        pairs: `PromptPairs`, or anything `load_pairs` takes.
        sets: one set, as names (``"a3.h1,m5"`` or a list), a table or an array of scores; or
            named sets, such as `singles`, `cumulative` and `all_but` make.
        kind: ``"resample"``: the activation on the pair's corrupt prompt; ``"mean"``: over
            `reference`, at each position if all prompts have one length and their spans at the
            same positions, else over all tokens; ``"zero"``; ``"noise"``: Gaussian noise of 3
            standard deviations of the site's activations is added.
        readouts: names in `METRICS`, ``"accuracy"`` among `candidates`, ``"vocab_accuracy"``, or
            functions of the logits, as `interp.patch` takes them.
        candidates: answers of one token; by default all answers and wrong answers of the pairs.
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

    Raises:
        PlanError: a component that the model does not have.
        DataError: no pair is usable, or one lacks an entity or is not among the candidates.
        PlanError: an unknown readout, or a function together with `out`.
        PlanError: an unknown kind, or one that lacks its reference.
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
    names, functions = named_readouts(readouts)
    if functions and out is not None:
        raise PlanError(
            f"the readout function {next(iter(functions))!r} is known by its name only, so a run "
            "folder could not tell whether it is the same when it resumes; leave `out` away and "
            "save the result."
        )
    averaged = [] if reference is None else _prompts(model, reference)
    request = Request(
        model=model,
        pairs=load_pairs(pairs),
        sets=as_sets(model, sets),
        kind=check_kind(kind, averaged),
        readouts=names,
        functions=functions,
        candidates=None if candidates is None else tuple(candidates),
        reference=averaged,
        neutral=neutral,
        n_random=n_random,
        match_norms=match_norms,
        cluster_by=cluster_by,
        seed=seed,
    )
    if out is None:
        return measured(request, Steps(), progress)
    return measured_into(Path(out), request, progress, force)


def _prompts(model: Model, reference: Prompts) -> list[TokenPrompt]:
    """Reference prompts; of prompt pairs those that fit the model."""
    if isinstance(reference, PromptPairs):
        return prompts_of(tokenise(model, reference)[0])
    return as_prompts(model, reference)
