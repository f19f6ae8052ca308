"""The probe of recall: what the answer loses where attention to the subject is knocked out."""

from collections.abc import Sequence

import pandas as pd

from interp.data.pairs import PromptPairs, tokenise
from interp.interventions.plan import AnyPlan, KnockOut
from interp.interventions.run import sweep_plans
from interp.model.model import Model
from interp.statistics import bootstrap_ratio


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
