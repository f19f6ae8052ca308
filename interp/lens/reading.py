"""Lenses read: what the residual stream would predict after each layer."""

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
from interp.errors import DataError, PlanError, shown
from interp.forward.readout import LOGITS_AT_ONCE
from interp.interventions.plan import AnyPlan, as_plan
from interp.interventions.recording import places_of, recorded
from interp.lens.jacobian import JacobianLens
from interp.model.model import Model
from interp.model.sites import SITES
from interp.statistics.ties import first_largest

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class LensReading:
    """What was read off the residual stream at every depth; depth d is after d layers.

    Attributes:
        top: dims (prompt, depth, pos, rank): variables ``token`` (text), ``token_id`` and
            ``probability`` of the likeliest next tokens; empty, -1 and NaN beyond a prompt's last
            token. ``position`` (prompt, pos) is the number of the token in its prompt.
        of_tokens: of the tokens asked for, dims (prompt, depth, pos, token): variables ``rank``
            (how many tokens are likelier) and ``log_p``; -1 and NaN beyond a prompt's last token.
        answers: of pairs, dims (pair, depth, answer): log p of both answers at the last token.
        tokens: all tokens of each prompt, as text.
        lens: ``"logit lens"`` or ``"Jacobian lens"``.
    """

    top: xr.Dataset
    of_tokens: xr.Dataset | None
    answers: xr.DataArray | None
    tokens: tuple[tuple[str, ...], ...]
    model: str
    lens: str

    def table(self, prompt: int = 0) -> pd.DataFrame:
        """One row per depth, position and rank of a prompt: predicted token and probability."""
        one = self.top.isel(prompt=prompt)
        real = one.isel(pos=(one["position"] >= 0).values)
        frame: pd.DataFrame = real[["token", "probability"]].to_dataframe().reset_index()
        frame["pos"] = frame.pop("position")
        frame["after"] = [self.tokens[prompt][p] for p in frame["pos"]]
        frame = frame.rename(columns={"token": "predicted"})
        return frame.reindex(columns=["depth", "pos", "after", "rank", "predicted", "probability"])

    def plot(self, prompt: int = 0) -> "go.Figure":
        """A heatmap of a prompt: the likeliest token per depth and position."""
        from interp.results.token_figures import plot_lens

        return plot_lens(self.table(prompt), self.model, self.lens)

    def __repr__(self) -> str:
        n = self.top.sizes
        pairs = "" if self.answers is None else f"; answers of {len(self.answers)} pairs"
        given = "" if self.of_tokens is None else f"; {self.of_tokens.sizes['token']} tokens"
        return (
            f"LensReading({self.lens}, {self.model}: {n['prompt']} prompts x {n['depth']} depths x "
            f"{n['pos']} positions, top {n['rank']}{given}{pairs})"
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
    tokens: Sequence[str | int] = (),
    jacobian: JacobianLens | None = None,
) -> LensReading:
    """Read the residual stream at every depth as if it were the last: final norm, then unembedding.

    Depth 0 is the embedding, depth n_layers the model's own prediction. The stream and both steps
    have the model's dtype, the softmax fp32. With `jacobian` this is the Jacobian lens: the stream
    at each of its depths is first mapped to the last layer, in fp32.

    Args:
        model: the model.
        prompts: texts, chats, token prompts, or pairs: of pairs the clean prompts run, and both
            answers are read at the last token: one token each, or with ``answers="first"`` the
            first token alone.
        top: how many of the likeliest tokens to keep.
        at: as in `interp.activations`.
        plan: as in `interp.activations`.
        answers: see `prompts`.
        tokens: whose ranks and log-probabilities are read at every depth and position: token ids,
            or texts of one token, leading space included (``" France"``).
        jacobian: what `jacobian_lens` fitted on this model.

    Raises:
        PlanError: `top` or `at` names no such token, the plan cannot be carried out, or `jacobian`
            was fitted on other weights.
        DataError: prompts or pairs that cannot be used, such as answers of several tokens; a text
            in `tokens` that is not one token.

    Sources: nostalgebraist 2020 (logit lens); for the Jacobian lens see `jacobian_lens`.
    """
    vocabulary, n_layers = model.n_vocab, model.arch.n_layers
    if not 1 <= top <= vocabulary:
        raise PlanError(f"top={top}: ask for 1 to {vocabulary} tokens.")
    chosen = [_token_id(model, one) for one in tokens]
    given = listed(prompts)
    rows, pairs = as_prompts(model, given), pairs_of(model, given, answers)
    places = places_of(rows, at)
    # pairs' answers are read at the last token, which goes behind the others
    ends = [() if pairs is None else (len(row.ids) - 1,) for row in rows]
    wanted = [(*own, *end) for own, end in zip(places, ends, strict=True)]
    depths = [*(range(n_layers) if jacobian is None else jacobian.checked(model)), n_layers]
    points = [(SITES["resid_pre"], depth) for depth in depths[:-1]]
    points.append((SITES["resid_post"], n_layers - 1))
    found = recorded(model, rows, points, wanted, as_plan(plan))
    if jacobian is not None:
        at_depths = zip(depths[:-1], found[:-1], strict=True)
        found[:-1] = [jacobian.transported(depth, stream) for depth, stream in at_depths]
    streams = torch.stack(found, 1)
    likeliest, of_tokens = _read(model, streams, places, depths, top, chosen)
    return LensReading(
        top=likeliest,
        of_tokens=of_tokens if chosen else None,
        answers=None if pairs is None else _answers(model, streams, places, depths, pairs),
        tokens=tuple(tuple(model.token(t) for t in row.ids) for row in rows),
        model=model.name,
        lens="logit lens" if jacobian is None else "Jacobian lens",
    )


def _token_id(model: Model, token: str | int) -> int:
    """The number of a token; `DataError` where it is not one token of the model."""
    if isinstance(token, str):
        ids = model.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise DataError(
                f"{shown(token)} is {len(ids)} tokens of {model.name}; a lens reads one token: "
                "give its id, or another text (mind the leading space)."
            )
        return ids[0]
    if not 0 <= token < model.n_vocab:
        raise DataError(f"there is no token {token}: {model.name} has 0 to {model.n_vocab - 1}.")
    return token


def _read(
    model: Model,
    streams: Float[Tensor, "prompt depth pos d_model"],
    places: Sequence[tuple[int, ...]],
    depths: Sequence[int],
    top: int,
    tokens: Sequence[int],
) -> tuple[xr.Dataset, xr.Dataset]:
    """The likeliest tokens of every prompt, depth and position; rank and log p of some tokens."""
    n, depth, width = len(places), streams.shape[1], max(map(len, places))
    ids = np.full((n, depth, width, top), -1)
    probability = np.full(ids.shape, np.nan, dtype=np.float32)
    rank = np.full((n, depth, width, len(tokens)), -1)
    log_p = np.full(rank.shape, np.nan, dtype=np.float32)
    position = np.full((n, width), -1)
    for i, own in enumerate(places):
        position[i, : len(own)] = own
        flat = streams[i, :, : len(own)].flatten(0, 1)
        parts = [_of_rows(some, top, tokens) for some in _log_p(model, flat)]
        best, best_ids, values, ranks = (
            torch.cat(part).view(depth, len(own), -1) for part in zip(*parts, strict=True)
        )
        probability[i, :, : len(own)], ids[i, :, : len(own)] = best.exp(), best_ids
        log_p[i, :, : len(own)], rank[i, :, : len(own)] = values, ranks
    text = {t: model.token(int(t)) if t >= 0 else "" for t in np.unique(ids)}
    named = np.vectorize(text.__getitem__, otypes=[object])(ids)
    dims, places_at = ("prompt", "depth", "pos"), {"position": (("prompt", "pos"), position)}
    coords = {"depth": list(depths)} | places_at
    of_top = {"token": named, "token_id": ids, "probability": probability}
    of_token = {"rank": rank, "log_p": log_p}
    names = [model.token(t) for t in tokens]
    return (
        xr.Dataset(
            {name: ((*dims, "rank"), x) for name, x in of_top.items()},
            coords | {"rank": np.arange(top)},
        ),
        xr.Dataset(
            {name: ((*dims, "token"), x) for name, x in of_token.items()},
            coords | {"token": names, "token_id": ("token", list(tokens))},
        ),
    )


def _of_rows(
    log_p: Float[Tensor, "row vocab"], top: int, tokens: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each row the largest log p and whose they are; log p and rank of some tokens."""
    (best, ids), own = first_largest(log_p, top), log_p[:, list(tokens)]
    # numpy counts one comparison some fifty times as fast as torch sums it
    ranks = [
        [np.count_nonzero(row > value) for value in values]
        for row, values in zip(log_p.numpy(), own.numpy(), strict=True)
    ]
    return best, ids, own, torch.tensor(ranks, dtype=torch.long).view(own.shape)


def _answers(
    model: Model,
    streams: Float[Tensor, "pair depth pos d_model"],
    places: Sequence[tuple[int, ...]],
    depths: Sequence[int],
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
        "depth": list(depths),
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
