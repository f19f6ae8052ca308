"""`Control`: the replies of all arms, and what follows from them with intervals."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from circuits.emotion.data import EMOTIONS, LABELS
from circuits.emotion.marking import MARKS, Limits, mark
from circuits.emotion.quality import distinct
from interp.errors import DataError
from interp.results import folder
from interp.statistics import Estimate, bootstrap_mean

KIND = "emotion control"


@dataclass(frozen=True)
class Control:
    """What the arms said, and how well.

    Attributes:
        replies: a row a reply: ``arm``, the situation, ``emotion`` (the target), ``reply``, the
            measures of `measure`, and the labels of each judge.
        limits: of coherence and relevance.
        judges: which have read the replies; the first decides.
        model: which.
        settings: decoding, doses and sources.
        provenance: filled when saved.
    """

    replies: pd.DataFrame = field(repr=False)
    limits: Limits
    judges: tuple[str, ...]
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order in which they were given."""
        return list(dict.fromkeys(self.replies["arm"]))

    @cached_property
    def marked(self) -> pd.DataFrame:
        """The replies with their marks by the first judge."""
        return mark(self.replies, self.limits, self.judges[0])

    def by(self, judge: str) -> "Control":
        """The same, decided by another judge.

        Raises:
            DataError: this judge has not read the replies.
        """
        if judge not in self.judges:
            raise DataError(f"no judge {judge!r}; {', '.join(self.judges)} have read the replies.")
        order = (judge, *(one for one in self.judges if one != judge))
        return replace(self, judges=order)

    def of(self, arm: str) -> pd.DataFrame:
        """One arm's marked replies, by situation and emotion.

        Raises:
            DataError: there is no such arm.
        """
        found: Any = self.marked[self.marked["arm"] == arm]
        if found.empty:
            raise DataError(f"no arm {arm!r}; there are {', '.join(self.arms)}.")
        return found.sort_values(["situation", "emotion"], ignore_index=True)

    def rate(self, arm: str, name: str = "joint") -> Estimate:
        """Share of an arm's replies with a mark; scenarios are resampled whole."""
        rows = self.of(arm)
        return bootstrap_mean(_values(rows, name), clusters=list(rows["scenario"]))

    def paired(self, first: str, second: str, name: str = "joint") -> Estimate:
        """Difference of two arms in a mark, reply by reply; scenarios are resampled whole.

        Raises:
            DataError: the arms did not reply to the same situations.
        """
        one, other = self.of(first), self.of(second)
        keys = ["situation", "emotion"]
        if not one[keys].equals(other[keys]):
            raise DataError(f"{first!r} and {second!r} did not reply to the same situations.")
        return bootstrap_mean(
            _values(one, name) - _values(other, name), clusters=list(one["scenario"])
        )

    def table(self) -> pd.DataFrame:
        """A row an arm: marks with intervals, and the measures of quality beside them."""
        return pd.DataFrame([_row(self, arm) for arm in self.arms])

    def by_emotion(self, name: str = "joint") -> pd.DataFrame:
        """Share with a mark, a row an arm and a column an emotion."""
        found: Any = self.marked.pivot_table(name, "arm", "emotion", aggfunc="mean")
        return found.loc[self.arms, list(EMOTIONS)].reset_index()

    def confusion(self, arm: str) -> Int[np.ndarray, "target said"]:
        """How many replies of each target were given each label by the first judge."""
        rows = self.of(arm)
        counts = np.zeros((len(EMOTIONS), len(LABELS)), dtype=int)
        said = rows[f"said_{self.judges[0]}"]
        for target, label in zip(rows["emotion"], said, strict=True):
            counts[EMOTIONS.index(target), LABELS.index(label)] += 1
        return counts

    def summary(self) -> dict[str, Any]:
        """The main figures, for a JSON line."""
        rows = self.table().to_dict("records")
        keys = ("accuracy", "quality", "joint")
        return {
            "model": self.model,
            "n": max(row["n"] for row in rows),
            "n_scenarios": len(set(self.replies["scenario"])),
            "judge": self.judges[0],
            "limits": asdict(self.limits),
            "arms": {
                row["arm"]: {key: row[key] for key in keys}
                | {f"{key}_ci": [row[f"{key}_low"], row[f"{key}_high"]] for key in keys}
                | {key: row[key] for key in ("n", "ratio", "faulty", "distinct_2", "n_words")}
                for row in rows
            },
            "paired": self._differences(),
        }

    def _differences(self) -> dict[str, list[float]]:
        """Circuit less each other arm, on joint: value, low, high."""
        if "circuit" not in self.arms:
            return {}
        return {
            f"circuit - {arm}": [float(x) for x in self.paired("circuit", arm)]
            for arm in self.arms
            if arm != "circuit"
        }

    def save(self, path: str | Path) -> Path:
        """Write a run folder.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        manifest = {
            "kind": KIND,
            "model": self.model,
            "limits": asdict(self.limits),
            "judges": list(self.judges),
            "settings": dict(self.settings),
            "provenance": folder.provenance() | dict(self.provenance),
        }
        return folder.write(Path(path), manifest, {"replies": self.replies}, {})

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "Control":
        """Read a run folder back.

        Raises:
            RunFolderError: missing, incomplete or damaged folder.
        """
        manifest, tables, _ = folder.read(path, KIND, ("replies",))
        return cls(
            tables["replies"],
            Limits(**manifest["limits"]),
            tuple(manifest["judges"]),
            manifest["model"],
            manifest["settings"],
            manifest["provenance"],
        )

    def __repr__(self) -> str:
        return f"Control({self.model}: {len(self.arms)} arms, {len(self.replies)} replies)"


def _values(rows: pd.DataFrame, name: str) -> Float[np.ndarray, " reply"]:
    return rows[name].to_numpy(float)


def _row(control: Control, arm: str) -> dict[str, Any]:
    rows: Any = control.of(arm)
    clusters = list(rows["scenario"])
    marks = {name: _values(rows, name) for name in MARKS}
    shown = {
        "accuracy": marks["expressed"],
        "quality": marks["coherent"] * marks["relevant"],
        "joint": marks["joint"],
        "coherent": marks["coherent"],
        "relevant": marks["relevant"],
    }
    out: dict[str, Any] = {"arm": arm, "n": len(rows)}
    for name, values in shown.items():
        value, low, high = bootstrap_mean(values, clusters=clusters)
        out |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    said = rows[f"said_{control.judges[0]}"]
    return out | {
        "neutral": float((said == "neutral").mean()),
        "ratio": float(rows["ratio"].median()),
        "faulty": float((rows["faults"] != "").mean()),
        "distinct_2": distinct(list(rows["reply"]), 2),
        "n_words": float(rows["n_words"].mean()),
        "exclamations": float(rows["exclamations"].mean()),
        "capitals": float(rows["capitals"].mean()),
    }
