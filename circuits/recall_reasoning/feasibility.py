"""Which cells a model can do: every kind of question, asked in each form, beside its shortcuts.

The same questions are asked as plain text and, where the model has a template, as chat turns;
those of two hops also for a written chain of thought. What `study` keeps of each is counted.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from circuits.recall_reasoning.cells import Data
from circuits.recall_reasoning.chains import ask, continued, final_answer, name_is_read, named
from circuits.recall_reasoning.designs import DESIGNS
from circuits.recall_reasoning.feasibility_result import Feasibility
from circuits.recall_reasoning.filter import WRONG, answered, candidates, right
from circuits.recall_reasoning.settings import FeasibilitySettings
from circuits.recall_reasoning.sources import build
from circuits.recall_reasoning.study import MINIMUM
from interp.ablation.readouts import spelt
from interp.brief import brief
from interp.data.answers import Aliases
from interp.data.chat import Chat, has_template, in_chat
from interp.data.pairs import Pair, PromptPairs, tokenise
from interp.data.prompts import as_prompts
from interp.errors import DataError
from interp.loading.organisms import ORGANISMS
from interp.model.model import Model
from interp.progress import Progress, reported
from interp.results.run_folder import Steps, fingerprint, identity, in_steps
from interp.statistics import bootstrap_mean

DIRECT = 16
"""Tokens of a reply without a chain in which an answer is looked for."""
TWO_HOPS = ("B", "D")
UNMATCHED = "a fact or question cannot be matched in the model's tokens"


def feasibility(
    model: Model,
    settings: FeasibilitySettings | None = None,
    out: str | Path | None = None,
    *,
    datasets: Path | None = None,
    force: bool = False,
    progress: Progress | bool = True,
) -> Feasibility:
    """Ask a model the questions of every design, in every form that it takes.

    Args:
        model: from `interp.load_model`.
        settings: numbers, and the options of the chat form.
        out: a run folder; a stopped run resumes there, a finished one is read back.
        datasets: as of `build`.
        force: replace another run that `out` holds.
        progress: called with (cells asked, in all); True draws a bar.

    Raises:
        DataError: no design has any questions for the model.
        RunFolderError: `out` holds another run.
    """
    settings = settings or FeasibilitySettings()
    drawn, lacking = _drawn(model, settings, datasets)
    if not drawn:
        first = next(iter(lacking.values()))["reason"]
        raise DataError(f"no design has questions for {model.name}; first: {first}")
    options = settings.model_dump(mode="json") | {"data": fingerprint(drawn)} | identity(model)
    forms = {"plain": None} | ({"chat": settings.chat or Chat()} if has_template(model) else {})

    def make(steps: Steps) -> Feasibility:
        started = time.perf_counter()
        asked: dict[str, Asking] = {}
        designs: list[dict[str, Any]] = []
        names = {_name(data, cell) for data in drawn.values() for cell in data.cells}
        total = len(forms) * len(names)
        with reported(progress, "asking", total, "cells") as report:
            for (form, chat), (name, data) in product(forms.items(), drawn.items()):
                own: dict[str, Asking] = {}
                for cell in data.cells:
                    key = f"{form}/{_name(data, cell)}"
                    if key not in asked:
                        one = replace(data.only((cell,)), chat=chat)
                        work = partial(Asking.of, model, one, form, settings)
                        asked[key] = steps.step(key, work, Asking)
                        steps.count(len(asked), total)
                        report(len(asked), total)
                    own[cell] = asked[key]
                designs.append({"design": name, "form": form, **_feasible(own, settings.n)})
        designs += [
            {"design": name, "form": form, **lacking[name]} for form in forms for name in lacking
        ]
        every = list(asked.values())
        return Feasibility(
            cells=pd.DataFrame([row for one in every for row in one.rows]),
            probes=pd.DataFrame([one.probes for one in every]),
            designs=pd.DataFrame(designs),
            left_out=Counter(reason for one in every for reason in one.left_out)
            + Counter({UNMATCHED: len({row for data in drawn.values() for row in data.rejected})}),
            settings=settings,
            model=model.name,
            seconds=time.perf_counter() - started,
        )

    verb = "recall-reasoning feasible"
    return in_steps(out, verb, options, make, Feasibility, unit="cells", force=force)


def _name(data: Data, cell: str) -> str:
    """Of the questions of a cell, which designs share."""
    return f"{cell}-{fingerprint(data.only((cell,)).pairs).removeprefix('blake2b:')}"


def _drawn(
    model: Model, settings: FeasibilitySettings, datasets: Path | None
) -> tuple[dict[str, Data], dict[str, dict[str, Any]]]:
    """The questions of each design, and the rows of those that have none, with the reason."""
    drawn: dict[str, Data] = {}
    lacking: dict[str, dict[str, Any]] = {}
    for name, design in DESIGNS.items():
        try:
            data = build(model, design, datasets, settings.n, settings.seed)
        except DataError as error:
            lacking[name] = {"feasible": False, "reason": str(error)}
            continue
        rest = [cell for cell in design.cells if cell not in data.cells]
        if rest:
            lacking[name] = {"feasible": False, "reason": f"{data.source} has no cell {rest[0]}"}
        else:
            drawn[name] = data
    return drawn, lacking


def _feasible(own: Mapping[str, "Asking"], n: int) -> dict[str, Any]:
    """Whether every cell of a design keeps enough pairs in every split, and how many to draw."""
    least = min(own, key=lambda cell: own[cell].kept)
    kept = own[least].kept
    reason = (
        "" if kept >= MINIMUM else f"cell {least} keeps {kept} pairs in one split, of at most {n}"
    )
    draw = math.ceil(MINIMUM * n / kept) if kept else math.nan
    row = {"feasible": not reason, "weakest": least, "kept": kept, "to_draw": draw}
    return row | {"reason": reason}


@brief
@dataclass(frozen=True)
class Asking:
    """What a model answers to the questions of one cell in one form.

    `kept` is the number of pairs that the filter keeps in the smallest split; `rows` has one row
    directly and, for two hops, one with a chain; `left_out` the reason for each other question.
    """

    kept: int
    rows: list[dict[str, Any]]
    probes: dict[str, Any]
    left_out: list[str]

    @classmethod
    def of(cls, model: Model, data: Data, form: str, settings: FeasibilitySettings) -> "Asking":
        """Ask the questions of data of one cell."""
        (cell,) = data.cells
        tables = answered(model, data, None)
        reasons = dict(zip(tables["dropped"]["id"], tables["dropped"]["reason"], strict=True))
        refused = {one: why for one, why in reasons.items() if why not in WRONG}
        plain, pairs = (
            [pair for split in own.pairs for pair in own.of(split, cell) if pair.id not in refused]
            for own in (replace(data, chat=None), data)
        )
        bridges = [data.bridge[pair.id] for pair in pairs]
        names = candidates(plain, data.candidates[cell])
        label = {"cell": cell, "questions": data.source, "form": form}
        base = label | {"n": len(pairs), "bridges": len(set(bridges))}

        def row(asked: str, said: Sequence[str | None]) -> dict[str, Any]:
            hit = [one == pair.answer for one, pair in zip(said, pairs, strict=True)]
            unread = {"no_answer": sum(one is None for one in said)}
            return base | {"asked": asked} | _rate("written", hit, bridges) | unread

        direct = [one.ids for one in as_prompts(model, pairs)]
        replies = continued(model, direct, DIRECT, until=partial(name_is_read, names=names))
        leads = [reasons.get(pair.id) != WRONG[0] for pair in pairs]
        kept = min(tables["counts"]["kept"].tolist())
        found = row("directly", [named(one.text, names) for one in replies])
        rows = [found | _rate("leads", leads, bridges) | {"kept": kept}]
        if cell in TWO_HOPS and model.name not in ORGANISMS:
            asked = [
                ask(model, pair.clean, data.chat, settings.demonstrations).ids for pair in plain
            ]
            chains = continued(model, asked, settings.new_tokens)
            rows.append(row("with a chain", [final_answer(one.text, names) for one in chains]))
        (reference, *_), _ = tokenise(model, PromptPairs(tuple(pairs), data.source))
        among = {text: spelt(model, reference, text) for text in names}
        probes = {"most_frequent": max(Counter(p.answer for p in plain).values()) / len(plain)}
        probes |= _probes(model, data, plain, among)
        return cls(kept, rows, label | probes, list(refused.values()))


def _rate(name: str, values: Sequence[bool], clusters: Sequence[str]) -> dict[str, float]:
    return bootstrap_mean(np.array(values, dtype=float), clusters=clusters).columns(name)


# --- shortcuts -----------------------------------------------------------------------------------


def _probes(
    model: Model, data: Data, pairs: Sequence[Pair], among: Mapping[str, Aliases]
) -> dict[str, Any]:
    """How often the answer leads all others where the prompt lacks what decides it."""
    row: dict[str, Any] = {}
    for name, shortened in (("without_bridge", without_bridge), ("from_subject", from_subject)):
        shorter = (shortened(data, pair) for pair in pairs)
        texts = {i: text for i, text in enumerate(shorter) if text}
        if texts:
            prompts = as_prompts(model, [in_chat(text, data.chat) for text in texts.values()])
            used = [pairs[i] for i in texts]
            hit, _ = right(model, prompts, [among[p.answer] for p in used], list(among.values()))
            row |= _rate(name, hit.tolist(), data.clusters(PromptPairs(tuple(used))))
        row[f"n_{name}"] = len(texts)
    return row


def without_bridge(data: Data, pair: Pair) -> str:
    """The clean prompt without what names its bridge, which only its answer's sentence keeps.

    Where nothing names it, the question without its first hop; ``""`` where there is none.
    """
    if pair.id in data.shortcuts:
        return data.shortcuts[pair.id][0]
    bridge = re.compile(rf"(?<!\w){re.escape(data.bridge[pair.id])}(?!\w) ?")
    *facts, question = re.split(r"(?<=[.;]) ", pair.clean)
    kept = [one for one in facts if pair.answer in one or not bridge.search(one)]
    found = " ".join((*kept, bridge.sub("", question))).strip()
    return "" if found == pair.clean else found


def from_subject(_: Data, pair: Pair) -> str:
    """The clean prompt from its subject on; ``""`` where it has none."""
    return pair.clean[pair.spans["subject"][0][0] :] if "subject" in pair.spans else ""
