"""`Comparison`: methods of editing side by side on the same cases, with intervals and tests."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from circuits.editing.editor import moments_for
from circuits.editing.evaluating import Arm, Protocol, evaluate_arm
from circuits.editing.evaluation import (
    IKE,
    SHOTS,
    Case,
    Cases,
    Match,
    Pool,
    Shots,
    compare,
    score,
    side_by_side,
    summary,
)
from circuits.editing.evaluation.metrics import DAMAGE
from circuits.editing.fact_prompts import contexts
from circuits.editing.knowing import Knowledge, know, know_enough, usable_cases
from circuits.editing.layer_selection import LayerSelection, selection_for
from circuits.editing.methods import BASELINES
from circuits.editing.moments import N_TOKENS
from circuits.editing.presets import preset, refuse_unknown
from interp.ablation.readouts import windows
from interp.brief import brief
from interp.errors import DataError
from interp.model.model import Model
from interp.results import folder
from interp.results.run_folder import RunFolder, Steps, fingerprint, identity
from interp.results.storage import checked

if TYPE_CHECKING:
    import plotly.graph_objects as go

REFERENCES = dict(zip(BASELINES, (None, "", IKE), strict=True))
"""Arms that change no weight, and how the edit is told in the prompt: not at all, as it is, or
behind demonstrations of how told facts are used, as in IKE (arXiv 2305.12740)."""

HEADLINE = (
    "multi_hop",
    "control_two_hop",
    "net_multi_hop",
    "efficacy",
    "paraphrase",
    "specificity",
    *DAMAGE,
)
N_PASSAGES = 4
"""Windows of neutral text that every edited model reads."""

UNASKED = "not asked, as enough before them were usable"
MOMENTS = "second moments, tokens"

Progress = Callable[[str, int, int], None]


@brief
@dataclass(frozen=True)
class Comparison:
    """What became of the same cases under several methods.

    Attributes:
        answers: every generated answer (`circuits.editing.evaluation.metrics.row`), with
            ``arm`` and ``seed``.
        edits: one line per case, arm and seed: seconds, probabilities reached, what was left out.
        model, weights_hash, source: what was edited, on which cases.
        n_cases: cases before the filter.
        excluded: why cases were left out, and how many.
        placement: layers of the ACE presets.
        options: everything else that was asked for.
        seconds: wall time.
        provenance: versions, machine and command line, filled when saved.
    """

    answers: pd.DataFrame = field(repr=False)
    edits: pd.DataFrame = field(repr=False)
    model: str
    weights_hash: str
    source: str
    n_cases: int
    excluded: dict[str, int]
    placement: LayerSelection | None
    options: dict[str, Any]
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    KIND: ClassVar[str] = "edit comparison"

    @property
    def arms(self) -> list[str]:
        """The methods, in the order given."""
        return list(dict.fromkeys(self.answers["arm"]))

    def scores(self, match: Match = "lenient") -> pd.DataFrame:
        """One line of scores per case, arm and seed (`circuits.editing.evaluation.metrics`)."""
        of_edit: Any = self.edits.filter(["arm", "seed", "case", *DAMAGE])
        return score(self.answers, match).merge(of_edit, on=["arm", "seed", "case"])

    def table(self, by: Sequence[str] = (), match: Match = "lenient") -> pd.DataFrame:
        """Means with 95 % intervals over clusters of cases; split by columns such as position."""
        return summary(self.scores(match), by)

    def against(
        self, arm: str, other: str, by: Sequence[str] = (), match: Match = "lenient"
    ) -> pd.DataFrame:
        """Paired differences of two arms, with intervals and McNemar's test."""
        return compare(self.scores(match), arm, other, by)

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        table = self.table().set_index(["arm", "metric"])
        strict: Any = self.table(match="strict").query("metric == 'multi_hop'").set_index("arm")
        return {
            "kind": self.KIND,
            "model": self.model,
            "source": self.source,
            "n_cases": self.n_cases,
            "n_asked": self.n_cases - self.excluded.get(UNASKED, 0),
            "n_filtered": len(set(self.answers["case"])),
            "excluded": self.excluded,
            "placement": self.placement and self.placement.summary(),
            "methods": {
                arm: self._line(table, arm) | {"multi_hop_strict": float(strict.value[arm])}
                for arm in self.arms
            },
            "seconds": round(self.seconds, 1),
        }

    def _line(self, table: pd.DataFrame, arm: str) -> dict[str, Any]:
        mine: Any = self.edits.loc[self.edits["arm"] == arm]
        reached = [p for line in mine["p"] for stage in json.loads(line) for p in stage if p == p]
        out: dict[str, Any] = {"n": len(set(mine["case"]))}
        for metric in HEADLINE:
            if (arm, metric) in table.index:
                found = table.loc[(arm, metric)]
                out[metric] = float(found["value"])
                out[f"{metric}_ci"] = [float(found["low"]), float(found["high"])]
        return out | {
            "seconds_per_edit": float(mine["seconds"].mean()),
            "peak_gb": float(mine["peak_gb"].max()),
            "p_reached_min": min(reached, default=None),
        }

    def plot(self) -> "go.Figure":
        """Multi-hop accuracy against control accuracy, a point an arm with both intervals."""
        from circuits.editing.figures import plot_frontier

        return plot_frontier(self)

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write a run folder: manifest.json and Parquet tables.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        names = ("model", "weights_hash", "source", "n_cases", "excluded", "options", "seconds")
        manifest = {
            "kind": self.KIND,
            **{name: getattr(self, name) for name in names},
            "placement": self.placement and self.placement.summary(),
            "provenance": folder.provenance() | (provenance or {}),
        }
        return folder.write(
            Path(path), manifest, {"answers": self.answers, "edits": self.edits}, {}
        )

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "Comparison":
        """Read a run folder.

        Raises:
            RunFolderError: a file is missing or damaged, or the folder is of another kind.
        """
        manifest, tables, _ = folder.read(path, cls.KIND, ("answers", "edits"))
        at = manifest["placement"]
        names = ("model", "weights_hash", "source", "n_cases", "excluded", "options", "seconds")
        said = {name: manifest[name] for name in names}
        return cls(
            tables["answers"],
            tables["edits"],
            placement=at and checked(at, LayerSelection),
            provenance=manifest["provenance"],
            **said,
        )


def _usable(
    model: Model, cases: Cases, known: Knowledge, limit: int | None, sequential: bool
) -> tuple[list[Case], dict[str, int]]:
    """The cases to edit, and how many are left out and why; `cases` are those that were asked."""
    kept, excluded = usable_cases(cases, known)
    if sequential:
        usable, kept = len(kept), side_by_side(kept)
        excluded["its edit touches an earlier one's"] = usable - len(kept)
    if not kept:
        raise DataError(
            f"{model.name} knows none of the {len(cases)} chains of {cases.source} before the "
            f"edit ({excluded}); give more cases or a stronger model."
        )
    used = kept[:limit]
    if len(used) < len(kept):
        excluded["beyond the limit"] = len(kept) - len(used)
    return used, excluded


def compare_methods(
    model: Model,
    cases: Cases,
    methods: Sequence[str],
    placement: LayerSelection | None = None,
    *,
    seeds: Sequence[int] = (0,),
    limit: int | None = None,
    shots: Shots = SHOTS,
    neutral: str | None = None,
    sequential: bool = False,
    n_contexts: int = 2,
    n_tokens: int = N_TOKENS,
    steps: Steps | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Edit every case that the model knows by every method, and ask what became of it.

    Args:
        model: the unedited model; its weights are not touched.
        cases: from `circuits.editing.evaluation.load_cases`.
        methods: presets (`METHODS`, with ``+`` at the end for equal information), ``"none"``,
            ``"told"`` or ``"ike"``.
        placement: layers of the ACE presets; built-in models have shipped ones, the default.
        seeds: of contexts, controls and preserved questions; each is a run of its own.
        limit: the first so many usable cases. Cases are asked `CASES_AT_ONCE` at a time until so
            many are usable; controls and preserved questions come from the cases asked.
        shots: demonstrations before each question; the same for all arms.
        neutral: text on whose first `N_PASSAGES` windows of 64 tokens drift is measured.
        sequential: make the edits one on top of the other and ask all questions after the last,
            instead of each case's under its own edit alone. Cases whose edits touch those of an
            earlier one are left out, and controls have nothing to do with any edit.
        n_contexts: sampled contexts beside the bare cloze, at most five.
        n_tokens: of the model's own samples, for second moments.
        steps: where finished parts are kept; a stopped run goes on from there.
        progress: called with (what is being done, done, in all).

    Raises:
        DataError: an unknown method, no usable case, or an ACE preset and no layers for the model.
    """
    started = time.perf_counter()
    say, kept_in = progress or (lambda what, done, total: None), steps or Steps()
    placement = placement or selection_for(model, None, *methods)
    arms = [_arm(name, model, placement) for name in methods]
    known, n_asked = _known(model, cases, shots, limit, sequential, say)
    used, excluded = _usable(model, cases[:n_asked], known, limit, sequential)
    if n_asked < len(cases):
        excluded[UNASKED] = len(cases) - n_asked
    passages = () if neutral is None else tuple(windows(model, neutral)[:N_PASSAGES])
    pool = Pool.of(cases[:n_asked], known.right)
    written = [arm.method for arm in arms if arm.method]
    moments = moments_for(
        model, written, placement, n_tokens, progress=lambda done, n: say(MOMENTS, done, n)
    )
    found: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    for seed in seeds:
        templates = contexts(model, seed=seed)[: 1 + n_contexts]
        for arm in arms:
            protocol = Protocol(shots, pool, seed=seed, neutral=passages, sequential=sequential)

            def told(done: int, total: int, name: str = arm.name, before: int = len(found)) -> None:
                kept_in.count(before * total + done, len(arms) * len(seeds) * total)
                say(name, done, total)

            found.append(
                evaluate_arm(model, arm, used, protocol, moments, templates, kept_in, told)
            )
    answers, edits = (pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True))
    options = {
        "methods": list(methods),
        "seeds": list(seeds),
        "limit": limit,
        "n_contexts": n_contexts,
        "n_tokens": n_tokens,
        "prefix": shots.prefix,
        "neutral": None if neutral is None else hashlib.blake2b(neutral.encode()).hexdigest(),
        "sequential": sequential,
    }
    return Comparison(
        answers,
        edits,
        model.name,
        model.weights_hash,
        cases.source,
        len(cases),
        excluded,
        placement,
        options,
        time.perf_counter() - started,
    )


def _known(
    model: Model, cases: Cases, shots: Shots, limit: int | None, sequential: bool, say: Progress
) -> tuple[Knowledge, int]:
    """What the model knows of as many cases as are needed, and how many these are."""

    def enough(usable: Sequence[Case]) -> bool:
        return limit is not None and len(side_by_side(usable) if sequential else usable) >= limit

    def asked(done: int, n: int) -> None:
        say("asking before the edit", done, n)

    if limit is None:
        return know(model, cases, shots, asked), len(cases)
    return know_enough(model, cases, shots, enough, asked)


def _arm(name: str, model: Model, placement: LayerSelection | None) -> Arm:
    if name in REFERENCES:
        return Arm(name, told=REFERENCES[name])
    refuse_unknown(name, REFERENCES)
    return Arm(name, preset(name, model, placement))


def compare_into(
    out: Path | None,
    model: Model,
    cases: Cases,
    methods: Sequence[str],
    placement: LayerSelection | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """As `compare_methods`, into a run folder, resuming where an earlier call was stopped.

    Args:
        out: the run folder; ``None`` keeps nothing.
        model: as in `compare_methods`; so is all that follows.
        cases: what is edited.
        methods: presets.
        placement: layers of the ACE presets.
        force: replace another run, or a damaged one, that `out` holds.
        progress: called with (what is being done, done, in all).
        options: the rest.

    Raises:
        RunFolderError: `out` holds another run, or something else.
        DataError: whatever `compare_methods` refuses.
    """
    if out is None:
        return compare_methods(model, cases, methods, placement, progress=progress, **options)
    placement = placement or selection_for(model, None, *methods)
    named = _named(cases, methods, placement, **options) | identity(model)
    with RunFolder.open(out, "edit evaluate", named, unit="edits", force=force) as run:
        if not run.finished:
            from circuits.kinds import write_page

            result = compare_methods(
                model, cases, methods, placement, steps=run, progress=progress, **options
            )
            run.finish(result.save, page=write_page)
    return Comparison.load(out)


def _named(
    cases: Cases,
    methods: Sequence[str],
    placement: LayerSelection | None,
    shots: Shots = SHOTS,
    neutral: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Every option, by name; a placement's moments are its layers' own."""
    moments = placement.covariances.values() if placement else ()
    digests = [hashlib.blake2b(one.numpy().tobytes()).hexdigest() for one in moments]
    demonstrations = [shots.prefix, shots.form, shots.stop, shots.n_tokens, shots.read.__name__]
    return {
        "methods": list(methods),
        **options,
        "placement": placement and fingerprint([placement.summary(), digests]),
        "shots": fingerprint(demonstrations),
        "neutral": neutral and fingerprint(neutral),
        "cases": len(cases),
        "rows": fingerprint(list(cases)),
    }
