"""`EditSequences`: what became of a model after 1, 10, 100, … edits, by method and order."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from circuits.editing.evaluation import figures
from interp.brief import brief
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_counts
from interp.results.result import Result
from interp.statistics import bootstrap_mean

if TYPE_CHECKING:
    import plotly.graph_objects as go

GROUP = ["method", "order", "n_edits"]
TENTHS = ("first tenth", "last tenth")
AGES = ("oldest", "middle", "newest")
NAMES = {"n_edits": "edits", "efficacy": "retention", "relative_change": "change of weights"}


@brief
@dataclass(frozen=True)
class EditSequences(Result):
    """Answers after each number of edits; method ``none`` is the unedited model.

    Attributes:
        answers: a line per question: ``method``, ``order``, ``n_edits``, ``kind`` (``efficacy``
            and ``paraphrase`` of the edit ``index``, ``locality``), and whether it was ``right``.
        edits: CPU ``seconds`` and target probability ``p`` of each edit, or of each batch.
        models: the model after each number of edits: ``kl`` and ``perplexity_ratio`` on neutral
            text, largest ``relative_change`` of a weight matrix, memory in ``gb``.
        n_cases, excluded: rows of the file, and those not used, by reason.
        stopped: why a method could not make all edits.
        restored: whether the weights were the original ones afterwards, bit for bit.
    """

    KIND = "edit sequences"

    answers: pd.DataFrame = field(repr=False)
    edits: pd.DataFrame = field(repr=False)
    models: pd.DataFrame = field(repr=False)
    model: str
    weights_hash: str
    source: str
    n_cases: int
    excluded: dict[str, int]
    stopped: dict[str, str]
    restored: bool
    options: dict[str, Any]
    seconds: float

    def table(self) -> pd.DataFrame:
        """Per method, order, number of edits and kind: share right, 95 % interval, n."""
        return self._shares(self.answers, [*GROUP, "kind"])

    def by_age(self) -> pd.DataFrame:
        """Efficacy after the last edit of a row, of the oldest, middle and newest third."""
        mine: Any = self.answers[
            (self.answers["kind"] == "efficacy")
            & (self.answers["order"] == "row")
            & (self.answers["method"] != "none")
        ]
        last = mine[mine["n_edits"] == mine.groupby("method")["n_edits"].transform("max")]
        third = (3 * last["index"] // last["n_edits"]).clip(upper=2)
        return self._shares(last.assign(age=[AGES[i] for i in third]), ["method", "age"])

    @staticmethod
    def _shares(answers: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
        lines: list[dict[str, Any]] = []
        groups: Any = answers.groupby(keys, sort=False)
        for names, part in groups:
            mean = bootstrap_mean(part["right"].to_numpy(float)[:, None])
            values = {name: float(value[0]) for name, value in mean._asdict().items()}
            lines.append(dict(zip(keys, names, strict=True)) | values | {"n": len(part)})
        return pd.DataFrame(lines, columns=[*keys, "value", "low", "high", "n"])

    def cost(self) -> pd.DataFrame:
        """CPU seconds per edit of each method, in a row: of the first and of the last tenth."""
        row: Any = self.edits[self.edits["order"] == "row"]
        lines: list[dict[str, Any]] = []
        for name, part in row.groupby("method", sort=False):
            seconds = part.sort_values("index")["seconds"].to_numpy(float)
            tenth = max(1, len(seconds) // 10)
            first, last = seconds[:tenth].mean(), seconds[-tenth:].mean()
            lines.append(
                {"method": name, "edits": len(seconds), "seconds": seconds.mean()}
                | dict(zip(TENTHS, (first, last), strict=True))
            )
        return pd.DataFrame(lines, columns=["method", "edits", "seconds", *TENTHS])

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        every = self._wide(self.table()).merge(self.models, on=GROUP)
        lines = [
            {str(name): value for name, value in one.items() if value == value}
            for one in every.to_dict("records")
        ]
        return {
            "kind": self.KIND,
            **self.named("model", "source", "n_cases", "excluded", "stopped", "restored"),
            "sequences": lines,
            "cost": self.cost().to_dict("records"),
            "seconds": round(self.seconds, 1),
        }

    @staticmethod
    def _wide(table: pd.DataFrame) -> pd.DataFrame:
        """A line per method, order and number of edits, in the order in which they were made."""
        wide: Any = table.pivot(index=GROUP, columns="kind", values="value")
        return wide.loc[list(dict.fromkeys(map(tuple, table[GROUP].to_numpy())))].reset_index()

    def _percent(self, table: pd.DataFrame) -> Table:
        """A line per method, order and number of edits; one question has no interval."""
        rows, most = (cast(Any, one) for one in (_hundred(table), table.groupby("kind")["n"].max()))
        said = [
            f"{one.value:.0f}" + (f" [{one.low:.0f}, {one.high:.0f}]" if one.n > 1 else "")
            for one in rows.itertuples()
        ]
        wide = self._wide(table.assign(value=said)).rename(columns={"order": "written"})
        asked = ", ".join(f"{NAMES.get(kind, kind)} {n}" for kind, n in most.items())
        note = f"Row: one after the other; batch: together. Questions, at most: {asked}."
        return Table("In %", wide, note, NAMES)

    def plot(self, kind: str = "efficacy") -> "go.Figure":
        """Share of right answers of a kind by the number of edits."""
        mine: Any = self.table().query("kind == @kind")
        return figures.plot_curves(mine, f"{self.model}: {NAMES.get(kind, kind)}", "share right")

    def report(self) -> Report:
        """Curves of retention, locality and drift, tables, cost, and what was left out."""
        table: Any = self.table()
        kept = [
            Figure("Earlier edits still answered", RETENTION, self.plot()),
            self._percent(table),
        ]
        ages = _hundred(self.by_age())
        sections = [
            Section("Retention", [*kept, Table("By age of the edit, in %", ages, AGE)]),
            Section(
                "Locality", [Figure("Questions about others", LOCALITY, self.plot("locality"))]
            ),
        ]
        drift: Any = self.models.rename(columns={"order": "written"})
        if "kl" in self.models:
            curve = self.models.assign(value=self.models["kl"], low=np.nan, high=np.nan)
            what = f"{self.model}: divergence on neutral text"
            shown = figures.plot_curves(curve, what, "nats per token", bounded=False)
            sections.append(Section("Drift", [Figure("Divergence", DRIFT, shown)]))
        first = [name for name in ("method", "written", "n_edits") if name in drift]
        rest = [name for name in drift if name not in first]
        sections.append(
            Section(
                "Model and cost",
                [
                    Table("The model after the edits", drift[[*first, *rest]], MODELS, NAMES),
                    Table("CPU seconds per edit, in a row", self.cost()),
                ],
            )
        )
        restored = "are" if self.restored else "are NOT"
        n_methods = len(set(self.answers["method"]) - {"none"})
        return Report(
            title=f"Sequences of edits: {self.model}",
            lead=f"{n_methods} methods on edits of {self.source}. "
            f"After the run the weights {restored} the original ones, bit for bit.",
            sections=sections,
            method=(
                "Each edit is of another subject. Brackets are 95 % bootstrap intervals over "
                "questions.",
                f"Settings: {cell_text(self.options)}. {self.seconds:.0f} s in all.",
            ),
            excluded=excluded_counts(
                self.excluded | {f"{what}: {why}": 1 for what, why in self.stopped.items()}
            ),
            provenance=self.provenance | {"weights": self.weights_hash},
        )


RETENTION = (
    "Share of the edits made so far whose sentence is continued with the new object (of up to as "
    "many as are asked, spread evenly). Dashed: all edits written in one batch."
)
LOCALITY = (
    "Share of known questions about subjects that no edit is about which are still answered "
    "rightly. Dashed: in one batch."
)
DRIFT = "KL(original || edited) of the next token on neutral text."
AGE = "Efficacy after the last edit, of the oldest, middle and newest third of a row."
MODELS = (
    "Divergence and perplexity ratio on neutral text; largest norm of the changes over that of the "
    "original matrix; resident memory in GB."
)


def _hundred(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: 100 * table[name] for name in ("value", "low", "high")})
