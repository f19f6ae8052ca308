"""Which edits a model carries: applied in any order, undone in any order, bit for bit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from circuits.editing.changes import Change, Changes, taken_neurons
from circuits.editing.keys import Place
from interp.brief import brief
from interp.errors import DataError
from interp.forward.projections import projection
from interp.model.model import Model

if TYPE_CHECKING:
    from circuits.editing.edits import Edit

_ATTRIBUTE = "interp_edits"


@brief
@dataclass
class Ledger:
    """The edits of one loaded model.

    A changed weight is always its original plus the changes of all edits, formed anew in
    float64 and rounded once: so undoing any edit leaves what would be there without it, and
    undoing the last one leaves the original's own bits.

    Attributes:
        base: hash of the weights without any edit.
        applied: the edits, in order.
        originals: the weights that edits change, as they were.
    """

    base: str
    applied: list["Edit"] = field(default_factory=list)
    originals: dict[Place, Tensor] = field(default_factory=dict)


def ledger(model: Model) -> Ledger:
    """The ledger of a model; it lives as long as the loaded weights do."""
    found: Any = model.hf.__dict__.get(_ATTRIBUTE)
    if found is None:
        found = Ledger(model.weights_hash)
        model.hf.__dict__[_ATTRIBUTE] = found
    return found


def carry(model: Model, edit: "Edit") -> None:
    """Add an edit to the model's weights.

    Raises:
        DataError: it is applied already, or was made for other weights or on top of edits that
            the model does not carry, or takes neurons that another edit has taken.
        PlanError: the model lacks a projection.
    """
    book = ledger(model)
    names = [one.id for one in book.applied]
    if edit.id in names:
        raise DataError(f"edit {edit.id} is already applied to {model.name}; undo it first.")
    if edit.weights_hash != book.base:
        raise DataError(
            f"edit {edit.id} was made for {edit.model} with weights {edit.weights_hash}, not for "
            f"{model.name} with {book.base}; make it anew on this model."
        )
    missing = [one for one in edit.after if one not in names]
    if missing:
        raise DataError(
            f"edit {edit.id} was made on top of edit {missing[0]}, which {model.name} does not "
            "carry; apply that one first."
        )
    refuse_shared_neurons([*book.applied, edit])
    _rewrite(model, book, [*book.applied, edit], edit.changes)
    book.applied.append(edit)


def refuse_shared_neurons(edits: Sequence["Edit"]) -> None:
    """Raise where two edits write the query of the same neuron: neither would fire as it should.

    Raises:
        DataError: naming the two.
    """
    owner: dict[tuple[int, int], str] = {}
    for edit in edits:
        for layer in dict.fromkeys(change.layer for change in edit.changes):
            for neuron in sorted(taken_neurons(edit.changes, layer)):
                other = owner.setdefault((layer, neuron), edit.id)
                if other != edit.id:
                    raise DataError(
                        f"edits {other} and {edit.id} both write neuron {neuron} of layer {layer}; "
                        "make the second on top of the first."
                    )


def drop(model: Model, edit: "Edit") -> None:
    """Take an edit out of the model's weights.

    Raises:
        DataError: the model does not carry it, or carries one that was made on top of it.
    """
    book = ledger(model)
    left = [one for one in book.applied if one.id != edit.id]
    if len(left) == len(book.applied):
        carried = ", ".join(one.id for one in book.applied) or "none"
        raise DataError(f"edit {edit.id} is not applied to {model.name}, which carries {carried}.")
    above = next((one for one in left if edit.id in one.after), None)
    if above is not None:
        raise DataError(f"edit {above.id} was made on top of {edit.id}; undo it first.")
    _rewrite(model, book, left, edit.changes)
    book.applied[:] = left


def _rewrite(model: Model, book: Ledger, edits: list["Edit"], touched: Changes) -> None:
    """Form the touched weights anew; all are computed before the first is replaced."""
    fresh: dict[Place, Tensor] = {}
    for place in dict.fromkeys((change.site, change.layer) for change in touched):
        module: Any = projection(model, *place)
        original = book.originals.get(place)
        if original is None:
            original = module.weight.detach().clone()
        here = [c for e in edits for c in e.changes if (c.site, c.layer) == place]
        fresh[place] = changed(original, here, module)
        book.originals[place] = original
    with torch.no_grad():
        for place, weight in fresh.items():
            module = projection(model, *place)
            module.weight.copy_(weight)
            if not any((c.site, c.layer) == place for e in edits for c in e.changes):
                del book.originals[place]


def changed(weight: Tensor, changes: list[Change], module: nn.Module) -> Tensor:
    """A weight with all changes added, in its own layout and dtype; itself where there is none."""
    if not changes:
        return weight
    delta = sum((change.matrix.double() for change in changes[1:]), changes[0].matrix.double())
    delta = delta if isinstance(module, nn.Linear) else delta.T  # GPT-2's Conv1D is transposed
    return (weight.double() + delta.to(weight.device)).to(weight.dtype)
