"""`Feasibility`: which cells a model can do in which form, which designs that makes feasible."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go

from circuits.recall_reasoning import figures
from circuits.recall_reasoning.designs import CELLS
from circuits.recall_reasoning.settings import FeasibilitySettings
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_counts
from interp.results.result import Result


@dataclass(frozen=True)
class Feasibility(Result):
    """What `feasibility` measured.

    Attributes:
        cells: a row per cell, source of its questions, form (``plain``, ``chat``) and way of asking
            (``directly``, ``with a chain``): how often the first answer that a greedy reply names
            (with a chain, behind "Answer:") is the right one (``written``), and how many replies
            name none (``no_answer``); asked directly also how often the right answer leads all
            candidates (``leads``), and how many pairs the filter keeps in the smallest split.
        probes: per cell and form how often the right answer leads where the prompt lacks what
            decides it: ``without_bridge``, ``from_subject``; and the part of the questions that
            have the ``most_frequent`` answer.
        designs: per design and form whether `study` accepts it, its weakest cell, and how many
            pairs per split would have to be drawn for it at this rate.
        left_out: reason -> questions that cannot be used, counted in each form, and how many facts
            and questions could not be matched when questions were drawn.
    """

    KIND: ClassVar[str] = "feasibility"
    cells: pd.DataFrame = field(repr=False)
    probes: pd.DataFrame = field(repr=False)
    designs: pd.DataFrame = field(repr=False)
    left_out: Mapping[str, int]
    settings: FeasibilitySettings
    model: str
    seconds: float

    @property
    def feasible(self) -> dict[str, list[str]]:
        """Form -> the designs that are feasible in it."""
        grouped: Any = self.designs.groupby("form", sort=False)
        return {form: own.loc[own["feasible"], "design"].tolist() for form, own in grouped}

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        tables = {name: getattr(self, name) for name in ("cells", "probes", "designs")}
        return {
            "model": self.model,
            "settings": self.settings.model_dump(mode="json"),
            "feasible": self.feasible,
            **{name: table.to_dict("records") for name, table in tables.items()},
            "left_out": dict(self.left_out),
            "seconds": round(self.seconds, 1),
        }

    def __repr__(self) -> str:
        return f"Feasibility({self.model}: {cell_text(self.feasible)})"

    def plot(self) -> go.Figure:
        """How often the right answer is written, per cell, form and way of asking."""
        asked = self.cells["form"] + ", " + self.cells["asked"]
        where = self.cells["cell"] + " (" + self.cells["questions"] + ")"
        table = self.cells.assign(asked=asked, where=where)
        title = f"Right answers, {self.model}"
        return figures.plot_bars(table, "where", "written", "asked", title)

    def report(self) -> Report:
        """What the model can do, what shortcuts do, and what can be studied."""
        found = self.feasible
        lead = "; ".join(f"{form}: {', '.join(own) or 'no design'}" for form, own in found.items())
        asks = "; ".join(f"{c}: {CELLS[c]}" for c in dict.fromkeys(self.cells["cell"]))
        says = (
            "Fraction of questions whose reply names the right answer first, per cell, form and "
            "way of asking, with 95 % intervals over bridge entities."
        )
        note = (
            "Kept: pairs that are right on clean and corrupt and by no shortcut, in the smallest "
            "split; what is written with a chain does not enter it."
        )
        return Report(
            title=f"Recall and reasoning cells of {self.model}",
            lead=f"Designs that are feasible: {lead}.",
            sections=[
                Section("Cells", [Figure("Right answers", says, self.plot())]),
                Section("Numbers", [Table("Questions and answers", self.cells, note)]),
                Section("Shortcuts", [Table("Right answers without what decides", self.probes)]),
                Section("Designs", [Table("Designs of the study", self.designs)]),
            ],
            method=(
                f"{asks}. The same questions are asked in every form.",
                "Without bridge: the question without its first hop, or without what names the "
                "bridge. From subject: the prompt from its subject on. Both read whether the "
                "answer leads all candidates, as the filter does.",
                "To draw: pairs per split of which the weakest cell would keep enough at this "
                f"rate. Settings: {cell_text(self.settings.model_dump(mode='json'))}. "
                f"{self.seconds:.0f} s.",
            ),
            excluded=excluded_counts(self.left_out),
            provenance=self.provenance,
        )
