"""`Edit`: facts written into a model's weights, as a value: applied, undone, saved, merged."""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuits.editing.changes import Change, Changes
from circuits.editing.facts import Fact, refuse_conflicts
from circuits.editing.ledger import carry, drop, ledger, refuse_shared_neurons
from circuits.editing.methods import Method, Placement, preset
from circuits.editing.moments import N_TOKENS
from circuits.editing.placement import placement_for
from circuits.editing.prompting import Kept, contexts, refuse_unanchored
from circuits.editing.writing import Request, moments_for, write
from interp.brief import brief
from interp.errors import DataError, RunFolderError, shown
from interp.model.model import Model
from interp.progress import Progress, reported
from interp.results import folder
from interp.results.folder import write_text

REACHED = 0.5
"""A target whose probability stays below this after the search was not written."""


@brief
@dataclass(frozen=True)
class Edit:
    """A low-rank change of named weights, bound to the weights it was made for.

    Attributes:
        facts: what it writes.
        changes: how.
        method: the name of the preset.
        model, weights_hash: what it was made for, before any edit.
        after: ids of the edits that the model carried when it was made.
        p: by stage and fact, the target's probability on the first prompt at the search's end;
            `nan` where a stage had no prompt of the fact.
        skipped: what a stage left out, and why.
        seconds: how long it took.
        seed: of the context templates.
        provenance: versions, machine and command line, filled when saved.
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
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    KIND = "edit"

    @property
    def id(self) -> str:
        """Hash of what is changed, and in what."""
        digest = hashlib.blake2b(self.weights_hash.encode(), digest_size=6)
        for change in self.changes:
            digest.update(f"{change.site} {change.layer}".encode())
            for factor in (change.up, change.down):
                digest.update(np.ascontiguousarray(factor.cpu().numpy()).data)
        return digest.hexdigest()

    def apply(self, model: Model) -> None:
        """Add the change to the model's weights; `undo` takes it out again.

        Raises:
            DataError: it is applied already, or was made for other weights.
        """
        carry(model, self)

    def undo(self, model: Model) -> None:
        """Take the change out; without other edits the weights have their own bits again.

        Raises:
            DataError: the model does not carry it.
        """
        drop(model, self)

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
            "after": list(self.after),
            "seconds": round(self.seconds, 3),
        }

    def save(self, path: str | Path) -> Path:
        """Write a folder: manifest.json, and the factors in safetensors.

        Raises:
            RunFolderError: the path holds something that is not a run folder.
        """
        names = ("method", "model", "weights_hash", "seconds", "seed")
        manifest = {
            "kind": self.KIND,
            "id": self.id,
            **{name: getattr(self, name) for name in names},
            "facts": [asdict(fact) for fact in self.facts],
            "places": [[c.site, c.layer] for c in self.changes],
            "after": list(self.after),
            "p": json.loads(json.dumps([list(stage) for stage in self.p]).replace("NaN", "null")),
            "skipped": list(self.skipped),
            "provenance": folder.provenance(),
        }
        arrays = {
            f"{i}.{name}": getattr(c, name).cpu().numpy()
            for i, c in enumerate(self.changes)
            for name in ("up", "down")
        }
        return folder.write(Path(path), manifest, {}, arrays)

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "Edit":
        """Read a folder written by `save`.

        Raises:
            RunFolderError: a file is missing, damaged or altered.
        """
        manifest, _, arrays = folder.read(path, cls.KIND, ())
        changes = tuple(
            Change(site, layer, *(torch.from_numpy(arrays[f"{i}.{n}"]) for n in ("up", "down")))
            for i, (site, layer) in enumerate(manifest["places"])
        )
        facts = tuple(
            Fact(**fact | {"implicit": tuple(fact["implicit"])}) for fact in manifest["facts"]
        )
        stages = [tuple(np.nan if x is None else x for x in stage) for stage in manifest["p"]]
        edit = cls(
            facts,
            changes,
            manifest["method"],
            manifest["model"],
            manifest["weights_hash"],
            tuple(manifest["after"]),
            tuple(stages),
            tuple(manifest["skipped"]),
            manifest["seconds"],
            manifest["seed"],
            manifest["provenance"],
        )
        named = manifest.get("id")
        if edit.id != named:
            raise RunFolderError(
                f"{path} is damaged: its factors are not those of edit {shown(named)}; make it "
                "again."
            )
        return edit


def edit(
    model: Model,
    facts: Sequence[Fact],
    method: str | Method = "ace",
    *,
    kept: Sequence[Kept] = (),
    placement: Placement | None = None,
    n_tokens: int = N_TOKENS,
    seed: int = 0,
    progress: Progress | bool = True,
) -> Edit:
    """Compute an edit of one or several facts, on the model as it is now; nothing is changed.

    Args:
        model: the model, with whatever edits it carries.
        facts: written together.
        method: a preset's name (`METHODS`) or a `Method`.
        kept: questions whose answers are to stay; of presets the ACE neurons and those with a
            ``+`` can keep some.
        placement: layers of the ACE presets, from `circuits.editing.place`; built-in models have
            shipped ones, which are the default.
        n_tokens: of the model's own samples, for second moments that are not cached yet.
        seed: of samples and context templates.
        progress: called with (tokens done, in all) while second moments are taken, which is what
            takes long; True draws a bar where one is watched.

    Raises:
        DataError: facts conflict, are held by the model already, or lack what the method needs;
            the method keeps no questions and there are some; or a target was not reached.
        PlanError: the model lacks a projection.
    """
    if not facts:
        raise DataError("there is no fact to edit; give at least one.")
    refuse_conflicts(facts)
    started = time.perf_counter()
    if isinstance(method, str):
        placement = placement or placement_for(model, None, method)
        chosen = preset(method, model, placement)
    else:
        chosen = method
    if kept and not any(stage.kept_weight for stage in chosen.stages):
        raise DataError(
            f"{chosen.name} keeps no questions; give none, or take ace or a preset with a +."
        )
    refuse_held(model, facts)
    for fact in facts:  # before the minutes that moments take
        refuse_unanchored(model, fact)
    with reported(progress, "second moments", 2 * n_tokens, "tokens") as report:
        moments = moments_for(model, [chosen], placement, n_tokens, seed, report)
    templates = contexts(model, seed=seed)
    request = Request(tuple(facts), tuple(kept))
    (written,) = write(model, [request], chosen, moments, templates)
    _refuse_unreached(facts, written.p)
    book = ledger(model)
    return Edit(
        tuple(facts),
        written.changes,
        chosen.name,
        model.name,
        book.base,
        tuple(one.id for one in book.applied),
        written.p,
        written.skipped,
        time.perf_counter() - started,
        seed,
    )


def refuse_held(model: Model, facts: Sequence[Fact]) -> None:
    """Raise unless the model continues each cloze with something else than the target.

    Raises:
        DataError: naming the first fact that the model holds already.
    """
    from circuits.editing.asking import Ask, generations
    from circuits.editing.evaluation.answers import Answer

    said = generations(model, [Ask(0, fact.cloze, n_tokens=5) for fact in facts], [()])
    for fact, text in zip(facts, said, strict=True):
        if text.startswith(fact.target) and Answer(fact.target).lenient(text):
            at = f"{fact.where}: " if fact.where else ""
            raise DataError(
                f"{at}{model.name} already continues {shown(fact.cloze)} with "
                f"{shown(fact.target)}; there is nothing to edit."
            )


def _refuse_unreached(facts: Sequence[Fact], p: Sequence[Sequence[float]]) -> None:
    for number, stage in enumerate(p):
        for fact, value in zip(facts, stage, strict=True):
            if value < REACHED:
                raise DataError(
                    f"the search of stage {number} reached only p = {value:.2f} for "
                    f"{shown(fact.target)} after {shown(fact.cloze)}; allow more steps, a larger "
                    "clamp or other layers."
                )


def merge(edits: Sequence[Edit]) -> Edit:
    """One edit that does what several do together, applied in this order.

    Raises:
        DataError: there is none, they are for different weights, their facts conflict, or they
            write the same neurons.
    """
    if not edits:
        raise DataError("there is no edit to merge; give at least one.")
    other = next((e for e in edits if e.weights_hash != edits[0].weights_hash), None)
    if other is not None:
        raise DataError(
            f"edits {edits[0].id} and {other.id} were made for different weights; merge edits of "
            "one model."
        )
    facts = tuple(fact for e in edits for fact in e.facts)
    refuse_conflicts(facts)
    refuse_shared_neurons(edits)
    inside = {e.id for e in edits}
    return Edit(
        facts,
        tuple(change for e in edits for change in e.changes),
        "+".join(dict.fromkeys(e.method for e in edits)),
        edits[0].model,
        edits[0].weights_hash,
        tuple(dict.fromkeys(i for e in edits for i in e.after if i not in inside)),
        (),
        tuple(note for e in edits for note in e.skipped),
        sum(e.seconds for e in edits),
        edits[0].seed,
    )


def export(model: Model, path: str | Path) -> Path:
    """Write the model as it stands, edits included, as an ordinary Hugging Face folder.

    Raises:
        RunFolderError: the path exists and is not empty.
    """
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
