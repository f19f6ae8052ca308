"""The logit lens: what the residual stream would predict after each layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.data.pairs import TokenPair, answer_tokens
from interp.data.prompts import Positions, Prompts, as_prompts, listed, pairs_of
from interp.errors import PlanError
from interp.forward.readout import LOGITS_AT_ONCE
from interp.interventions.plan import AnyPlan, as_plan
from interp.interventions.recording import places_of, recorded
from interp.model.model import Model
from interp.model.sites import SITES

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class LogitLens:
    """What was read off the residual stream at every depth; depth d is after d layers.

    Attributes:
        top: dims (prompt, depth, pos, rank): variables ``token`` (text), ``token_id`` and
            ``probability`` of the likeliest next tokens; empty, -1 and NaN beyond a prompt's last
            token. ``position`` (prompt, pos) is the number of the token in its prompt.
        answers: of pairs, dims (pair, depth, answer): log p of both answers at the last token.
        tokens: all tokens of each prompt, as text.
    """

    top: xr.Dataset
    answers: xr.DataArray | None
    tokens: tuple[tuple[str, ...], ...]
    model: str

    def table(self, prompt: int = 0) -> pd.DataFrame:
        """One row per depth, position and rank of a prompt: predicted token and probability."""
        one = self.top.isel(prompt=prompt)
        real = one.isel(pos=(one["position"] >= 0).values)
        frame: pd.DataFrame = real[["token", "probability"]].to_dataframe().reset_index()
        frame["pos"] = frame.pop("position")
        frame["after"] = [self.tokens[prompt][p] for p in frame["pos"]]
        frame = frame.rename(columns={"token": "predicted"})
        columns = ["depth", "pos", "after", "rank", "predicted", "probability"]
        return frame.reindex(columns=columns)

    def plot(self, prompt: int = 0) -> "go.Figure":
        """A heatmap of a prompt: the likeliest token per depth and position."""
        from interp.results.token_figures import plot_lens

        return plot_lens(self.table(prompt), self.model)

    def __repr__(self) -> str:
        n = self.top.sizes
        pairs = "" if self.answers is None else f"; answers of {len(self.answers)} pairs"
        return (
            f"LogitLens({self.model}: {n['prompt']} prompts x {n['depth']} depths x {n['pos']} "
            f"positions, top {n['rank']}{pairs})"
        )

    def _repr_html_(self) -> str:
        from interp.results.token_figures import lens_html

        texts = enumerate("".join(own) for own in self.tokens)
        return lens_html(repr(self), {text: self.table(i) for i, text in texts})


def logit_lens(
    model: Model,
    prompts: Prompts,
    top: int = 5,
    *,
    at: Positions = "all",
    plan: AnyPlan = (),
    answers: Literal["single", "first"] = "single",
) -> LogitLens:
    """Read the residual stream at every depth as if it were the last: final norm, then unembedding.

    Depth 0 is the embedding, depth n_layers the model's own prediction. The stream and both steps
    have the model's dtype, the softmax fp32. Of pairs, the clean prompts run, and both answers are
    read: one token each, or with ``answers="first"`` the first token alone. `top` is how many of
    the likeliest tokens to keep; `at` and `plan` are as in `interp.activations`.

    Raises:
        PlanError: `top` or `at` names no such token, or the plan cannot be carried out.
        DataError: prompts or pairs that cannot be used, such as answers of several tokens.

    Source: nostalgebraist 2020.
    """
    vocabulary = model.n_vocab
    if not 1 <= top <= vocabulary:
        raise PlanError(f"top={top}: ask for 1 to {vocabulary} tokens.")
    given = listed(prompts)
    rows, pairs = as_prompts(model, given), pairs_of(model, given, answers)
    places = places_of(rows, at)
    # pairs' answers are read at the last token, which goes behind the others
    ends = [() if pairs is None else (len(row.ids) - 1,) for row in rows]
    wanted = [(*own, *end) for own, end in zip(places, ends, strict=True)]
    n_layers = model.arch.n_layers
    points = [(SITES["resid_pre"], layer) for layer in range(n_layers)]
    points.append((SITES["resid_post"], n_layers - 1))
    streams = torch.stack(recorded(model, rows, points, wanted, as_plan(plan)), 1)
    return LogitLens(
        top=_top(model, streams, places, top),
        answers=None if pairs is None else _answers(model, streams, places, pairs),
        tokens=tuple(tuple(model.token(t) for t in row.ids) for row in rows),
        model=model.name,
    )


def _top(
    model: Model,
    streams: Float[Tensor, "prompt depth pos d_model"],
    places: Sequence[tuple[int, ...]],
    top: int,
) -> xr.Dataset:
    """The likeliest tokens of every prompt, depth and position."""
    n, depth, width = len(places), streams.shape[1], max(map(len, places))
    ids = np.full((n, depth, width, top), -1)
    probability = np.full(ids.shape, np.nan, dtype=np.float32)
    position = np.full((n, width), -1)
    for i, own in enumerate(places):
        position[i, : len(own)] = own
        flat = streams[i, :, : len(own)].flatten(0, 1)
        best = [log_p.topk(top) for log_p in _log_p(model, flat)]
        shape = (depth, len(own), top)
        probability[i, :, : len(own)] = torch.cat([b.values for b in best]).exp().view(shape)
        ids[i, :, : len(own)] = torch.cat([b.indices for b in best]).view(shape)
    text = {t: model.token(int(t)) if t >= 0 else "" for t in np.unique(ids)}
    named = np.vectorize(text.__getitem__, otypes=[object])(ids)
    values = {"token": named, "token_id": ids, "probability": probability}
    coords = {"depth": np.arange(depth), "rank": np.arange(top)}
    return xr.Dataset(
        {name: (("prompt", "depth", "pos", "rank"), x) for name, x in values.items()},
        coords | {"position": (("prompt", "pos"), position)},
    )


def _answers(
    model: Model,
    streams: Float[Tensor, "pair depth pos d_model"],
    places: Sequence[tuple[int, ...]],
    pairs: Sequence[TokenPair],
) -> xr.DataArray:
    """Log-probabilities of both answers at the last token, which follows the other positions."""
    last = streams[torch.arange(len(pairs)), :, [len(own) for own in places]]
    tokens = answer_tokens(pairs, "the logit lens")
    flat, of_row = last.flatten(0, 1), tokens.repeat_interleave(last.shape[1], 0)
    log_p = list(_log_p(model, flat))
    parts = of_row.split([len(some) for some in log_p])
    read = [some.gather(1, wanted) for some, wanted in zip(log_p, parts, strict=True)]
    values = torch.cat(read).unflatten(0, last.shape[:2]).numpy()
    coords = {
        "pair": [pair.pair.id for pair in pairs],
        "depth": np.arange(last.shape[1]),
        "answer": ["answer", "wrong_answer"],
    }
    return xr.DataArray(values, coords, ("pair", "depth", "answer"), "log_p")


def _log_p(
    model: Model, resid: Float[Tensor, "row d_model"]
) -> Iterator[Float[Tensor, "some vocab"]]:
    """Log-probabilities over the vocabulary, on the CPU, some rows at a time."""
    step = max(1, LOGITS_AT_ONCE // model.n_vocab)
    with torch.no_grad():
        for some in resid.split(step):
            yield model.logits(some).log_softmax(-1).cpu()
