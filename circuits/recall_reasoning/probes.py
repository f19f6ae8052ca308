"""Probes of two-hop recall and copying: knock-out, back-patching, memory heads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from interp.attribution.logit_attribution import direct_logit_attribution
from interp.data.pairs import PromptPairs, tokenise
from interp.data.prompts import prompts_of
from interp.interventions.plan import AnyPlan, KnockOut, Patch
from interp.interventions.recording import activations
from interp.interventions.run import sweep_plans
from interp.model.graph import Graph
from interp.model.model import Model
from interp.statistics import bootstrap_mean, bootstrap_ratio


def knock_out(
    model: Model,
    pairs: PromptPairs,
    window: int = 5,
    span: str = "subject",
    clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Probability of the answer when the last token cannot attend to the subject, by window.

    Nor can the answer's own tokens, from which its others are predicted.

    `window` consecutive layers are blocked, centred on each layer. A row per layer: mean change of
    p(answer) over its mean, with an interval over pairs or clusters (the entity of each pair).

    Source: Geva et al., arXiv 2304.14767, section 4.
    """
    rows, layers = tokenise(model, pairs)[0], range(model.arch.n_layers)
    plans: dict[str, AnyPlan] = {"none": ()}
    for layer in layers:
        first = layer - window // 2
        blocked = tuple(i for i in range(first, first + window) if i in layers)
        plans[str(layer)] = KnockOut(queries="generating", keys=span, layers=blocked)
    p = sweep_plans(model, rows, plans, metric="prob").values
    change = p[:, 1:] - p[:, :1]
    found = bootstrap_ratio(change, p[:, 0], seed, clusters=clusters)._asdict()
    table = pd.DataFrame({"layer": list(layers), **found, "n": len(rows)})
    return table.rename(columns={"value": "change"})


def back_patching(
    model: Model,
    pairs: PromptPairs,
    sources: Sequence[int],
    targets: Sequence[int],
    place: str = "subject_last",
) -> xr.DataArray:
    """Whether greedy decoding writes the answer once a later state is fed back into a lower layer.

    The output of each layer in `sources` replaces that of each in `targets`, at the same token; the
    pairs are best those whose answer the model misses. Dims (pair, source, target): 1 where the
    answer is right, NaN where target >= source; ``unpatched`` says whether it was right before.

    Source: Biran et al., arXiv 2406.12775, section 5.
    """
    rows = tokenise(model, pairs)[0]
    states = activations(model, prompts_of(rows), "resid_post")
    cells = [(s, t) for s in sources for t in targets if t < s]
    plans: dict[str, AnyPlan] = {"none": ()}
    for source, target in cells:
        patch = Patch("resid_post", states[source], layers=target, positions=place)
        plans[f"{source}>{target}"] = patch
    rank = sweep_plans(model, rows, plans, metric="rank").values
    found = np.full((len(rows), len(sources), len(targets)), np.nan)
    for i, (source, target) in enumerate(cells, 1):
        found[:, list(sources).index(source), list(targets).index(target)] = rank[:, i] == 0
    coords: dict[str, Any] = {"pair": [row.pair.id for row in rows]}
    coords |= {"source": list(sources), "target": list(targets)}
    coords["unpatched"] = ("pair", rank[:, 0] == 0)
    return xr.DataArray(found, coords, ("pair", "source", "target"), "right")


def memory_heads(
    model: Model,
    conflict: PromptPairs,
    stored: Mapping[str, str],
    clusters: Mapping[str, str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Heads that promote the stored answer and heads that promote the stated one.

    The prompts state another answer (cell C-conflict) than `stored`, by id of the pair. A row per
    head: its direct effect on logit(stored) - logit(stated), in logits, mean over pairs with its
    interval over pairs, or over `clusters` (the entity by id of the pair, such as `Data.bridge`);
    memory heads are positive, in-context heads negative. A direct effect is along one direction, so
    pairs with an answer of several tokens are left out; `DataError` where all are.

    Source: Yu, Merullo & Pavlick, arXiv 2310.15910, section 4.
    """
    records = [
        {**vars(pair), "answer": stored[pair.id], "wrong_answer": pair.answer}
        for pair in conflict
        if stored.get(pair.id, pair.answer) != pair.answer
    ]
    rows = tokenise(model, PromptPairs.from_records(records, conflict.source), "single")[0]
    effects = direct_logit_attribution(model, rows).nodes.double().cpu().numpy()
    sources = Graph.of(model.arch).sources
    heads = {i: name for i, name in enumerate(sources) if name.startswith("a")}
    of = None if clusters is None else [clusters[row.pair.id] for row in rows]
    found = bootstrap_mean(effects[:, list(heads)], seed, clusters=of)._asdict()
    table = pd.DataFrame({"head": list(heads.values()), **found, "n": len(rows)})
    table = table.rename(columns={"value": "effect"})
    return table.sort_values("effect", ascending=False, kind="stable", ignore_index=True)
