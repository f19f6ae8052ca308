"""What is compared: kinds of questions (cells), and designs that contrast them."""

from dataclasses import dataclass
from typing import Literal

from interp.brief import brief

DesignName = Literal["2x2", "A-D", "A-C", "A-conflict", "A-nonce", "A-ioi", "puzzles"]


CELLS: dict[str, str] = {
    "A": "recall a stored fact",
    "B": "compose two stored facts",
    "C": "read a fact that the prompt states",
    "D": "compose two facts that the prompt states",
    "C-conflict": "read a stated fact that contradicts the stored one",
    "C-nonce": "read a stated fact about a made-up country",
    "IOI": "name the indirect object (a third task)",
    "P-recall": "repeat a phrase of a made-up language",
    "P-reasoning": "apply a rule of a made-up language to a new phrase",
}
"""Kind of question -> what it asks."""


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
    """Which cells are contrasted: each ability gets a circuit, `doubles` are tested in pairs."""

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
