"""What two-hop recall and copying are known by: read-out of the bridge, knock-out, back-patching.

- `bridge_readout`: is the bridge read out where it is only described? (arXiv 2402.16837)
- `knock_out`: in which layers must the last token see the subject? (arXiv 2304.14767)
- `back_patching`: does a later state, fed back, mend a failed answer? (arXiv 2406.12775)
- `memory_heads`: which heads promote the stored answer, which the stated one? (arXiv 2310.15910)
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float

from interp.attribution import direct_logit_attribution
from interp.data.pairs import PromptPairs, single_token, tokenise
from interp.data.prompts import TokenPrompt, prompts_of
from interp.errors import DataError
from interp.interventions.plan import AnyPlan, KnockOut, Patch
from interp.interventions.recording import activations
from interp.interventions.run import sweep_plans
from interp.model.graph import Graph
from interp.model.model import Model
from interp.statistics import bootstrap_mean


def bridge_readout(
    model: Model, pairs: PromptPairs, bridge: Mapping[str, str], span: str = "subject"
) -> xr.DataArray:
    """Log p(bridge) by the logit lens, at the last token of the descriptive mention, by layer.

    Args:
        model: the model.
        pairs: two-hop prompts; their counterparts name another entity in the same words.
        bridge: id of a pair -> the bridge of its clean prompt.
        span: the mention.

    Returns:
        Dims (pair, layer, prompt), prompt ``clean`` or ``corrupt``: the read-out is evidence of
        a first hop where it is higher on clean prompts in more than half of the pairs. Pairs
        whose bridge is no single token are left out.

    Raises:
        DataError: no pair's bridge is a single token.
    """
    kept, _ = tokenise(model, pairs)
    usable: list[tuple[int, int]] = []
    for i, pair in enumerate(kept):
        try:
            token = single_token(
                model, pair.pair.clean, list(pair.clean), bridge[pair.pair.id], "bridge"
            )
        except DataError:  # of several tokens: its first one would say little
            continue
        usable.append((i, token))
    if not usable:
        raise DataError(f"no bridge of the {len(kept)} pairs is a single token of {model.name}.")
    rows = [kept[i] for i, _ in usable]
    tokens = torch.tensor([token for _, token in usable])
    place = f"{span}_last"
    values = [_lens(model, prompts_of(rows, side), place, tokens) for side in ("clean", "corrupt")]
    coords = {
        "pair": [row.pair.id for row in rows],
        "layer": range(model.arch.n_layers),
        "prompt": ["clean", "corrupt"],
    }
    return xr.DataArray(np.stack(values, -1), coords, ("pair", "layer", "prompt"), "log_p_bridge")


def _lens(
    model: Model, prompts: Sequence[TokenPrompt], place: str, tokens: torch.Tensor
) -> Float[np.ndarray, "prompt layer"]:
    columns: list[np.ndarray] = []
    for state in activations(model, prompts, "resid_post", at=place).values():
        log_p = model.logits(state.to(model.dtype)).log_softmax(-1).cpu()
        columns.append(log_p.gather(1, tokens[:, None])[:, 0].numpy())
    return np.stack(columns, 1)


def readout_table(values: xr.DataArray, clusters: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """By layer: how often the bridge is likelier on clean than on corrupt prompts."""
    higher = (values.sel(prompt="clean") > values.sel(prompt="corrupt")).values.astype(float)
    share = bootstrap_mean(higher, seed, clusters=clusters)
    return pd.DataFrame(
        {
            "layer": values["layer"].values,
            "higher": share.value,
            "low": share.low,
            "high": share.high,
            "log_p": values.sel(prompt="clean").mean("pair").values,
            "n": len(higher),
        }
    )


def knock_out(
    model: Model,
    pairs: PromptPairs,
    window: int = 5,
    span: str = "subject",
    clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Probability of the answer when the last token cannot attend to the subject, by window.

    Args:
        model: with sdpa or eager attention.
        pairs: the prompts.
        window: consecutive layers that are blocked, centred on each layer.
        span: what the last token must not see.
        clusters: entity of each pair, for the intervals.
        seed: of the bootstrap.

    Returns:
        A row a layer: relative change of p(answer), with its interval over pairs or clusters.

    Source: Geva et al., arXiv 2304.14767, section 4.
    """
    kept, _ = tokenise(model, pairs)
    half = window // 2
    layers = range(model.arch.n_layers)
    plans: dict[str, AnyPlan] = {"none": ()}
    for layer in layers:
        blocked = tuple(i for i in range(layer - half, layer - half + window) if i in layers)
        plans[str(layer)] = KnockOut(queries="last", keys=span, layers=blocked)
    p = sweep_plans(model, kept, plans, metric="prob").values
    change = (p[:, 1:] - p[:, :1]) / p[:, :1].mean()
    found = bootstrap_mean(change, seed, clusters=clusters)
    return pd.DataFrame(
        {
            "layer": list(layers),
            "change": found.value,
            "low": found.low,
            "high": found.high,
            "n": len(kept),
        }
    )


def back_patching(
    model: Model,
    pairs: PromptPairs,
    sources: Sequence[int],
    targets: Sequence[int],
    place: str = "subject_last",
) -> xr.DataArray:
    """Whether the answer leads the vocabulary once a later state is fed back into an earlier layer.

    Args:
        model: the model.
        pairs: the prompts; best those whose answer the model misses.
        sources: layers whose output is taken.
        targets: layers whose output it replaces, at the same token; those at or above the
            source are left out.
        place: which token.

    Returns:
        Dims (pair, source, target): 1 where the answer is right, NaN where target >= source;
        coordinate ``unpatched`` says whether it was right before.

    Source: Biran et al., arXiv 2406.12775, section 5.
    """
    kept, _ = tokenise(model, pairs)
    prompts = prompts_of(kept)
    states = activations(model, prompts, "resid_post")
    cells = [(s, t) for s in sources for t in targets if t < s]
    plans: dict[str, AnyPlan] = {"none": ()}
    for source, target in cells:
        plans[f"{source}>{target}"] = Patch(
            "resid_post", states[source], layers=target, positions=place
        )
    rank = sweep_plans(model, kept, plans, metric="rank").values
    found = np.full((len(kept), len(sources), len(targets)), np.nan)
    for i, (source, target) in enumerate(cells, 1):
        found[:, list(sources).index(source), list(targets).index(target)] = rank[:, i] == 0
    coords = {
        "pair": [pair.pair.id for pair in kept],
        "source": list(sources),
        "target": list(targets),
        "unpatched": ("pair", rank[:, 0] == 0),
    }
    return xr.DataArray(found, coords, ("pair", "source", "target"), "right")


def memory_heads(
    model: Model, conflict: PromptPairs, stored: Mapping[str, str], seed: int = 0
) -> pd.DataFrame:
    """Heads that promote the stored answer and heads that promote the stated one.

    Args:
        model: the model.
        conflict: prompts that state another answer than the stored one (cell C-conflict).
        stored: id of a pair -> the stored answer.
        seed: of the bootstrap.

    Returns:
        A row a head: its direct effect on logit(stored) - logit(stated), in logits, mean over pairs
        with its interval; memory heads are positive, in-context heads negative.

    Raises:
        DataError: no stored answer is a single token.

    Source: Yu, Merullo & Pavlick, arXiv 2310.15910, section 4.
    """
    rows = [
        {
            "id": pair.id,
            "clean": pair.clean,
            "corrupt": pair.corrupt,
            "answer": stored[pair.id],
            "wrong_answer": pair.answer,
        }
        for pair in conflict
        if pair.id in stored and stored[pair.id] != pair.answer
    ]
    kept, _ = tokenise(model, PromptPairs.from_records(rows, conflict.source))
    effects = direct_logit_attribution(model, kept).nodes.double().cpu().numpy()
    names = list(Graph.of(model.arch).sources)
    heads = [i for i, name in enumerate(names) if name.startswith("a")]
    found = bootstrap_mean(effects[:, heads], seed)
    table = pd.DataFrame(
        {
            "head": [names[i] for i in heads],
            "effect": found.value,
            "low": found.low,
            "high": found.high,
            "n": len(kept),
        }
    )
    return table.sort_values("effect", ascending=False, ignore_index=True)
