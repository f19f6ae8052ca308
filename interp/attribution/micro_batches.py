"""Run micro-batches of pairs through an attribution method, and label what it gives."""

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast, contrasts, usable
from interp.attribution.scores import Scores
from interp.brief import brief
from interp.data.answers import described
from interp.data.pairs import AnswerMode, Excluded, PromptPairs, TokenPair, load_pairs, unpaired
from interp.data.prompts import mixed_positions
from interp.errors import InterpWarning, PlanError
from interp.metrics import AnyMetric, as_metric, refuse_no_gap
from interp.model.graph import Graph
from interp.model.model import Model
from interp.progress import Progress, reported

AnyPairs = PromptPairs | Sequence[Any] | str
Baseline = tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]
"""The metric of the clean and of the corrupt prompts."""
Rows = tuple[xr.DataArray, Baseline]
S = TypeVar("S", bound=Scores)
Scored = tuple[type[S], Callable[[Contrast], Rows], Mapping[str, Sequence[Any]]]
"""The kind of scores, what computes them for a micro-batch, and the names along its axes."""


@brief
@dataclass(frozen=True)
class AttributionRun:
    """Pairs, and what is measured on them."""

    model: Model
    pairs: AnyPairs
    method: str
    metric: AnyMetric
    answers: AnswerMode
    at_once: int | None
    progress: Progress | bool

    def measured(
        self, kind: type[S], rows: Callable[[Contrast], Rows], labels: Mapping[str, Sequence[Any]]
    ) -> S:
        """Label what `rows` gives of micro-batches, other axes by number; still to be `checked`."""
        started = time.perf_counter()
        loaded, chosen = load_pairs(self.pairs), as_metric(self.metric)
        kept, excluded = usable(self.model, loaded, chosen, self.answers)
        parts, baselines, done = [], [], 0
        with reported(self.progress, "attribution", len(kept)) as report:
            for contrast in contrasts(self.model, kept, chosen, self.at_once):
                values, read = rows(contrast)
                parts.append(values)
                baselines.append([x.detach().double().cpu().numpy() for x in read])
                done += len(contrast)
                report(done, len(kept))
        clean, corrupt = (np.concatenate(x) for x in zip(*baselines, strict=True))
        ids = {"pair": [pair.pair.id for pair in kept]}
        values = xr.concat(parts, "pair", join="outer").astype(np.float32)
        axes = {str(axis): list(range(n)) for axis, n in values.sizes.items()}
        axes |= {axis: list(names) for axis, names in labels.items()} | ids
        graph: Graph | None = None
        with contextlib.suppress(PlanError):  # units need no blocks that can be taken apart
            graph = Graph.of(self.model.arch)
        return kind(
            values=values.assign_coords(axes),
            clean=xr.DataArray(clean, dims="pair", coords=ids),
            corrupt=xr.DataArray(corrupt, dims="pair", coords=ids),
            graph_or_none=graph,
            method=self.method,
            metric=chosen.name,
            unit=chosen.unit,
            model=self.model.name,
            weights_hash=self.model.weights_hash,
            source=loaded.source,
            seconds=time.perf_counter() - started,
            **facts(kept, excluded, self.answers, "pos" in values.dims),
        )


def facts(
    pairs: Sequence[TokenPair], excluded: Sequence[Excluded], answers: AnswerMode, by_position: bool
) -> dict[str, Any]:
    """What results record of all pairs together."""
    tokens, roles = [pair.clean for pair in pairs], [pair.roles for pair in pairs]
    texts = [text for pair in pairs for text in (pair.pair.clean, pair.pair.corrupt)]
    return {
        "excluded": tuple(excluded),
        "prompts": tuple(dict.fromkeys(texts)),
        "unpaired": unpaired(pairs),
        "answers": described((pair.answers for pair in pairs), answers),
        "mixed": mixed_positions(tokens, roles) if by_position else "",
    }


def checked(found: S) -> S:
    """Scores of all pairs, with their warnings given; `DegenerateGap` where there is no gap."""
    ids = [str(one) for one in found.values.pair.values]
    refuse_no_gap(found.metric, found.clean.values, found.corrupt.values, ids)
    for text in found.warnings:
        warnings.warn(text, InterpWarning, stacklevel=3)
    return found
