"""`Edit`: facts written into a model's weights, as a value; ledgers of loaded models and on disk.

A changed weight is always its original plus the changes of all edits, formed anew in float64 and
rounded once: undoing any edit leaves what would be there without it, and undoing the last one
leaves the original's own bits.
"""

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits.editing.change import Change, Changes, Place, taken_neurons
from circuits.editing.fact import Fact, PreservedQuestion, refuse_conflicts
from circuits.editing.gradient_step import FeatureStatistics
from interp.brief import brief
from interp.errors import DataError, PlanError, RunFolderError
from interp.forward.blocks import projection
from interp.model.model import Model
from interp.model.weights import why_fixed
from interp.results import folder
from interp.results.folder import write_text
from interp.results.report import Report, Section, Table, excluded_counts
from interp.results.result import Result

_ATTRIBUTE = "interp_edits"


@brief
@dataclass(frozen=True)
class Edit(Result):
    """A low-rank change of named weights, bound to the weights it was made for.

    Attributes:
        model, weights_hash: what it was made for, before any edit.
        after: ids of the edits that the model carried when it was made.
        p: by stage and fact, the target's probability on the first prompt at the search's end;
            `nan` where a stage had no prompt of the fact.
        skipped: what a stage left out, and why.
        searched: per fact for which implicit names were searched, what was found and excluded.
        statistics: of what a `GradientStep` normalised; edits on top of this one go on from it.
        preserve: the questions that it was given to preserve.
    """

    facts: tuple[Fact, ...]
    changes: Changes = field(repr=False)
    method: str
    model: str
    weights_hash: str
    after: tuple[str, ...] = ()
    p: tuple[tuple[float, ...], ...] = ()
    skipped: tuple[str, ...] = ()
    seconds: float = 0.0
    seed: int = 0
    searched: tuple[str, ...] = ()
    statistics: tuple[FeatureStatistics, ...] = field(default=(), repr=False)
    preserve: tuple[PreservedQuestion, ...] = field(default=(), repr=False)

    KIND = "edit"

    @functools.cached_property
    def id(self) -> str:
        """Hash of what is changed, and in what."""
        digest = hashlib.blake2b(self.weights_hash.encode(), digest_size=6)
        for change in self.changes:
            digest.update(f"{change.site} {change.layer}".encode())
            for factor in (change.up, change.down):
                digest.update(np.ascontiguousarray(factor.cpu().numpy()).data)
        return digest.hexdigest()

    def apply(self, model: Model) -> None:
        """Add the change to the weights; `DataError` if applied already or made for others."""
        ledger(model).add(model, self)

    def undo(self, model: Model) -> None:
        """Take the change out; `DataError` if the model lacks it, or one on top of it is there."""
        ledger(model).remove(model, self)

    @contextlib.contextmanager
    def applied(self, model: Model) -> Generator[Model]:
        """The change for the length of a ``with`` block, whatever happens inside."""
        self.apply(model)
        try:
            yield model
        finally:
            self.undo(model)

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {
            "edit": self.id,
            "model": self.model,
            "method": self.method,
            "facts": [f"{fact.cloze} {fact.target}" for fact in self.facts],
            "changed": [f"blocks.{c.layer}.{c.site}" for c in self.changes],
            "p": [list(stage) for stage in self.p],
            "skipped": list(self.skipped),
            "searched": list(self.searched),
            "after": list(self.after),
            "seconds": round(self.seconds, 3),
        }

    def report(self) -> Report:
        """What an edit writes, where, and how well its search ended."""
        n = len(self.facts)
        changes = [
            {"matrix": f"block {c.layer}, {c.site}", "rank": c.up.shape[1]} for c in self.changes
        ]
        after = f" Made on top of edits {', '.join(self.after)}." if self.after else ""
        return Report(
            title=f"Edit {self.id} of {self.model} by {self.method}",
            lead=f"{n} fact{'s' * (n != 1)} in {len(self.changes)} changed weight matrices.",
            sections=[
                Section("Facts", [facts_table([self])]),
                Section("Changes", [Table("Changed weight matrices", pd.DataFrame(changes))]),
            ],
            method=(
                "Probability: of the target on the first prompt at the end of each stage's search.",
                f"Seed {self.seed}; {self.seconds:.1f} s.{after}",
                f"Questions given to preserve: {len(self.preserve)}.",
                *self.searched,
            ),
            excluded=excluded_counts({note: 1 for note in self.skipped}),
            provenance=self.provenance | {"weights": self.weights_hash},
        )


def facts_table(edits: Sequence[Edit]) -> Table:
    """The facts of edits, with the probability that each stage reached."""
    rows = [
        {"fact": fact.cloze, "target": fact.target, "subject": fact.subject, "edit": edit.id}
        | {"probability of the target": [stage[i] for stage in edit.p if i < len(stage)]}
        for edit in edits
        for i, fact in enumerate(edit.facts)
    ]
    return Table("Facts written", pd.DataFrame(rows), "Probability: one number per stage.")


Neurons = dict[tuple[int, int], str]
"""By (layer, neuron): the edit that writes its query."""


@brief
@dataclass
class Ledger:
    """The edits of one loaded model, in order; `base` is the hash of the weights without any.

    Of the weights that they change it keeps the original and the sum of all changes, so that one
    more edit costs the same however many there are.
    """

    base: str
    applied: list[Edit] = field(default_factory=list)
    originals: dict[Place, Tensor] = field(default_factory=dict)
    sums: dict[Place, Float[Tensor, "d_out d_in"]] = field(default_factory=dict)
    neurons: Neurons = field(default_factory=dict)

    def taken(self, layer: int) -> set[int]:
        """Neurons of a layer whose queries the edits wrote."""
        return {neuron for at, neuron in self.neurons if at == layer}

    def add(self, model: Model, edit: Edit) -> None:
        """Add an edit to the model's weights."""
        names = {one.id for one in self.applied}
        if edit.id in names:
            raise DataError(f"edit {edit.id} is already applied to {model.name}; undo it first.")
        if edit.weights_hash != self.base:
            raise DataError(
                f"edit {edit.id} was made for {edit.model} with weights {edit.weights_hash}, not "
                f"for {model.name} with {self.base}; make it anew on this model."
            )
        missing = [one for one in edit.after if one not in names]
        if missing:
            raise DataError(
                f"edit {edit.id} was made on top of edit {missing[0]}, which {model.name} does not "
                "carry; apply that one first."
            )
        neurons = _with_neurons(self.neurons, edit)
        refuse_unwritable(model)
        fresh = {change.place: self.sums.get(change.place) for change in edit.changes}
        for change in edit.changes:
            fresh[change.place] = _added(fresh[change.place], change)
        self._rewrite(model, fresh)
        self.applied.append(edit)
        self.neurons = neurons

    def remove(self, model: Model, edit: Edit) -> None:
        """Take an edit out of the model's weights."""
        left = [one for one in self.applied if one.id != edit.id]
        if len(left) == len(self.applied):
            carried = ", ".join(one.id for one in self.applied) or "none"
            raise DataError(
                f"edit {edit.id} is not applied to {model.name}, which carries {carried}."
            )
        refuse_needed(edit, left)
        fresh: dict[Place, Tensor | None] = {change.place: None for change in edit.changes}
        for change in (change for one in left for change in one.changes):
            if change.place in fresh:  # formed anew: what is subtracted would leave its rounding
                fresh[change.place] = _added(fresh[change.place], change)
        self._rewrite(model, fresh)
        self.applied[:] = left
        self.neurons = {at: name for at, name in self.neurons.items() if name != edit.id}

    def clear(self, model: Model) -> None:
        """Take all edits out at once."""
        self._rewrite(model, dict.fromkeys(self.sums))
        self.applied.clear()
        self.neurons.clear()

    @contextlib.contextmanager
    def suspended(self, model: Model) -> Generator[None]:
        """The original weights for the length of a ``with`` block, then the edited ones again."""
        modules: Any = {place: projection(model, *place) for place in self.originals}
        edited = {place: module.weight.detach().clone() for place, module in modules.items()}
        try:
            _put(model, self.originals)
            yield
        finally:
            _put(model, edited)

    def _rewrite(self, model: Model, sums: dict[Place, Tensor | None]) -> None:
        """Form weights anew from the sums of their changes; all before the first is replaced."""
        fresh: dict[Place, Tensor] = {}
        for place, total in sums.items():
            module: Any = projection(model, *place)
            if place not in self.originals:
                self.originals[place] = module.weight.detach().clone()
            original = self.originals[place]
            fresh[place] = original if total is None else _changed(original, total, module)
        _put(model, fresh)
        for place, total in sums.items():
            if total is None:
                del self.originals[place]
                self.sums.pop(place, None)
            else:
                self.sums[place] = total


@torch.no_grad()
def _put(model: Model, weights: dict[Place, Tensor]) -> None:
    for place, weight in weights.items():
        module: Any = projection(model, *place)
        module.weight.copy_(weight)


def _added(total: Tensor | None, change: Change) -> Float[Tensor, "d_out d_in"]:
    """A sum of changes and one more, in float64."""
    matrix = change.matrix.double()
    return matrix if total is None else total + matrix


def _with_neurons(neurons: Neurons, edit: Edit) -> Neurons:
    """The neurons of edits and of one more; `DataError` if shared: neither would fire rightly."""
    owner = dict(neurons)
    for layer in dict.fromkeys(change.layer for change in edit.changes):
        for neuron in sorted(taken_neurons(edit.changes, layer)):
            other = owner.setdefault((layer, neuron), edit.id)
            if other != edit.id:
                raise DataError(
                    f"edits {other} and {edit.id} both write neuron {neuron} of layer {layer}; "
                    "make the second on top of the first."
                )
    return owner


def ledger(model: Model) -> Ledger:
    """The ledger of a model; it lives as long as the loaded weights do."""
    attributes = model.hf.__dict__
    if _ATTRIBUTE not in attributes:
        attributes[_ATTRIBUTE] = Ledger(model.weights_hash)
    return attributes[_ATTRIBUTE]


def _changed(weight: Tensor, delta: Tensor, module: nn.Module) -> Tensor:
    """A weight with a sum of changes added, in its own layout and dtype."""
    delta = delta if isinstance(module, nn.Linear) else delta.T  # GPT-2's Conv1D is transposed
    return (weight.double() + delta.to(weight.device)).to(weight.dtype)


def refuse_unwritable(model: Model) -> None:
    """Raise `PlanError` where the model's weights cannot be changed in place."""
    fixed = why_fixed(model.hf)
    if fixed:
        raise PlanError(
            f"{model.name} cannot be edited: {fixed}; load it whole, without quantisation."
        )


def refuse_needed(edit: Edit, others: Sequence[Edit]) -> None:
    """Raise `DataError` where one of the others was made on top of an edit."""
    above = next((one for one in others if edit.id in one.after), None)
    if above is not None:
        raise DataError(f"edit {above.id} was made on top of {edit.id}; undo it first.")


def merge(edits: Sequence[Edit]) -> Edit:
    """One edit that does what several do together, applied in this order.

    Raises `DataError` where their weights differ, their facts conflict, or they share neurons.
    """
    if not edits:
        raise DataError("there is no edit to merge; give at least one.")
    first = edits[0]
    other = next((e for e in edits if e.weights_hash != first.weights_hash), None)
    if other is not None:
        raise DataError(
            f"edits {first.id} and {other.id} were made for different weights; merge edits of "
            "one model."
        )
    facts = tuple(fact for e in edits for fact in e.facts)
    refuse_conflicts(facts)
    neurons: Neurons = {}
    for e in edits:
        neurons = _with_neurons(neurons, e)
    inside = {e.id for e in edits}
    return Edit(
        facts,
        tuple(change for e in edits for change in e.changes),
        "+".join(dict.fromkeys(e.method for e in edits)),
        first.model,
        first.weights_hash,
        after=tuple(dict.fromkeys(i for e in edits for i in e.after if i not in inside)),
        skipped=tuple(note for e in edits for note in e.skipped),
        searched=tuple(note for e in edits for note in e.searched),
        seconds=sum(e.seconds for e in edits),
        seed=first.seed,
        statistics=tuple(one for e in edits for one in e.statistics),
        preserve=tuple(dict.fromkeys(one for e in edits for one in e.preserve)),
    )


def export(model: Model, path: str | Path) -> Path:
    """Write the model as it stands as a Hugging Face folder; `RunFolderError` if one is there."""
    out = Path(path)
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise RunFolderError(f"{out} exists; choose a new folder to export to.")
    with folder.placing(out) as beside:
        model.hf.save_pretrained(beside)
        model.tokenizer.save_pretrained(beside)
        note = {"edits": [one.summary() for one in ledger(model).applied]}
        write_text(beside / "interp_edits.json", json.dumps(note, indent=1))
        for file in beside.glob("*.safetensors"):  # which only the user could read
            shutil.copymode(beside / "config.json", file)
    return out
