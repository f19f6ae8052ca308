"""`PatchResult`: labelled values of a sweep, with baselines, intervals, a figure and a folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from interp.data.pairs import Excluded
from interp.errors import DegenerateGap, PlanError
from interp.metrics import DEGENERATE
from interp.results import folder
from interp.statistics import bootstrap_difference, bootstrap_mean, bootstrap_ratio

if TYPE_CHECKING:
    import plotly.graph_objects as go

PATCH_FIELDS = ("model", "site", "metric", "unit", "direction", "at", "source")


@dataclass(frozen=True)
class PatchResult:
    """What `patch` measured.

    Attributes:
        values: the metric with each cell patched, dims ``("pair", *over)``; NaN where a pair
            has no such position.
        clean: the metric of the clean prompt, per pair.
        corrupt: the metric of the corrupt prompt, per pair.
        excluded: refused rows with reasons.
        model, site, metric, unit, direction, at, source: what was measured, on what.
        tokens: each pair's clean tokens.
        roles: for each of these tokens the span it belongs to, or ``""``.
        seconds: wall time of the sweep.
        provenance: hashes, versions, seed and command line, filled when saved.
    """

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
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

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
        mixed = mixed_positions(self.tokens, self.roles) if "pos" in self.over else ""
        if not mixed:
            return ()
        return (
            f"{mixed}; sweep over='span' (each named span, its last token, and the last token of "
            "the prompt), or over pairs of one template.",
        )

    def normalised(self, seed: int = 0) -> xr.Dataset:
        """Effect of each cell on a scale where 0 = corrupt and 1 = clean.

        (patched - corrupt) / (clean - corrupt), each averaged over pairs before dividing.

        Returns:
            Variables ``mean``, ``low`` and ``high`` (95 % bootstrap over pairs), dims `over`.

        Raises:
            DegenerateGap: clean and corrupt prompts score the same.
        """
        gap = (self.clean - self.corrupt).values
        if abs(gap.mean()) < DEGENERATE:
            raise DegenerateGap(f"degenerate clean/corrupt gap: mean {gap.mean():.3g} {self.unit}.")
        shift = self.values.values - self._per_pair(self.corrupt)
        return self._dataset(bootstrap_ratio(shift, gap, seed))

    def mean(self, seed: int = 0) -> xr.Dataset:
        """Mean of the metric over pairs with its 95 % bootstrap interval; as `normalised`."""
        return self._dataset(bootstrap_mean(self.values.values, seed))

    def effect(self, seed: int = 0) -> xr.Dataset:
        """Change each cell makes to the run it was patched into, in the metric's unit."""
        return self._dataset(bootstrap_mean(self._shifts().values, seed))

    def _per_pair(self, values: xr.DataArray) -> np.ndarray:
        return values.values.reshape(-1, *[1] * len(self.over))

    def _dataset(self, bounds: tuple[np.ndarray, np.ndarray, np.ndarray]) -> xr.Dataset:
        return self._dataset_like(self.values, bounds)

    def _dataset_like(
        self, values: xr.DataArray, bounds: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> xr.Dataset:
        coords = {dim: values.coords[dim] for dim in self.over}
        named = zip(("mean", "low", "high"), bounds, strict=True)
        return xr.Dataset({k: (self.over, np.asarray(v)) for k, v in named}, coords)

    def compare(self, other: "PatchResult", seed: int = 0) -> pd.DataFrame:
        """How the effect of each cell differs from another run's, with 95 % bootstrap intervals.

        Args:
            other: a sweep over the same axes, with the same metric and direction.
            seed: of the bootstrap.

        Returns:
            One row per cell: the axes, ``first`` and ``second`` (mean effects of this run and of
            the other, in the metric's unit), ``difference`` (second - first), ``low`` and ``high``;
            NaN where one run has no such cell. ``frame.attrs["paired"]`` says whether both runs
            measure the same prompts, which are then resampled together, and
            ``frame.attrs["differ"]`` in what else they differ: model, site, at or source -> both.

        Raises:
            PlanError: the axes differ.
            PlanError: metric or direction differ.
        """
        if self.over != other.over:
            raise PlanError(f"the axes differ: {list(self.over)} and {list(other.over)}.")
        for name in ("metric", "direction"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise PlanError(f"the {name} differs: {mine} and {theirs}.")
        mine, theirs = self._shifts(), other._shifts()
        paired = sorted(self._prompts) == sorted(other._prompts)
        if paired:
            places = {prompt: i for i, prompt in enumerate(other._prompts)}
            theirs = theirs[[places[prompt] for prompt in self._prompts]]
        a, b = (one.drop_vars("pair", errors="ignore") for one in (mine, theirs))
        a, b = xr.align(a, b, join="outer", exclude=["pair"])
        estimate = bootstrap_difference(a.values, b.values, paired, seed)
        frame: pd.DataFrame = self._dataset_like(a, estimate).to_dataframe().reset_index()
        for name, values in (("first", a), ("second", b)):
            frame[name] = values.mean("pair").values.ravel()
        frame = frame.rename(columns={"mean": "difference"})
        names = ("model", "site", "at", "source")
        both = {name: [getattr(self, name), getattr(other, name)] for name in names}
        frame.attrs |= {
            "paired": paired,
            "differ": {name: two for name, two in both.items() if two[0] != two[1]},
        }
        return frame.reindex(columns=[*self.over, "first", "second", "difference", "low", "high"])

    def _shifts(self) -> xr.DataArray:
        base = self.corrupt if self.direction == "denoise" else self.clean
        return self.values - self._per_pair(base)

    @property
    def _prompts(self) -> list[tuple[str, ...]]:
        """What tells pairs apart: their ids and their clean tokens."""
        ids = map(str, self.clean.coords["pair"].values)
        return [(i, *tokens) for i, tokens in zip(ids, self.tokens, strict=True)]

    def top(self, n: int = 10, seed: int = 0) -> pd.DataFrame:
        """The cells with the largest absolute effect, with effects, intervals and labels."""
        effect = self.effect(seed)
        scaled = self.normalised(seed)["mean"].rename("normalised")
        table = xr.merge([effect, scaled]).to_dataframe().reset_index().dropna(subset=["mean"])
        table = table.rename(columns={"mean": "effect"})
        order = np.argsort(-table["effect"].abs().to_numpy(), kind="stable")
        table = table.iloc[order[:n]].reset_index(drop=True)
        if "pos" in self.over:
            labels = self.position_labels()
            table.insert(
                table.columns.get_loc("pos") + 1, "token", [labels[p] for p in table["pos"]]
            )
        columns = [*self.over, "token"] if "pos" in self.over else [*self.over]
        return table[[*columns, "effect", "low", "high", "normalised"]]

    def position_labels(self) -> list[str]:
        """A label for each token position: the token or the span that all pairs share there.

        Where they share neither, how many different tokens there are.
        """
        labels = []
        for pos in self.values.coords["pos"].values:
            tokens = {row[pos] for row in self.tokens if pos < len(row)}
            roles = {row[pos] for row in self.roles if pos < len(row)}
            if len(tokens) <= 1:
                labels.append(str(next(iter(tokens), "")))
            elif len(roles) == 1 and "" not in roles:
                labels.append(f"⟨{next(iter(roles))}⟩")
            else:
                labels.append(f"⟨{len(tokens)} tokens⟩")
        return labels

    @property
    def by_token(self) -> bool:
        """Whether each cell is one token in one layer, and means the same in all pairs."""
        return set(self.over) == {"layer", "pos"} and not self.warnings

    def carriers(self, threshold: float = 0.5, seed: int = 0) -> pd.DataFrame:
        """Which token carries the answer in which layers, of a sweep over layer and pos.

        Args:
            threshold: least part of the clean-corrupt gap a cell must account for: restored by
                denoising, or destroyed by noising.
            seed: of the bootstrap.

        Returns:
            One row per position that carries it anywhere: first and last layer that do, and the
            strongest cell with its part of the gap and 95 % interval.

        Raises:
            PlanError: the sweep has other axes.
        """
        if set(self.over) != {"layer", "pos"}:
            raise PlanError(f"carriers needs a sweep over layer and pos, not {list(self.over)}.")
        part = self.normalised(seed).transpose("layer", "pos")
        if self.direction == "noise":
            part = 1 - part.rename(low="high", high="low")
        rows = []
        for pos, label in zip(part["pos"].values, self.position_labels(), strict=True):
            column = part.sel(pos=pos)
            carrying = column["layer"].values[(column["mean"] >= threshold).values]
            if len(carrying):
                peak = column.isel(layer=int(column["mean"].argmax("layer")))
                bounds = {name: float(peak[name]) for name in ("mean", "low", "high")}
                layers = {"first": carrying[0], "last": carrying[-1], "peak": int(peak["layer"])}
                rows.append({"pos": int(pos), "token": label, **layers, **bounds})
        return pd.DataFrame(
            rows, columns=["pos", "token", "first", "last", "peak", "mean", "low", "high"]
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and cell: labels, the patched value and both baselines."""
        frame = self.values.to_dataframe(name="value").reset_index()
        for name in ("clean", "corrupt"):
            frame[name] = getattr(self, name).sel(pair=frame["pair"].to_numpy()).values
        return frame.dropna(subset=["value"]).reset_index(drop=True)

    def plot(self, pair: str | None = None) -> "go.Figure":
        """A heatmap (two axes) or curve (one axis) of the normalised effect; see figures."""
        from interp.patching.figures import plot_result

        return plot_result(self, pair)

    def select(self, pair: str) -> "PatchResult":
        """The same result for one pair."""
        ids = [str(i) for i in self.values.coords["pair"].values]
        if pair not in ids:
            raise KeyError(f"no pair {pair!r}; this result has {', '.join(ids[:5])} …")
        i = ids.index(pair)
        one = {name: getattr(self, name).isel(pair=[i]) for name in ("values", "clean", "corrupt")}
        own = {"tokens", "roles"}
        kept = {f: v for f, v in self.__dict__.items() if f not in one and f not in own}
        rows: dict[str, Any] = {"tokens": self.tokens[i : i + 1], "roles": self.roles[i : i + 1]}
        return PatchResult(**one, **kept, **rows)

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures the command line prints: what was measured and what came out."""
        return {
            "model": self.model,
            "site": self.site,
            "metric": self.metric,
            "direction": self.direction,
            "dims": list(self.over),
            "shape": [int(n) for n in self.values.shape[1:]],
            "n_pairs": self.n_pairs,
            "excluded": [vars_of(row) for row in self.excluded],
            "warnings": list(self.warnings),
            "clean_metric": float(self.clean.mean()),
            "corrupt_metric": float(self.corrupt.mean()),
            "seconds": round(self.seconds, 4),
            "top": self.top(10, seed).to_dict("records"),
            "carriers": self.carriers(seed=seed).to_dict("records") if self.by_token else None,
        }

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write a run folder: manifest.json, Parquet tables, safetensors values.

        Written beside and renamed into place, so a folder is whole or absent.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        manifest = {
            "kind": "patch",
            **{k: getattr(self, k) for k in PATCH_FIELDS},
            "seconds": self.seconds,
            "dims": ["pair", *self.over],
            "coords": {dim: self.values.coords[dim].values.tolist() for dim in self.over},
            "n_pairs": self.n_pairs,
            "provenance": folder.provenance() | self.provenance | (provenance or {}),
        }
        pairs = pd.DataFrame(
            {
                "pair": self.clean.coords["pair"].values,
                "clean": self.clean.values,
                "corrupt": self.corrupt.values,
                "tokens": [list(tokens) for tokens in self.tokens],
                "roles": [list(roles) for roles in self.roles] or [[]] * self.n_pairs,
            }
        )
        excluded = pd.DataFrame(
            [vars_of(row) for row in self.excluded], columns=["id", "where", "reason"]
        )
        tables = {"pairs": pairs, "excluded": excluded, "top": self.top(100)}
        return folder.write(Path(path), manifest, tables, {"values": self.values.values})

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "PatchResult":
        """Read a run folder back, exactly.

        Raises:
            RunFolderError: missing, incomplete or damaged folder; the message names the file.
        """
        manifest, tables, arrays = folder.read(path, "patch", ("pairs", "excluded"))
        pairs = tables["pairs"]
        ids = pairs["pair"].tolist()
        tokens = tuple(tuple(row) for row in pairs["tokens"])
        coords: dict[str, Any] = {"pair": ids, **manifest["coords"]}
        if "pos" in manifest["dims"]:
            width = len(manifest["coords"]["pos"])
            padded = [list(t[:width]) + [""] * (width - len(t)) for t in tokens]
            coords["token"] = (("pair", "pos"), padded)
        return cls(
            values=xr.DataArray(arrays["values"], dims=manifest["dims"], coords=coords),
            clean=xr.DataArray(pairs["clean"].to_numpy(), dims="pair", coords={"pair": ids}),
            corrupt=xr.DataArray(pairs["corrupt"].to_numpy(), dims="pair", coords={"pair": ids}),
            excluded=tuple(Excluded(**row) for row in tables["excluded"].to_dict("records")),
            **{k: manifest[k] for k in PATCH_FIELDS},
            tokens=tokens,
            roles=tuple(tuple(row) for row in pairs["roles"] if len(row)),
            seconds=manifest["seconds"],
            provenance=manifest["provenance"],
        )

    def __repr__(self) -> str:
        dims = " x ".join(f"{d} {n}" for d, n in zip(self.over, self.values.shape[1:], strict=True))
        return (
            f"PatchResult({self.site} on {self.model}, {dims}; {self.n_pairs} pairs, "
            f"{len(self.excluded)} excluded; {self.metric} {float(self.clean.mean()):.3f} clean, "
            f"{float(self.corrupt.mean()):.3f} corrupt; {self.direction}, {self.seconds:.2f} s)"
        )

    def _repr_html_(self) -> str:
        from interp.patching.figures import report

        return report(self).fragment()


def _shared(roles: Sequence[tuple[str, ...]]) -> set[str]:
    """Names that every row has."""
    return set[str].intersection(*map(set, roles)) if roles else set()


def mixed_positions(tokens: Sequence[Sequence[Any]], roles: Sequence[tuple[str, ...]]) -> str:
    """Why a mean over pairs at one position mixes different things; empty where it does not.

    Args:
        tokens: each pair's tokens.
        roles: for each of these the span it belongs to, or ``""``.
    """
    lengths = sorted({len(row) for row in tokens})
    if len(lengths) > 1:
        return (
            f"The prompts have {lengths[0]} to {lengths[-1]} tokens, so a mean over pairs at one "
            "position mixes tokens of different roles"
        )
    for name in sorted(_shared(roles) - {""}):
        places = {tuple(i for i, role in enumerate(row) if role == name) for row in roles}
        if len(places) > 1:
            return (
                f"The span {name!r} is at different positions in different prompts, so a mean over "
                "pairs at one position mixes tokens of different roles"
            )
    return ""


def vars_of(row: Excluded) -> dict[str, str]:
    """An excluded row as a plain record."""
    return {"id": row.id, "where": row.where, "reason": row.reason}
