"""`PatchResult`: labelled values of a sweep, with baselines, intervals, a figure and a folder."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from interp.data.pairs import Excluded
from interp.data.prompts import mixed_positions, unpaired_tokens
from interp.errors import DegenerateGap, PlanError
from interp.metrics import DEGENERATE
from interp.patching.figures import draw_effect
from interp.results.report import Figure, Part, Report, Section, Table, cell_text, excluded_rows
from interp.results.result import Result
from interp.results.style import AXIS_NAMES, label, styled
from interp.statistics import bootstrap_difference, bootstrap_mean, bootstrap_ratio, near_ties
from interp.statistics.ties import by_size, rounding

VERBS = {"denoise": "clean activation patched in", "noise": "corrupt activation patched in"}


@dataclass(frozen=True)
class PatchResult(Result):
    """What `patch` measured.

    Attributes:
        values: the metric with each cell patched, dims ``("pair", *over)``; NaN where a pair
            has no such position, or the token there no partner.
        clean, corrupt: the metric of each prompt of a pair, unpatched.
        tokens: each pair's clean tokens.
        roles: for each of these tokens the span it belongs to, or ``""``.
        answers: how much of the answers was read.
        unpaired: how many tokens of each pair's clean and corrupt prompt have no partner in the
            other: nothing is patched there. Empty where all have.
    """

    KIND: ClassVar[str] = "patch"

    values: xr.DataArray
    clean: xr.DataArray
    corrupt: xr.DataArray
    excluded: tuple[Excluded, ...]
    model: str
    site: str
    metric: str
    unit: str
    direction: str
    at: str
    source: str
    tokens: tuple[tuple[str, ...], ...] = field(repr=False)
    seconds: float
    roles: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    unpaired: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    answers: str = "whole (1 token)"

    @property
    def over(self) -> tuple[str, ...]:
        """The axes of the sweep."""
        return tuple(str(dim) for dim in self.values.dims[1:])

    @property
    def n_pairs(self) -> int:
        """How many pairs were measured."""
        return len(self.clean)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to mind when reading the result; empty where there is nothing."""
        mixed = (
            f"{self._mixed}; sweep over='span' (each named span, its last token, and the last "
            "token of the prompt), or over pairs of one template."
        )
        return (*unpaired_tokens(self.unpaired), *([mixed] if self._mixed else ()))

    @property
    def _mixed(self) -> str:
        return mixed_positions(self.tokens, self.roles) if "pos" in self.over else ""

    # --- effects ---

    def normalised(self, seed: int = 0) -> xr.Dataset:
        """Effect of each cell on a scale where 0 = corrupt and 1 = clean.

        (patched - corrupt) / (clean - corrupt), each averaged over pairs before dividing.

        Returns:
            Variables ``mean``, ``low`` and ``high`` (95 % bootstrap over pairs), dims `over`.
        """
        gap = (self.clean - self.corrupt).values
        if abs(gap.mean()) < DEGENERATE:
            raise DegenerateGap(f"degenerate clean/corrupt gap: mean {gap.mean():.3g} {self.unit}.")
        return self._dataset(bootstrap_ratio(self._above(self.corrupt).values, gap, seed))

    def mean(self, seed: int = 0) -> xr.Dataset:
        """Mean of the metric over pairs with its 95 % bootstrap interval; as `normalised`."""
        return self._dataset(bootstrap_mean(self.values.values, seed))

    def effect(self, seed: int = 0) -> xr.Dataset:
        """Change each cell makes to the run it was patched into, in the metric's unit."""
        return self._dataset(bootstrap_mean(self._shifts().values, seed))

    def _above(self, base: xr.DataArray) -> xr.DataArray:
        return self.values - base.values.reshape(-1, *[1] * len(self.over))

    def _shifts(self) -> xr.DataArray:
        return self._above(self.corrupt if self.direction == "denoise" else self.clean)

    def _dataset(
        self, bounds: Sequence[np.ndarray], like: xr.DataArray | None = None
    ) -> xr.Dataset:
        values = self.values if like is None else like
        named = zip(("mean", "low", "high"), bounds, strict=True)
        coords = {dim: values.coords[dim] for dim in self.over}
        return xr.Dataset({k: (self.over, np.asarray(v)) for k, v in named}, coords)

    def compare(self, other: "PatchResult", seed: int = 0) -> pd.DataFrame:
        """How the effect of each cell differs from another run's, with 95 % bootstrap intervals.

        Returns:
            One row per cell: the axes, ``first`` and ``second`` (mean effects of this run and of
            the other, in the metric's unit), ``difference`` (second - first), ``low`` and ``high``;
            NaN where one run has no such cell. ``frame.attrs["paired"]`` says whether both runs
            measure the same prompts, which are then resampled together, and
            ``frame.attrs["differ"]`` in what else they differ: model, answers, site, at or source
            -> both; of the same prompts, model and answers also the unpatched means, if others.

        Raises:
            PlanError: axes, metric or direction differ.
        """
        if self.over != other.over:
            raise PlanError(f"the axes differ: {list(self.over)} and {list(other.over)}.")
        for name in ("metric", "direction"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise PlanError(f"the {name} differs: {mine} and {theirs}.")
        mine, theirs = self._shifts(), other._shifts()
        paired = sorted(self._prompts) == sorted(other._prompts)
        places = {prompt: i for i, prompt in enumerate(other._prompts)}
        order = [places[prompt] for prompt in self._prompts if paired]
        if paired:
            theirs = theirs[order]
        a, b = (one.drop_vars("pair", errors="ignore") for one in (mine, theirs))
        a, b = xr.align(a, b, join="outer", exclude=["pair"])
        estimate = bootstrap_difference(a.values, b.values, paired, seed)
        frame: pd.DataFrame = self._dataset(estimate, a).to_dataframe().reset_index()
        for name, values in (("first", a), ("second", b)):
            frame[name] = values.mean("pair").values.ravel()
        frame = frame.rename(columns={"mean": "difference"})
        names = ("model", "answers", "site", "at", "source")
        both = {name: [getattr(self, name), getattr(other, name)] for name in names}
        differ = {name: two for name, two in both.items() if two[0] != two[1]}
        if paired and not {"model", "answers"} & {*differ}:  # then other answers or corrupt prompts
            for name in ("clean", "corrupt"):
                one, two = getattr(self, name).values, getattr(other, name).values[order]
                if not np.allclose(one, two, rtol=1e-2, atol=1e-2):
                    differ[f"mean {name} {self.metric}"] = [float(x.mean()) for x in (one, two)]
        frame.attrs |= {"paired": paired, "differ": differ}
        return frame.reindex(columns=[*self.over, "first", "second", "difference", "low", "high"])

    @property
    def _prompts(self) -> list[tuple[str, ...]]:
        """What tells pairs apart: their ids and their clean tokens."""
        ids = map(str, self.clean.coords["pair"].values)
        return [(i, *tokens) for i, tokens in zip(ids, self.tokens, strict=True)]

    # --- tables ---

    def top(self, n: int = 10, seed: int = 0) -> pd.DataFrame:
        """The cells with the largest absolute effect, with effects, intervals and labels.

        ``frame.attrs["near_ties"]`` says which cells lie within rounding of the first.
        """
        scaled = self.normalised(seed)["mean"].rename("normalised")
        table = xr.merge([self.effect(seed), scaled]).to_dataframe().reset_index()
        table = table.dropna(subset=["mean"]).rename(columns={"mean": "effect"})
        table, near = by_size(table, "effect", self.over, self._rounding)
        table = table.head(n).reset_index(drop=True)
        table.attrs["near_ties"] = near
        columns = [*self.over, "effect", "low", "high", "normalised"]
        if "pos" in self.over:
            labels = self.position_labels()
            table["token"] = [labels[pos] for pos in table["pos"]]
            columns.insert(len(self.over), "token")
        return table.reindex(columns=columns)

    @property
    def _rounding(self) -> float:
        dtype = self.provenance.get("dtype", "float32")
        return rounding(self.values, self.clean, self.corrupt, dtype=dtype)

    def position_labels(self) -> list[str]:
        """A label for each token position: the token or the span that all pairs share there.

        Where they share neither, the first pair's token as an example: ``⟨cat, …⟩``.
        """
        labels = []
        for pos in self.values.coords["pos"].values:
            tokens, roles = (
                [row[pos] for row in rows if pos < len(row)] for rows in (self.tokens, self.roles)
            )
            if len({*tokens}) <= 1:
                labels.append(next(iter(tokens), ""))
            elif len({*roles}) == 1 and roles[0]:
                labels.append(f"⟨{roles[0]}⟩")
            else:
                labels.append(f"⟨{tokens[0].strip() or repr(tokens[0])}, …⟩")
        return labels

    @property
    def by_token(self) -> bool:
        """Whether each cell is one token in one layer, and means the same in all pairs."""
        return set(self.over) == {"layer", "pos"} and not self._mixed

    def carriers(self, threshold: float = 0.5, seed: int = 0) -> pd.DataFrame:
        """Which token carries the answer in which layers; `PlanError` unless over layer and pos.

        A cell carries it if it accounts for `threshold` of the clean-corrupt gap: restored by
        denoising, or destroyed by noising.

        Returns:
            One row per position that carries it anywhere: first and last layer that do, and the
            layer of the strongest cell, its part of the gap and the 95 % interval of that.
            ``frame.attrs["near_ties"]`` says of which strongest cells others are within rounding.
        """
        if set(self.over) != {"layer", "pos"}:
            raise PlanError(f"carriers needs a sweep over layer and pos, not {list(self.over)}.")
        part = self.normalised(seed).transpose("layer", "pos")
        if self.direction == "noise":
            part = 1 - part.rename(low="high", high="low")
        within = self._rounding / abs(float((self.clean - self.corrupt).mean()))
        rows, near = [], []
        for pos, token in zip(part["pos"].values, self.position_labels(), strict=True):
            column = part.sel(pos=pos)
            carrying = column["layer"].values[(column["mean"] >= threshold).values]
            if len(carrying):
                peak = column.isel(layer=int(column["mean"].argmax("layer")))
                bounds = {name: float(peak[name]) for name in ("mean", "low", "high")}
                layers = {"first": carrying[0], "last": carrying[-1], "peak": int(peak["layer"])}
                rows.append({"pos": int(pos), "token": token, **layers, **bounds})
                names = [f"layer {layer}" for layer in column["layer"].values]
                if said := near_ties(names, column["mean"].values, within):
                    near.append(f"{said[:-1]} (pos {pos}).")
        columns = ["pos", "token", "first", "last", "peak", "mean", "low", "high"]
        table = pd.DataFrame(rows, columns=columns)
        table.attrs["near_ties"] = " ".join(near)
        return table

    def select(self, pair: str) -> "PatchResult":
        """The same result for one pair."""
        ids = [str(i) for i in self.values.coords["pair"].values]
        if pair not in ids:
            raise KeyError(f"no pair {pair!r}; this result has {', '.join(ids[:5])} …")
        i = ids.index(pair)
        arrays = {name: getattr(self, name)[[i]] for name in ("values", "clean", "corrupt")}
        parts = {name: getattr(self, name)[i : i + 1] for name in ("tokens", "roles", "unpaired")}
        return replace(self, **arrays, **parts)

    # --- figure, page, summary ---

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and cell: labels, the patched value and both baselines."""
        frame = self.values.to_dataframe(name="value").reset_index()
        for name in ("clean", "corrupt"):
            frame[name] = getattr(self, name).sel(pair=frame["pair"].to_numpy()).values
        return frame.dropna(subset=["value"]).reset_index(drop=True)

    def plot(self, pair: str | None = None) -> go.Figure:
        """Draw the normalised effect, of one `pair` or all: a heatmap over two axes, or a curve.

        The middle of the colours is a cell that changes nothing. Of three axes, the last is shown
        at its strongest cell.
        """
        one = self if pair is None else self.select(pair)
        labels = {axis: one._labels(axis) for axis in one.over}
        unchanged = 0.0 if one.direction == "denoise" else 1.0
        figure = draw_effect(one.normalised(), labels, one.metric, unchanged, one.n_pairs > 1)
        n = f"pair {pair}" if pair else f"mean of {one.n_pairs} pairs"
        return styled(figure, f"{one.site} on {one.model}", f"{VERBS[one.direction]}, {n}")

    def _labels(self, axis: str) -> list[str]:
        if axis == "pos":
            tokens = enumerate(self.position_labels())
            return [label(f"{i} {text.strip() or repr(text)}") for i, text in tokens]
        return [label(value) for value in self.values.coords[axis].values]

    def report(self) -> Report:
        """The figure, the strongest cells, and where the answer is."""
        top = self.top(10)
        strongest = "No cell has an effect."
        if len(top):
            first, near = top.iloc[0], top.attrs["near_ties"]
            place = ", ".join(_place(name, first[name]) for name in top.columns[:-4])
            strongest = (
                f"The strongest cell is {place}: it changes {self.metric} by "
                f"{cell_text(float(first['effect']))} {self.unit} "
                f"(normalised effect {cell_text(float(first['normalised']))}). {near}"
            ).strip()
        colours = "Colours" if len(self.over) > 1 else "The curve"
        centre = "0 = corrupt, 1 = clean; the middle of the scale is a cell that changes nothing"
        says = f"{colours} show the normalised effect ({centre}). {strongest}"
        title = f"{VERBS[self.direction].capitalize()}, cell by cell"
        parts: list[Part] = [Figure(title, says, self.plot()), Table("Strongest cells", top)]
        sections = [Section("Effect of each cell", parts)]
        if self.by_token:
            layers = {"first": "first layer", "last": "last layer", "peak": "strongest layer"}
            found = self.carriers()
            carriers = Table(
                "Tokens that account for at least half of the gap",
                found,
                "In which layers, and the part of the gap at their strongest cell. "
                + found.attrs["near_ties"],
                layers | {"mean": "part of the gap [95 % interval]"},
            )
            sections.append(Section("Where the answer is", [carriers]))
        return Report(
            title=f"{self.site} on {self.model}, {self.source}",
            lead=f"{self.metric} ({self.unit}): {float(self.clean.mean()):.3f} on clean, "
            f"{float(self.corrupt.mean()):.3f} on corrupt prompts; {self.n_pairs} pairs of "
            f"{self.source}. {strongest}",
            sections=sections,
            method=(
                f"Direction: {self.direction} ({VERBS[self.direction]}); positions: {self.at}; "
                f"answers: {self.answers}; the sweep took {self.seconds:.2f} s.",
                "Effect: change of the metric against the unpatched run, with its 95 % bootstrap "
                "interval over pairs. Normalised effect: (patched - corrupt) / (clean - corrupt), "
                "each averaged over pairs.",
            ),
            excluded=excluded_rows(self.excluded),
            provenance=self.provenance,
            warnings=self.warnings,
        )

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures the command line prints: what was measured and what came out."""
        top = self.top(10, seed)
        return {
            **self.named("model", "site", "metric", "direction", "answers"),
            "dims": list(self.over),
            "shape": [int(n) for n in self.values.shape[1:]],
            "n_pairs": self.n_pairs,
            "excluded": [asdict(row) for row in self.excluded],
            "warnings": list(self.warnings),
            "clean_metric": float(self.clean.mean()),
            "corrupt_metric": float(self.corrupt.mean()),
            "seconds": round(self.seconds, 4),
            "top": top.to_dict("records"),
            "near_ties": top.attrs["near_ties"],
            "carriers": self.carriers(seed=seed).to_dict("records") if self.by_token else None,
        }

    def __repr__(self) -> str:
        dims = " x ".join(f"{d} {n}" for d, n in zip(self.over, self.values.shape[1:], strict=True))
        return (
            f"PatchResult({self.site} on {self.model}, {dims}; {self.n_pairs} pairs, "
            f"{len(self.excluded)} excluded; {self.metric} {float(self.clean.mean()):.3f} clean, "
            f"{float(self.corrupt.mean()):.3f} corrupt; {self.direction}, {self.seconds:.2f} s)"
        )


def _place(name: str, value: object) -> str:
    if name != "token":
        return f"{AXIS_NAMES[name]} {value}"
    text = str(value).strip()
    return f"token {text if text.startswith('⟨') else repr(text)}"
