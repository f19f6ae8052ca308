"""Many edits of one model, one after the other or in one batch; asked after 1, 10, 100 of them.

Every edit is put into the weights, through the model's ledger, so that one more costs the same
however many there are. Afterwards the original weights are back, bit for bit.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch

from circuits.editing.edit import Edit, Ledger, ledger, refuse_unwritable
from circuits.editing.editor import computed, moments_for
from circuits.editing.evaluation.answers import short_answer
from circuits.editing.evaluation.cases import Cases
from circuits.editing.evaluation.edited_models import generations, moved, text_log_p
from circuits.editing.evaluation.run_setup import Progress, passages_of, run_options, templates_of
from circuits.editing.evaluation.sequence_questions import SequencePlan, sequence_plan
from circuits.editing.evaluation.sequence_result import EditSequences
from circuits.editing.evaluation.sequence_settings import SequenceSettings
from circuits.editing.layer_selection import LayerSelection, selection_for
from circuits.editing.methods import Method
from circuits.editing.moments import Moments
from circuits.editing.presets import preset
from circuits.editing.writing import Request
from interp.brief import brief
from interp.data.prompts import TokenPrompt
from interp.errors import DataError, PlanError
from interp.model.model import Model
from interp.results.run_folder import TABLES, Steps, in_steps

AT_ONCE = 20
"""Edits of a row that a killed run loses at most."""
N_PRESERVED = 256
"""Preserved questions of a batch, at most: they are solved for together."""


@brief
@dataclass(frozen=True)
class MadeEdits:
    """Edits made one after the other, the CPU seconds of each, and why there are no more."""

    edits: tuple[Edit, ...]
    seconds: tuple[float, ...]
    stopped: str = ""


def edit_sequences(
    model: Model,
    cases: Cases[Any],
    settings: SequenceSettings,
    layers: LayerSelection | None = None,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> EditSequences:
    """Edit one model many times by every method, and ask it after each number of edits.

    The edits are of different subjects, in a seeded order. Afterwards the model's weights are what
    they were. The run folder `out` is resumed where an earlier call was stopped. `progress` is
    called with (what is being done, done, in all).

    Raises:
        DataError: no usable case or control, or an unknown method.
        PlanError: the model's weights cannot be changed, or it carries edits already.
        RunFolderError: `out` holds another run, or something else.
    """
    refuse_unwritable(model)
    if ledger(model).applied:
        raise PlanError(f"{model.name} carries edits already; undo them before a sequence.")
    layers = layers or selection_for(model, None, *settings.methods)
    named = run_options(model, cases, settings, layers) if out else {}
    make = partial(_sequences, model, cases, settings, layers, progress)
    return in_steps(out, "edit sequence", named, make, EditSequences, unit="edits", force=force)


def _sequences(
    model: Model,
    cases: Cases[Any],
    settings: SequenceSettings,
    layers: LayerSelection | None,
    progress: Progress | None,
    steps: Steps,
) -> EditSequences:
    started, report = time.perf_counter(), progress or (lambda what, done, total: None)
    methods = [preset(name, model, layers) for name in settings.methods]
    shots, n = settings.demonstrations(), settings.lengths[-1]
    report("asking before the edits", 0, 1)
    plan = sequence_plan(model, cases, n, settings.n_controls, shots, settings.seed)
    drawn = partial(report, "second moments, tokens")
    moments = moments_for(model, methods, layers, settings.n_tokens, progress=drawn)
    run = _Run(model, plan, settings, moments, steps, report)
    base = model.weights_hash
    try:
        run.ask("none", "row", min(n, len(plan.requests)))
        for method in methods:
            for order in settings.orders:
                (run.in_a_row if order == "row" else run.in_one_batch)(method)
                ledger(model).clear(model)
    finally:
        ledger(model).clear(model)
    answers, models = (pd.concat(tables, ignore_index=True) for tables in (run.answers, run.models))
    return EditSequences(
        answers,
        pd.DataFrame(run.edits, columns=["method", "order", "index", "seconds", "p"]),
        models,
        model.name,
        base,
        cases.source,
        len(cases) + len(cases.excluded),
        plan.excluded,
        run.stopped,
        model.weights_hash == base,
        settings.model_dump(mode="json", exclude={"shots"}),
        time.perf_counter() - started,
    )


class _Run:
    """One plan, carried out by several methods on one model."""

    def __init__(
        self,
        model: Model,
        plan: SequencePlan,
        settings: SequenceSettings,
        moments: Moments,
        steps: Steps,
        report: Progress,
    ):
        self.model, self.plan, self.settings, self.moments = model, plan, settings, moments
        self.shots, self.templates = settings.demonstrations(), templates_of(model, settings.seed)
        self.passages = passages_of(model, settings)
        self.steps, self.report = steps, report
        self.stopped: dict[str, str] = {}
        self.answers: list[pd.DataFrame] = []
        self.models: list[pd.DataFrame] = []
        self.edits: list[dict[str, Any]] = []

    def lengths(self) -> list[int]:
        """After how many edits the model is asked: all that there are is the last."""
        n = len(self.plan.requests)
        return sorted({min(length, n) for length in self.settings.lengths})

    def in_a_row(self, method: Method) -> None:
        """Edits one after the other; what is stored is put in without being computed again."""
        done, total = 0, self.lengths()[-1]
        for length in self.lengths():
            while done < length:
                stop = min(length, done + AT_ONCE)
                make = partial(self._made, method, self.plan.requests[done:stop])
                name = f"{method.name}/row/{done:06d}"
                made = self.steps.step(name, make, MadeEdits)
                carried = {one.id for one in ledger(self.model).applied}
                for one in made.edits:
                    if one.id not in carried:
                        one.apply(self.model)
                self._note(method, "row", made, done)
                done += len(made.edits)
                self.report(f"{method.name}, one after the other", done, total)
                if made.stopped:
                    self.stopped[f"{method.name}, row"] = f"after {done} edits: {made.stopped}"
                    if done and done not in self.lengths():  # else it was asked then
                        self.ask(method.name, "row", done)
                    return
            self.ask(method.name, "row", length)

    def in_one_batch(self, method: Method) -> None:
        """The first edits written together, for each number of them."""
        for length in self.lengths():
            requests = self.plan.requests[:length]
            facts = tuple(fact for request in requests for fact in request.facts)
            every = dict.fromkeys(q for request in requests for q in request.preserved)
            make = partial(self._made, method, [Request(facts, tuple(every)[:N_PRESERVED])])
            made = self.steps.step(f"{method.name}/batch/{length:06d}", make, MadeEdits)
            if made.stopped:
                self.stopped[f"{method.name}, batch"] = f"{length} edits: {made.stopped}"
                return
            book = ledger(self.model)
            if not book.applied:
                made.edits[0].apply(self.model)
            self._note(method, "batch", made, length)
            self.ask(method.name, "batch", length)
            book.clear(self.model)
            self.report(f"{method.name}, in one batch", length, self.lengths()[-1])

    def _made(self, method: Method, requests: Any) -> MadeEdits:
        edits: list[Edit] = []
        seconds: list[float] = []
        for request in requests:
            started = time.process_time()
            try:
                one = computed(
                    self.model, request, method, self.moments, self.templates, self.settings.seed
                )
                one.apply(self.model)
            except (DataError, PlanError) as error:
                return MadeEdits(tuple(edits), tuple(seconds), str(error))
            edits.append(one)
            seconds.append(time.process_time() - started)
        return MadeEdits(tuple(edits), tuple(seconds))

    def _note(self, method: Method, order: str, made: MadeEdits, before: int) -> None:
        for i, (one, seconds) in enumerate(zip(made.edits, made.seconds, strict=True), before):
            p = min((p for stage in one.p for p in stage if p == p), default=float("nan"))
            about = {"method": method.name, "order": order, "index": i}
            self.edits.append(about | {"seconds": seconds, "p": p})

    def ask(self, method: str, order: str, n: int) -> None:
        """Ask the model as it stands, after `n` edits."""
        found = self.steps.step(f"{method}/{order}/asked{n:06d}", partial(self._asked, n), TABLES)
        for tables, name in ((self.answers, "answers"), (self.models, "models")):
            tables.append(found[name].assign(method=method, order=order, n_edits=n))

    def _asked(self, n: int) -> dict[str, pd.DataFrame]:
        questions = self.plan.questions(n, self.settings.n_asked)
        texts = generations(self.model, [q.ask for q in questions], [()])
        rows = [
            {"kind": q.kind, "index": q.index, "expected": q.expected.text}
            | {"generated": said, "right": q.expected.lenient(said)}
            for q, said in zip(questions, map(self._read, questions, texts), strict=True)
        ]
        book = ledger(self.model)
        line: dict[str, float] = {"relative_change": largest_change(book)}
        line["gb"] = psutil.Process().memory_info().rss / 1e9
        if self.passages:
            line["kl"], line["perplexity_ratio"] = drift_since(self.model, self.passages)
        return {"answers": pd.DataFrame(rows), "models": pd.DataFrame([line])}

    def _read(self, question: Any, text: str) -> str:
        asked = question.ask.prefix and question.kind != "efficacy"
        return self.shots.read(text) if asked else short_answer(text)


def largest_change(book: Ledger) -> float:
    """The largest ||sum of changes|| / ||original|| of the weights that edits changed."""
    ratios = [float(book.sums[at].norm() / book.originals[at].double().norm()) for at in book.sums]
    return max(ratios, default=0.0)


@torch.no_grad()
def drift_since(model: Model, passages: Sequence[TokenPrompt]) -> tuple[float, float]:
    """Mean KL(original || edited) over tokens, in nats, and perplexity over the original's."""
    kl = nll = 0.0
    n = sum(len(passage.ids) - 1 for passage in passages)
    for passage in passages:
        ids = torch.tensor(passage.ids, device=model.device)
        edited = text_log_p(model, ids)
        with ledger(model).suspended(model):
            plain = text_log_p(model, ids)
        divergence, rise = moved(plain, edited, ids)
        kl += float(divergence)
        nll += float(rise)
    return kl / n, float(torch.tensor(nll / n).exp())
