"""What is compared: kinds of questions (cells), and designs that contrast them."""

from dataclasses import dataclass
from typing import Literal

from interp.brief import brief
from interp.errors import DataError, did_you_mean, shown

DesignName = Literal["2x2", "A-D", "A-C", "A-conflict", "A-nonce", "A-ioi", "puzzles"]


@dataclass(frozen=True)
class Cell:
    """A kind of question.

    Attributes:
        name: its label.
        fact: where the fact is that answers it.
        hops: how many facts must be chained; 0 where that does not apply.
        meaning: what it asks, for pages.
    """

    name: str
    fact: Literal["weights", "context", "neither"]
    hops: int
    meaning: str


CELLS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Cell("A", "weights", 1, "recall a stored fact"),
        Cell("B", "weights", 2, "compose two stored facts"),
        Cell("C", "context", 1, "read a fact that the prompt states"),
        Cell("D", "context", 2, "compose two facts that the prompt states"),
        Cell("C-conflict", "context", 1, "read a stated fact that contradicts the stored one"),
        Cell("C-nonce", "context", 1, "read a stated fact about a made-up country"),
        Cell("IOI", "neither", 0, "name the indirect object (a third task)"),
        Cell("P-recall", "context", 1, "repeat a phrase of a made-up language"),
        Cell("P-reasoning", "context", 2, "apply a rule of a made-up language to a new phrase"),
    )
}


@brief
@dataclass(frozen=True)
class Ability:
    """What a circuit is claimed to serve: its own cells, and not the others."""

    name: str
    own: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Own and other cells."""
        return self.own, self.others


@brief
@dataclass(frozen=True)
class Design:
    """Which cells are contrasted.

    Attributes:
        name: as the command line calls it.
        abilities: each gets a circuit.
        doubles: pairs of abilities whose double dissociation is tested.
    """

    name: str
    abilities: tuple[Ability, ...]
    doubles: tuple[tuple[str, str], ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """Every cell, in the order of `CELLS`."""
        used = {c for ability in self.abilities for c in (*ability.own, *ability.others)}
        return tuple(c for c in CELLS if c in used)

    def ability(self, name: str) -> Ability:
        """The ability of this name."""
        return next(one for one in self.abilities if one.name == name)


def _two(name: str, first: tuple[str, str], second: tuple[str, str]) -> Design:
    """A contrast of two cells, each given as (name of the ability, cell)."""
    (a, own), (b, other) = first, second
    return Design(name, (Ability(a, (own,), (other,)), Ability(b, (other,), (own,))), ((a, b),))


DESIGNS: dict[str, Design] = {
    design.name: design
    for design in (
        Design(
            "2x2",
            (
                Ability("recall", ("A", "B"), ("C", "D")),
                Ability("in-context", ("C", "D"), ("A", "B")),
                Ability("reasoning", ("B", "D"), ("A", "C")),
                Ability("one-step", ("A", "C"), ("B", "D")),
            ),
            (("recall", "in-context"), ("recall", "reasoning"), ("one-step", "reasoning")),
        ),
        _two("A-D", ("recall", "A"), ("in-context reasoning", "D")),
        _two("A-C", ("recall", "A"), ("copying", "C")),
        _two("A-conflict", ("recall", "A"), ("copying", "C-conflict")),
        _two("A-nonce", ("recall", "A"), ("copying", "C-nonce")),
        _two("A-ioi", ("recall", "A"), ("indirect object", "IOI")),
        _two("puzzles", ("recall", "P-recall"), ("reasoning", "P-reasoning")),
    )
}


def design_named(name: str) -> Design:
    """Look a design up.

    Raises:
        DataError: unknown name; the message suggests the nearest.
    """
    if name not in DESIGNS:
        raise DataError(f"unknown design {shown(name)}. {did_you_mean(name, DESIGNS)}")
    return DESIGNS[name]
