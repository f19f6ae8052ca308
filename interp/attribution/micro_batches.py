"""Run micro-batches of pairs through an attribution method, and label what it gives."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.attribution.contrast import Contrast, batched, contrast_of, usable
from interp.attribution.scores import Scores
from interp.brief import brief
from interp.data.answers import described
from interp.data.pairs import AnswerMode, PromptPairs, TokenPair, load_pairs, unpaired
from interp.data.prompts import mixed_positions
from interp.errors import PlanError
from interp.metrics import AnyMetric, as_metric, refuse_no_gap
from interp.model.graph import Graph
from interp.model.model import Model
from interp.progress import Progress, reported
from interp.results.run_folder import Steps

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
    run: Steps = Steps()

    def measured(
        self, kind: type[S], rows: Callable[[Contrast], Rows], labels: Mapping[str, Sequence[Any]]
    ) -> S:
        """Run micro-batches through `rows`, and label the scores; other axes are numbered."""
        loaded, chosen = load_pairs(self.pairs), as_metric(self.metric)
        kept, excluded = usable(self.model, loaded, chosen, self.answers)
        parts, done = list[dict[str, xr.DataArray]](), 0
        with reported(self.progress, "attribution", len(kept)) as report:
            for some in batched(kept, self.at_once):
                make = partial(self._part, rows, some)
                parts.append(self.run.step(f"{done:06d}", make, dict[str, xr.DataArray]))
                done += len(some)
                self.run.count(done, len(kept))
                report(done, len(kept))
        ids = {"pair": [pair.pair.id for pair in kept]}
        # a position axis is as long as the longest prompt's
        values, clean, corrupt, seconds = (
            xr.concat([part[name] for part in parts], "pair", join="outer").assign_coords(ids)
            for name in ("values", "clean", "corrupt", "seconds")
        )
        refuse_no_gap(chosen, clean.values, corrupt.values, ids["pair"])
        axes = {str(axis): list(range(n)) for axis, n in values.sizes.items()}
        axes |= {axis: list(names) for axis, names in labels.items()} | ids
        graph: Graph | None = None
        with contextlib.suppress(PlanError):  # units need no blocks that can be taken apart
            graph = Graph.of(self.model.arch)
        texts = [text for p in kept for text in (p.pair.clean, p.pair.corrupt)]
        mixed = mixed_positions([pair.clean for pair in kept], [pair.roles for pair in kept])
        found = kind(
            values=values.assign_coords(axes),
            clean=clean,
            corrupt=corrupt,
            graph_or_none=graph,
            method=self.method,
            metric=chosen.name,
            unit=chosen.unit,
            model=self.model.name,
            weights_hash=self.model.weights_hash,
            source=loaded.source,
            excluded=tuple(excluded),
            prompts=tuple(dict.fromkeys(texts)),
            seconds=float(seconds.sum()),
            unpaired=unpaired(kept),
            answers=described((pair.answers for pair in kept), self.answers),
            mixed=mixed if "pos" in values.dims else "",
            provenance={"dtype": str(self.model.dtype)},
        )
        return found.warned(3)

    def _part(
        self, rows: Callable[[Contrast], Rows], pairs: Sequence[TokenPair]
    ) -> dict[str, xr.DataArray]:
        """One micro-batch: its scores, the metric of its prompts, and the seconds it took."""
        started = time.perf_counter()
        values, read = rows(contrast_of(self.model, pairs, self.metric))
        clean, corrupt = (x.detach().double().cpu().numpy() for x in read)
        seconds = np.full(len(pairs), (time.perf_counter() - started) / len(pairs))
        each = {"clean": clean, "corrupt": corrupt, "seconds": seconds}
        found = {name: xr.DataArray(x, dims="pair") for name, x in each.items()}
        return found | {"values": values.astype(np.float32)}
