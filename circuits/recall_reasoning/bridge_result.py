"""`BridgeStudy`: where a bridge entity is read, how often answers follow a swap, and the page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go

from circuits.recall_reasoning import figures
from circuits.recall_reasoning.settings import BridgeSettings
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_counts
from interp.results.result import Result
from interp.statistics import bootstrap_mean

CONDITIONS = {
    "bridge": "the state of another country's landmark",
    "named": "the state of that country's name in the landmark's place",
    "same bridge": "the state of another landmark of the same country",
    "unrelated": "the state of a token of unrelated text",
    "logit direction": "the two bridges' coordinates exchanged along their unembedding rows",
    "logit control": "as much changed along a third country's row",
    "Jacobian direction": "the same exchange along the Jacobian lens's directions",
    "Jacobian control": "as much changed along a third country's direction",
}
"""What is swapped in: another prompt's state, or only coordinates along lens directions."""
CONTRASTS = {
    "bridge": ("named", "same bridge", "unrelated"),
    "logit direction": ("logit control",),
    "Jacobian direction": ("Jacobian control",),
}
"""Condition -> the others that are scored in the layer chosen for it; the last is its control."""
CELL = ["layer", "position"]


def rates(swaps: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Per half, condition, layer and position: how many answers follow and stay, with intervals.

    `swaps` has a row per swap and cell; intervals resample the target's country.
    """
    keys = ["half", "condition", *CELL]
    grouped: Any = swaps.groupby(keys, sort=False)
    rows = [dict(zip(keys, cell, strict=True)) | _rates(own, seed) for cell, own in grouped]
    return pd.DataFrame(rows)


def _rates(own: pd.DataFrame, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("follows", "stays"):
        values = own[name].to_numpy(dtype=float)
        found |= bootstrap_mean(values, seed, clusters=own["country"].tolist()).columns(name)
    return found | {"n": len(own), "countries": own["country"].nunique()}


def chosen_cells(swaps: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Per position the layer whose swaps are followed most on one half, scored on the other.

    Followed most: a condition of `CONTRASTS` minus its control, of ties the lowest layer. A row per
    position and condition; ``chosen_by`` is that difference on the half where the layer was chosen,
    ``margin`` the same on the scored half, paired by swap. The last rows of each contrast score
    only swaps in which no shortcut answers either prompt.
    """
    follows = swaps.pivot_table("follows", ["half", "condition"], CELL, aggfunc="mean", sort=False)
    rows: list[dict[str, Any]] = []
    test: Any = swaps[swaps["half"] == "test"]
    for condition, others in CONTRASTS.items():
        if condition not in set(swaps["condition"]):
            continue
        gap: Any = follows.loc["choice", condition] - follows.loc["choice", others[-1]]
        of_contrast = test[test["condition"].isin((condition, *others))]
        for position in dict.fromkeys(swaps["position"]):
            own_gap = gap.dropna().xs(position, level="position")
            layer = int(own_gap.sort_index().idxmax())
            at = (of_contrast["layer"] == layer) & (of_contrast["position"] == position)
            cell = of_contrast[at]
            for which, part in (("all", cell), ("no shortcut", cell[~cell["by_shortcut"]])):
                margin = _margin(part, seed, condition, others[-1])
                for name, own in part.groupby("condition", sort=False):
                    row = {"swaps": which, "position": position, "layer": layer}
                    row |= {"condition": name, "chosen_by": float(own_gap.max())}
                    rows.append(row | _rates(own, seed) | margin)
    return pd.DataFrame(rows)


def _margin(part: pd.DataFrame, seed: int, condition: str, control: str) -> dict[str, float]:
    if part.empty:
        return {}
    wide = part.pivot(index=["swap", "country"], columns="condition", values="follows")
    difference = wide[condition].astype(float) - wide[control].astype(float)
    countries = wide.index.get_level_values("country").tolist()
    return bootstrap_mean(difference.to_numpy(), seed, clusters=countries).columns("margin")


@dataclass(frozen=True)
class BridgeStudy(Result):
    """What `bridge` measured.

    Attributes:
        prompts: a row per landmark: its bridge and answer, whether the model answers the two-hop
            prompt, whether the shortcut (the landmark's city) gives that answer, its half.
        ranks: per lens, depth and position, over the prompts that are answered: median rank of the
            bridge, of the other bridges (their median in each prompt) and of the answer's first
            token; ``beats``, the fraction of the other bridges that rank below it (chance 0.5);
            ``lower``, by how many powers of ten its rank + 1 is lower than theirs.
        swaps: per half, condition, layer and position the fraction of greedy answers that become
            the donor's (``follows``) or do not change (``stays``).
        chosen: per position the layer chosen on one half, scored on the other.
        left_out: reason -> landmarks that cannot be used, and swaps that a condition lacks.
    """

    KIND: ClassVar[str] = "bridge"
    prompts: pd.DataFrame = field(repr=False)
    ranks: pd.DataFrame = field(repr=False)
    swaps: pd.DataFrame = field(repr=False)
    chosen: pd.DataFrame = field(repr=False)
    left_out: Mapping[str, int]
    settings: BridgeSettings
    model: str
    seconds: float

    @property
    def best_read(self) -> pd.DataFrame:
        """Per lens and position the depth where the bridge beats most others, of all prompts."""
        best = self.ranks.groupby(["lens", "position"], sort=False)["beats"].idxmax()
        return self.ranks.loc[best].reset_index(drop=True)

    @property
    def counts(self) -> dict[str, int]:
        """Prompts asked and answered, those of them that no shortcut answers, and countries."""
        right: Any = self.prompts[self.prompts["answered"]]
        return {
            "asked": len(self.prompts),
            "answered": len(right),
            "without a shortcut": int((~right["by_shortcut"]).sum()),
            "countries": right["bridge"].nunique(),
        }

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {
            "model": self.model,
            "settings": self.settings.model_dump(mode="json"),
            "prompts": self.counts,
            "left_out": dict(self.left_out),
            "read": self.best_read.to_dict("records"),
            "swapped": self.chosen.to_dict("records"),
            "seconds": round(self.seconds, 1),
        }

    @property
    def _along(self) -> str:
        scored: Any = self.chosen[self.chosen["swaps"] == "all"]
        rows = scored.to_dict("records")
        best = {
            name: max(own, key=lambda one: one["chosen_by"])["follows"]
            for name in CONDITIONS
            if (own := [one for one in rows if one["condition"] == name])
            and name.endswith("direction")
        }
        each = " and ".join(f"{share:.0%} along the {name}s" for name, share in best.items())
        return f" Exchanging only the two bridges' coordinates makes {each} follow." * bool(best)

    def __repr__(self) -> str:
        return f"BridgeStudy({self.model}: {cell_text(self.counts)})"

    def plot(self, along: bool = False) -> go.Figure:
        """How often answers follow a state, or a change `along` directions, on the scored half."""
        part = self.swaps[self.swaps["half"] == "test"]
        names = [name for name in CONDITIONS if along == name.endswith(("direction", "control"))]
        return figures.plot_swaps(part, names, f"Answers that follow, {self.model}")

    def plot_ranks(self) -> go.Figure:
        """How the bridge ranks among the other bridges, by depth and position."""
        return figures.plot_beats(self.ranks, f"The bridge among other bridges, {self.model}")

    def report(self) -> Report:
        """Where the bridge is read, and what follows a swap."""
        n, chosen = self.counts, self.chosen.to_dict("records")
        scored = [one for one in chosen if (one["swaps"], one["condition"]) == ("all", "bridge")]
        row = max(scored, key=lambda one: one["chosen_by"])
        says = (
            "Fraction of greedy answers that become the capital of the country whose state was "
            "swapped in, by layer and position, on swaps between the countries that no layer was "
            "chosen on."
        )
        along = (
            "The same where only the coordinates of the two bridges along a lens's directions are "
            "exchanged, beside changes of the same norm along a third country's direction."
        )
        ranks = (
            "Fraction of the other prompts' bridges that rank below a prompt's own bridge, by "
            "depth and position; one half is chance."
        )
        return Report(
            title=f"The bridge of two-hop prompts in {self.model}",
            lead=f"{n['answered']} of {n['asked']} prompts are answered, {n['without a shortcut']} "
            f"of them not by the landmark's city alone. Swapping the state at {row['position']!r} "
            f"in layer {row['layer']}, chosen on other countries, makes {row['follows']:.0%} of "
            f"{row['n']} answers follow.{self._along}",
            sections=[
                Section(
                    "Read",
                    [
                        Figure("Bridge among other bridges", ranks, self.plot_ranks()),
                        Table("Best depth per lens and position", self.best_read),
                    ],
                ),
                Section(
                    "Swapped",
                    [
                        Figure("Answers that follow", says, self.plot()),
                        Figure("Answers that follow directions", along, self.plot(True)),
                        Table("Layer chosen on one half, scored on the other", self.chosen),
                    ],
                ),
            ],
            method=(
                "Only prompts that greedy decoding answers are used. "
                + "; ".join(f"{name}: {what}" for name, what in CONDITIONS.items())
                + ". A state holds more than the bridge: at the last position of late layers it "
                "holds the answer itself, so compare the ranks of both there.",
                "Intervals are 95 %, over the countries of the prompts that are run. "
                f"Settings: {cell_text(self.settings.model_dump(mode='json'))}. "
                f"{self.seconds:.0f} s.",
            ),
            excluded=excluded_counts(
                {**self.left_out, "the model does not answer": n["asked"] - n["answered"]}
            ),
            provenance=self.provenance,
        )
