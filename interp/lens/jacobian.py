"""The Jacobian lens: the mean linear effect of the residual stream at a layer on the last layer's.

    J_d = E[ sum over p' >= p of d h_final[p'] / d h_d[p] ]        [d_model, d_model]

The expectation is over texts and source positions p, the sum over the current and all later
positions. The lens reads J_d h as if it were the final stream: ``interp.logit_lens(…, jacobian=)``.

Source: Gurnee, Sofroniew, Lindsey et al. 2026, "Verbalizable Representations Form a Global
Workspace in Language Models"; the estimator and the 16 positions left out are those of its
reference implementation, github.com/anthropics/jacobian-lens.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.data.prompts import whole_numbers
from interp.errors import DataError, ModelError, PlanError
from interp.forward.budget import check_memory, default_budget
from interp.forward.hooks import hooked
from interp.forward.layer_calls import positions_and_mask
from interp.model.model import Model
from interp.model.sites import SITES
from interp.progress import Progress, reported
from interp.results.report import Report, Section, Table
from interp.results.result import Result
from interp.results.run_folder import fingerprint, identity, in_one_piece

IN_GRAPH = 4
"""A batch whose graph is held has so many times fewer tokens than one that is only run."""


@dataclass(frozen=True)
class JacobianLens(Result):
    """Fitted maps from the residual stream at some depths to the last layer's.

    Attributes:
        jacobians: the maps, fp32; of the vector ``h`` at ``depths[i]``, ``jacobians[i] @ h``.
        depths: how many layers come before each; depth n_layers is the identity and not stored.
        error: per depth, the standard error over passages: the root of the summed squared
            standard errors of all entries, as a part of the map's Frobenius norm. NaN of one
            passage.
        weights, config: hashes of the weights and the config it was fitted on.
        n_passages: passages of text.
        n_tokens: tokens in them, of which each passage's first `skip` were left out.
        tokens_left_out: tokens of the texts at ends too short for a passage.
        backward_passes: of one passage each: d_model per passage.
    """

    KIND: ClassVar[str] = "jacobian lens"
    jacobians: Tensor = field(repr=False)
    depths: tuple[int, ...]
    error: np.ndarray = field(repr=False)
    model: str
    weights: str
    config: str
    n_passages: int
    n_tokens: int
    tokens_left_out: int
    skip: int
    backward_passes: int
    seconds: float

    def checked(self, model: Model) -> tuple[int, ...]:
        """The depths, for the model it was fitted on; `PlanError` for any other."""
        if not {("weights", self.weights), ("config", self.config)} <= identity(model).items():
            raise PlanError(
                f"this Jacobian lens was fitted on other weights or another config (of "
                f"{self.model}) than {model.name} has now; fit one with interp.jacobian_lens."
            )
        return self.depths

    def transported(
        self, depth: int, stream: Float[Tensor, "*any d_model"]
    ) -> Float[Tensor, "*any d_model"]:
        """The stream at a depth mapped to the last layer: computed in fp32, in its own dtype."""
        return (stream.float() @ self.jacobians[self.depths.index(depth)].T).to(stream.dtype)

    @property
    def table(self) -> pd.DataFrame:
        """A row per depth: Frobenius norm over that of the identity, and `error`."""
        size = self.jacobians.flatten(1).norm(dim=1) / self.jacobians.shape[1] ** 0.5
        columns = {"depth": list(self.depths), "norm": size.numpy(), "standard_error": self.error}
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        return (
            f"JacobianLens({self.model}: {len(self.depths)} depths, {self.n_passages} passages of "
            f"{self.n_tokens} tokens, {self.backward_passes} backward passes, {self.seconds:.0f} s)"
        )

    def report(self) -> Report:
        """How well the maps are known, and what they cost."""
        note = "Norm: Frobenius, over the identity's. Standard error: as a part of the norm."
        worst = np.nanmax(self.error) if self.n_passages > 1 else float("nan")
        return Report(
            title=f"Jacobian lens of {self.model}",
            lead=f"{self.n_passages} passages, {self.n_tokens} tokens; the standard error is at "
            f"most {worst:.2f} of a map's norm.",
            sections=[Section("Maps by depth", [Table("Depths", self.table, note)])],
            method=(
                "Each map is the mean over passages and positions of the exact Jacobian of the "
                "last layer's residual stream, at the current and all later positions together, "
                f"in {self.backward_passes} backward passes ({self.seconds:.0f} s). The first "
                f"{self.skip} positions of each passage are left out, and {self.tokens_left_out} "
                "tokens at the ends of texts.",
            ),
            provenance=self.provenance,
        )


def jacobian_lens(
    model: Model,
    texts: str | Sequence[str],
    depths: Sequence[int] | None = None,
    *,
    n_tokens: int = 128,
    skip: int = 16,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | bool = True,
) -> JacobianLens:
    """Fit the Jacobian lens of a model on text: d_model backward passes per passage, exactly.

    What is estimated is the expectation over text; its standard error is part of the result. A
    pass goes from the last layer down to the lowest depth, so fewer depths are cheaper only where
    the lowest ones are left out. Memory: a graph over a quarter of a batch's tokens, and twice
    the maps (depths x d_model x d_model, fp32).

    Args:
        model: the model.
        texts: cut into passages, each begun by the special tokens that the tokenizer begins with.
        depths: how many layers come before the stream that is read, 0 to n_layers - 1; by default
            all.
        n_tokens: most tokens per passage.
        skip: first positions of each passage that are left out, as sources and as targets:
            attention sinks, whose streams are unlike all others.
        out: a run folder to keep it in; read back from there if it is finished.
        force: replace another run that `out` holds.
        progress: called with (backward batches done, in all); True draws a bar.

    Raises:
        PlanError: a depth that the model does not have, or no positions are left.
        DataError: no text is longer than `skip` tokens.
        ModelError: no gradient flows, as through quantised kernels without a backward pass.
        RunFolderError: `out` holds another run.
    """
    every = range(model.arch.n_layers)
    chosen = tuple(every) if depths is None else tuple(sorted({*whole_numbers(depths, "depths")}))
    model.check_layers(chosen)
    if not 0 <= skip < n_tokens:
        raise PlanError(f"skip={skip} of n_tokens={n_tokens} leaves no position; give fewer.")
    passages = _passages(model, [texts] if isinstance(texts, str) else texts, n_tokens)
    used = [passage for passage in passages if len(passage) > skip]
    left_out = sum(map(len, passages)) - sum(map(len, used))
    if not used:
        raise DataError(f"no text is longer than {skip} tokens; give longer texts.")
    named = {"texts": fingerprint(used), "depths": chosen, "skip": skip} | identity(model)

    def fit() -> JacobianLens:
        return _fitted(model, used, left_out, chosen, skip, progress)

    return in_one_piece(out, "jacobian-lens", named, fit, JacobianLens, force)


def _passages(model: Model, texts: Sequence[str], n_tokens: int) -> list[tuple[int, ...]]:
    """Texts in passages of at most so many tokens, each begun as the tokenizer begins a text."""
    begin = tuple(model.encode(""))
    found: list[tuple[int, ...]] = []
    for text in texts:
        ids = tuple(model.encode(text))
        first = begin if ids[: len(begin)] == begin else ()
        body, step = ids[len(first) :], n_tokens - len(first)
        found += [first + body[at : at + step] for at in range(0, len(body), max(1, step))]
    return found


def _fitted(
    model: Model,
    passages: Sequence[tuple[int, ...]],
    left_out: int,
    depths: tuple[int, ...],
    skip: int,
    progress: Progress | bool,
) -> JacobianLens:
    """Mean and standard error over passages."""
    started, d, n = time.perf_counter(), model.arch.d_model, len(passages)
    check_memory(3 * 4 * len(depths) * d * d, "the Jacobians")
    total, squares = (torch.zeros(len(depths), d, d) for _ in range(2))
    with reported(progress, "Jacobian lens", n * d, "backward passes") as report:
        for i, ids in enumerate(passages):
            one = _jacobians(model, ids, depths, skip, lambda k, i=i: report(i * d + k, n * d))
            total += one
            squares += one.square_()
    mean = total / n
    variance = (squares / n - mean.square()).clamp(min=0).flatten(1).sum(1) / max(1, n - 1)
    error = variance.sqrt() / mean.flatten(1).norm(dim=1)
    return JacobianLens(
        jacobians=mean,
        depths=depths,
        error=np.full(len(depths), np.nan) if n == 1 else error.double().numpy(),
        model=model.name,
        weights=identity(model)["weights"],
        config=identity(model)["config"],
        n_passages=n,
        n_tokens=sum(map(len, passages)),
        tokens_left_out=left_out,
        skip=skip,
        backward_passes=n * d,
        seconds=time.perf_counter() - started,
    )


def _jacobians(
    model: Model,
    ids: Sequence[int],
    depths: tuple[int, ...],
    skip: int,
    report: Callable[[int], None],
) -> Float[Tensor, "depth d_model d_model"]:
    """The maps of one passage, exactly: copies of it, one per feature of the last stream.

    In each copy one feature is read at all positions at once, so its gradient at a position is
    the sum over later ones.
    """
    d, last = model.arch.d_model, model.arch.n_layers - 1
    rows = max(1, min(d, default_budget(model) // IN_GRAPH // len(ids)))
    batch = torch.tensor([list(ids)] * rows, device=model.device)
    streams: list[Tensor] = []

    def begin(stream: Tensor) -> None:
        if not stream.requires_grad:
            stream.requires_grad_(True)
        streams.append(stream)

    places = [(SITES["resid_pre"], depth, begin) for depth in depths]
    places.append((SITES["resid_post"], last, begin))
    with torch.enable_grad(), hooked(model, places):
        mask = positions_and_mask(model, torch.ones_like(batch, dtype=torch.bool))
        model.body(input_ids=batch, use_cache=False, **mask)
        *sources, final = streams
    out = torch.zeros(len(depths), d, d)
    for start in range(0, d, rows):
        features = torch.arange(start, min(start + rows, d))
        read = torch.zeros_like(final)
        read[torch.arange(len(features)), skip:, features] = 1
        try:
            slopes = torch.autograd.grad(final, sources, read, retain_graph=True)
        except RuntimeError as error:
            raise ModelError(
                f"no gradient flows through {model.name} from its last layer to layer {depths[0]} "
                f"({error}); load it in float32, without quantisation."
            ) from error
        for own, slope in zip(out, slopes, strict=True):
            own[features] = slope[: len(features), skip:].float().mean(1).cpu()
        report(int(features[-1]) + 1)
    return out
