"""Norm-anchor scaling: solved value vectors are as long as on the model without any edit.

Each edit makes what a projection writes longer, and the next search, whose bounds are in units of
what is written now, finds longer vectors still. So every v* = v0 + delta, with v0 what the FFN
writes at the anchor, becomes n v* / ||v*||, with n the mean of ||v*|| over facts that have nothing
to do with the edit, searched on the original weights, the longest twentieth left out.

Source: arXiv 2602.02543 and its code, which takes 1,000 facts of CounterFact, and does not write at
all where ||v*|| > 2 n; here they are `N_FACTS` of the shipped ``country_facts``, and every fact is
written.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.editing.change import Changes
from circuits.editing.edit import ledger
from circuits.editing.fact import SLOT, Fact
from circuits.editing.fact_prompts import EditPrompt, edit_prompts, essence_prompt
from circuits.editing.keys import outputs_at
from circuits.editing.methods import Stage
from circuits.editing.targets import FactPrompts, Targets, search_places, search_targets
from interp.data.pairs import load_pairs
from interp.errors import DataError, PlanError
from interp.loading.builtin import cache_dir
from interp.model.model import Model
from interp.results.folder import write_text

N_FACTS = 32
KEPT = 0.95
"""Part of the norms, from the shortest on, that the mean is taken over."""


def anchored(
    model: Model,
    targets: Targets,
    stage: Stage,
    norm: float,
    first: Sequence[EditPrompt],
    edits: Sequence[Changes],
    owner: Int[Tensor, " fact"],
) -> Targets:
    """Targets whose value vectors have a length, `norm`; `first` are the facts' first prompts.

    Their `p` is still that of the vectors found. Raises `PlanError` where several vectors are
    searched jointly.
    """
    v0 = _written(model, targets, stage, first, edits, owner)
    value = v0 + targets.delta[:, 0]
    delta = norm * value / value.norm(dim=1, keepdim=True) - v0
    return Targets(delta[:, None], targets.initial, targets.p, targets.steps)


def value_norm(
    model: Model, stage: Stage, facts: Sequence[Fact] | None = None, cache: Path | None = None
) -> float:
    """The mean norm that a stage's value vectors have on the original weights.

    Edits that the model carries are taken out for the time. The facts are by default shipped ones;
    those whose subject or target has no tokens of its own are left out. The figure is stored in
    `cache`, by default the package's.

    Raises:
        DataError: no fact has tokens of its own.
        PlanError: several vectors are searched jointly.
    """
    facts = _shipped() if facts is None else facts
    key = repr((stage.layers, stage.anchor, stage.target, stage.spread, stage.search, facts))
    name = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    file = (cache or cache_dir() / "value_norms") / ledger(model).base / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):  # none, or damaged: made anew
        return float(json.loads(file.read_text(encoding="utf-8")))
    prompts = [found for fact in facts if (found := _prompts(model, fact, stage))]
    if not prompts:
        raise DataError(
            f"none of the {len(facts)} facts that value vectors are measured on has tokens of its "
            f"own for {model.name}; give value_norm= of a Stage, or take another method."
        )
    owner = torch.zeros(len(prompts), dtype=torch.long)
    places = search_places(model, stage)
    first = [one.learn[0] for one in prompts]
    with ledger(model).suspended(model):
        found = search_targets(model, prompts, places, stage.search, [()], owner)
        value = _written(model, found, stage, first, [()], owner) + found.delta[:, 0]
    norms = value.norm(dim=1).sort().values
    mean = float(norms[: max(1, round(KEPT * len(norms)))].double().mean())
    write_text(file, json.dumps(mean))
    return mean


def _written(
    model: Model,
    targets: Targets,
    stage: Stage,
    first: Sequence[EditPrompt],
    edits: Sequence[Changes],
    owner: Int[Tensor, " fact"],
) -> Float[Tensor, "fact d_model"]:
    """v0: what the last layer's FFN writes at the anchor; targets may lie on the layer's output."""
    places = search_places(model, stage)
    if len(places) > 1:
        raise PlanError(
            f"{len(places)} vectors are searched jointly, which are not one value vector of an "
            "FFN; leave value_norm out, or search at one place."
        )
    if places[0][0] == "mlp_post":
        return targets.initial[:, 0]
    return outputs_at(model, first, ("mlp_post", stage.layers[-1]), edits, owner)


def _shipped() -> list[Fact]:
    """Some of the shipped facts, evenly spread, each with its row's wrong answer as the target."""
    pairs = load_pairs("country_facts")
    chosen = [pairs[i * len(pairs) // N_FACTS] for i in range(N_FACTS)]
    facts: list[Fact] = []
    for pair in chosen:
        start, end = pair.spans["subject"][0]
        prompt = pair.clean[:start] + SLOT + pair.clean[end:]
        facts.append(Fact(prompt, pair.clean[start:end], pair.wrong_answer))
    return facts


def _prompts(model: Model, fact: Fact, stage: Stage) -> FactPrompts | None:
    """A fact's bare cloze; `None` where it has no tokens of its own."""
    try:
        learn = edit_prompts(model, fact, "cloze", stage.anchor)
        return FactPrompts(tuple(learn), essence_prompt(model, fact.subject, stage.anchor))
    except DataError:
        return None
