"""`Comparison`: methods of editing side by side on the same cases, with intervals and tests."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from circuits.editing.edit import refuse_unwritable
from circuits.editing.editor import moments_for
from circuits.editing.evaluation import figures, intervals, multihop_metrics, single_edits
from circuits.editing.evaluation.benchmark_metrics import BENCHMARK_METRICS, SCORES, BenchmarkMetric
from circuits.editing.evaluation.case_selection import UNASKED, UNUSABLE, selected_cases
from circuits.editing.evaluation.cases import MULTI_HOP_FORMATS, Cases
from circuits.editing.evaluation.comparison_settings import ComparisonSettings
from circuits.editing.evaluation.conditions import EditCondition, Protocol, evaluate_condition
from circuits.editing.evaluation.demonstrations import IKE
from circuits.editing.evaluation.edited_models import SIDE_EFFECTS
from circuits.editing.evaluation.fact_questions import FACT_METRICS, unformed
from circuits.editing.evaluation.figures import AGREEMENT
from circuits.editing.evaluation.implicit_names import with_names
from circuits.editing.evaluation.multihop_metrics import Match
from circuits.editing.evaluation.run_setup import Progress, passages_of, run_options, templates_of
from circuits.editing.layer_selection import LayerSelection, selection_for
from circuits.editing.methods import BASELINES
from circuits.editing.presets import preset, refuse_unknown
from interp.brief import brief
from interp.data.chat import Chat
from interp.errors import DataError
from interp.model.model import Model
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_counts
from interp.results.result import Result
from interp.results.run_folder import Steps, in_steps

if TYPE_CHECKING:
    import plotly.graph_objects as go

IN_PROMPT = dict(zip(BASELINES, (None, "", IKE), strict=True))
"""Conditions that change no weight, and how the prompt states the edit: not at all, as it is, or
behind demonstrations of how stated facts are used, as in IKE (arXiv 2305.12740)."""
FRONTIER = (
    "Up: more multi-hop questions answered by the edit; right: fewer others broken. On the dotted "
    "line an edit answers as many questions as it breaks."
)
METRICS_FIGURE = "Each point is a mean over edits with its 95 % interval."
SIDE_EFFECTS_NOTE = (
    "Fluency: n-gram entropy of what is generated after the edited cloze, in bits. On neutral "
    "text: divergence from the unedited model, in nats per token, and perplexity over the unedited "
    "model's."
)
N_ROWS = 20
"""Unusable rows that the summary names."""


@brief
@dataclass(frozen=True)
class Comparison(Result):
    """What became of the same cases under several conditions.

    Attributes:
        answers: what was asked and answered per ``condition`` and ``seed``; the columns are those
            of `multihop_metrics.row`, or of `single_edits.ASK`.
        edits: one line per case, condition and seed: seconds, probabilities reached, side effects.
        unusable: rows of the file that are no cases: their ``id``, ``where`` and ``reason``.
        n_cases: rows of the file.
        layers: of the ACE presets, without their covariances.
        implicit: what was tried as implicit names, as `ImplicitSubjects.tried`, over the facts of
            all cases in order.
    """

    KIND = "edit comparison"

    answers: pd.DataFrame = field(repr=False)
    edits: pd.DataFrame = field(repr=False)
    unusable: pd.DataFrame = field(repr=False)
    model: str
    weights_hash: str
    source: str
    format: str
    n_cases: int
    excluded: dict[str, int]
    layers: LayerSelection | None
    options: dict[str, Any]
    seconds: float
    implicit: pd.DataFrame = field(repr=False)

    @property
    def conditions(self) -> list[str]:
        """The methods and baselines, in the order given."""
        return list(dict.fromkeys(self.answers["condition"]))

    @property
    def multi_hop(self) -> bool:
        """Whether the cases are chains, not single edits."""
        return self.format in MULTI_HOP_FORMATS

    def _definitions(self, table: pd.DataFrame) -> list[BenchmarkMetric]:
        """What each metric of a table is, ours first."""
        found = set(table["metric"])
        return [one for one in BENCHMARK_METRICS[self.format] if one.name in found]

    def scores(self, match: Match = "lenient") -> pd.DataFrame:
        """One line of scores and side effects per case, condition and seed."""
        scores = (
            multihop_metrics.score(self.answers, match, self.format)
            if self.multi_hop
            else single_edits.score(self.answers, self.format)
        )
        keys = ["condition", "seed", "case", *SIDE_EFFECTS, *FACT_METRICS]
        of_edit: Any = self.edits.filter(keys)
        order = {name: i for i, name in enumerate(self.conditions)}
        merged = scores.merge(of_edit, on=["condition", "seed", "case"])
        return merged.sort_values("condition", key=lambda names: names.map(order), kind="stable")

    def table(self, by: Sequence[str] = (), match: Match = "lenient") -> pd.DataFrame:
        """Means with 95 % intervals over clusters of cases; split by columns such as position."""
        return intervals.summary(self.scores(match), by, SCORES.get(self.format))

    def against(
        self, condition: str, other: str, by: Sequence[str] = (), match: Match = "lenient"
    ) -> pd.DataFrame:
        """Paired differences of two conditions, with intervals and McNemar's test."""
        return intervals.compare(self.scores(match), condition, other, by)

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        means = self.table()
        table = means.set_index(["condition", "metric"])
        methods = {name: self._line(table, name) for name in self.conditions}
        if self.multi_hop:
            strict: Any = self.table(match="strict").query("metric == 'multi_hop'")
            for name, value in strict.set_index("condition")["value"].items():
                methods[name]["multi_hop_strict"] = float(value)
        return {
            "kind": self.KIND,
            **self.named("model", "source", "format", "n_cases"),
            "n_asked": self.n_cases - sum(self.excluded.get(n, 0) for n in (UNASKED, UNUSABLE)),
            "n_filtered": len(set(self.answers["case"])),
            "excluded": self.excluded,
            "unusable": self.unusable.head(N_ROWS).to_dict("records"),
            "filter": self.options["filter"] if self.multi_hop else None,
            "shots": self.options["shots"] if self.multi_hop else None,
            "metrics": {
                one.name: {"protocol": one.protocol, "definition": one.text, "source": one.source}
                for one in self._definitions(means)
            },
            "unformed": unformed(self.edits),
            "implicit": self.implicit["outcome"].value_counts().to_dict(),
            "placement": self.layers and self.layers.summary(),
            "methods": methods,
            "seconds": round(self.seconds, 1),
        }

    def _line(self, table: pd.DataFrame, name: str) -> dict[str, Any]:
        mine: Any = self.edits.loc[self.edits["condition"] == name]
        reached = [p for line in mine["p"] for stage in json.loads(line) for p in stage if p == p]
        out: dict[str, Any] = {"n": len(set(mine["case"]))}
        own = [one.name for one in BENCHMARK_METRICS[self.format]]
        for metric in (*own, *SIDE_EFFECTS, *AGREEMENT):
            if (name, metric) in table.index:
                found = table.loc[(name, metric)]
                out[metric] = float(found["value"])
                out[f"{metric}_ci"] = [float(found["low"]), float(found["high"])]
        return out | {
            "seconds_per_edit": float(mine["seconds"].mean()),
            "peak_gb": float(mine["peak_gb"].max()),
            "p_reached_min": min(reached, default=None),
        }

    def plot(self) -> "go.Figure":
        """Multi-hop against control accuracy per method; of other formats every metric."""
        n = len(set(self.answers["case"]))
        if self.multi_hop:
            return figures.plot_frontier(self.table(), self.model, n)
        table = self.table()
        names = [one.name for one in self._definitions(table)]
        shown = [name for name in names if not name.endswith("magnitude")]
        return figures.plot_metrics(table, shown, self.model, n)

    def report(self) -> Report:
        """The figure, the tables, the layers of ACE, and what was left out."""
        multi_hop, table = self.multi_hop, self.table()
        lead = figures.best(table) if multi_hop else ""
        how = (
            "the edits made one on top of the other, all questions asked after the last"
            if self.options["sequential"]
            else "each edited on its own, asked under its own edit"
        )
        text = f"{FRONTIER} {lead}" if multi_hop else METRICS_FIGURE
        name = "Edits used two hops later" if multi_hop else "Metrics of the benchmark"
        ours = [one.name for one in BENCHMARK_METRICS[self.format] if one.whose == "ours"]
        everything = figures.protocol_tables(table, self._definitions(table))
        sections = [Section("Accuracy", [Figure(name, text, self.plot()), *everything])]
        if multi_hop:
            by = self.table(["position"])
            part = figures.means_table("In %", by, ["condition", "position"], ours)
            sections.append(Section("By the position of the edited hop", [part]))
        beside = figures.means_table(
            *("Text beside the questions", table, ["condition"], SIDE_EFFECTS),
            times=1,
            digits=3,
            note=SIDE_EFFECTS_NOTE,
        )
        if "unformed" in self.edits:
            sections.append(figures.agreement(table, unformed(self.edits)))
        sections.append(Section("Other text", [beside]))
        sections += [self.layers.section()] if self.layers else []
        if len(self.unusable):
            rows = Table("The first of them", self.unusable.head(N_ROWS).drop(columns="id"))
            sections.append(Section("Rows of the file that cannot be used", [rows]))
        n, options = len(set(self.answers["case"])), cell_text(self.options)
        return Report(
            title=f"Edits compared: {self.model}",
            lead=f"{n} of {self.n_cases} cases of {self.source}; {how}. {lead}",
            sections=sections,
            method=(
                "Brackets are 95 % bootstrap intervals over clusters of cases; one cluster alone "
                "has no interval. A method with + gets the two-hop prompts and preserved questions "
                "that ace gets.",
                f"Settings: {options}. {self.seconds:.0f} s in all.",
            ),
            excluded=excluded_counts(self.excluded),
            provenance=self.provenance | {"weights": self.weights_hash},
        )


def compare_methods(
    model: Model,
    cases: Cases[Any],
    settings: ComparisonSettings,
    layers: LayerSelection | None = None,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Edit every case by every method, and ask what became of it.

    Multi-hop cases are used that the model knows before the edit; of the other formats those whose
    subject and target have tokens of their own.

    The model's weights are not touched. `layers` are those of the ACE presets; built-in models have
    shipped ones, the default. The run folder `out` is resumed where an earlier call was stopped, or
    replaced with `force`. `progress` is called with (what is being done, done, in all).

    Raises:
        DataError: an unknown method, no usable case, an ACE preset and no layers for the model, or
            a chat and cases that are not multi-hop.
        RunFolderError: `out` holds another run, or something else.
    """
    if settings.chat is not None:
        cases = _in_chat(cases, settings.chat)
    layers = layers or selection_for(model, None, *settings.methods)
    named = run_options(model, cases, settings, layers) if out else {}
    make = partial(_compared, model, cases, settings, layers, progress)
    return in_steps(out, "edit evaluate", named, make, Comparison, unit="edits", force=force)


def _in_chat(cases: Cases[Any], chat: Chat) -> Cases[Any]:
    if cases.format not in MULTI_HOP_FORMATS:
        raise DataError(
            f"{cases.format} measures how plain texts go on, so its cases are not put into a chat; "
            "leave the options of chats out, or give multi-hop cases."
        )

    def edited(case: Any) -> Any:
        return replace(case, facts=tuple(replace(fact, chat=chat) for fact in case.facts))

    return replace(cases, records=tuple(map(edited, cases.records)))


def _compared(
    model: Model,
    cases: Cases[Any],
    settings: ComparisonSettings,
    layers: LayerSelection | None,
    progress: Progress | None,
    steps: Steps,
) -> Comparison:
    started = time.perf_counter()
    report = progress or (lambda what, done, total: None)
    conditions = [_condition(name, model, layers) for name in settings.methods]
    if any(one.method for one in conditions):
        refuse_unwritable(model)
    used, excluded, pool = selected_cases(model, cases, settings, report)
    used, tried = with_names(model, used, settings.implicit, steps, report)
    passages, shots = passages_of(model, settings), settings.demonstrations()
    methods = [one.method for one in conditions if one.method]
    drawn = partial(report, "second moments, tokens")
    moments = moments_for(model, methods, layers, settings.n_tokens, progress=drawn)
    plain: dict[str, str] = {}
    if cases.format not in MULTI_HOP_FORMATS:
        asked = partial(report, "asking before the edit")
        plain = single_edits.asked_before(model, used, cases.format, steps, asked)
    found: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    for seed in settings.seeds:
        templates = templates_of(model, seed)
        options = (settings.sequential, settings.fact_questions, plain)
        protocol = Protocol(shots, pool, cases.format, seed, passages, *options)
        for one in conditions:

            def done(n: int, total: int, name: str = one.name, before: int = len(found)) -> None:
                steps.count(before * total + n, len(conditions) * len(settings.seeds) * total)
                report(name, n, total)

            found.append(
                evaluate_condition(model, one, used, protocol, moments, templates, steps, done)
            )
    answers, edits = (pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True))
    rows = [(row.id, row.where, row.reason) for row in cases.excluded]
    shown = settings.shots if isinstance(settings.shots, str) else "given"
    return Comparison(
        answers,
        edits,
        pd.DataFrame(rows, columns=["id", "where", "reason"], dtype=object),
        model.name,
        model.weights_hash,
        cases.source,
        cases.format,
        len(cases) + len(rows),
        excluded,
        layers and replace(layers, covariances={}),
        settings.model_dump(mode="json", exclude={"shots"}) | {"shots": shown},
        time.perf_counter() - started,
        tried,
    )


def _condition(name: str, model: Model, layers: LayerSelection | None) -> EditCondition:
    if name in IN_PROMPT:
        return EditCondition(name, in_prompt=IN_PROMPT[name])
    refuse_unknown(name, IN_PROMPT)
    return EditCondition(name, preset(name, model, layers))
