"""What a study does, fixed before it runs: sizes, ablations, margins, seeds."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field

from circuits.recall_reasoning.cells import design_named
from circuits.recall_reasoning.scoring import RULES
from interp.ablation.replacement import check_kind
from interp.brief import brief
from interp.data.datasets import locate
from interp.data.prompts import TokenPrompt
from interp.data.records import (
    NO_OTHERS,
    Amount,
    ClosedRow,
    Count,
    Dtype,
    Index,
    Text,
    checked,
    read_json,
)
from interp.errors import DataError, InterpError, PlanError, did_you_mean, shown


@brief
@dataclass(frozen=True)
class Settings:
    """A study's options.

    Attributes:
        design: a name in `DESIGNS`.
        sizes: heads in a circuit.
        rules: how heads are ranked, names in `RULES`.
        ablations: kinds of ablation; the first decides which circuit is tested, and is the one
            that random sets undergo.
        n_drawn: pairs drawn a cell and split, before the correctness filter.
        n_select, n_validate, n_test: most pairs kept in each split.
        n_control: test pairs that random sets are measured on.
        n_random: random sets of each kind of control.
        seeds: of the splits; the whole study is done once a seed.
        mlps: MLPs in a circuit of MLPs; none by default.
        neurons: neurons in a circuit of neurons; none by default.
        min_drop: accuracy an ability must lose (0.15 = 15 points).
        accuracy_margin: change of accuracy that still counts as none.
        effect_margin: the same of the logit difference, as a part of the total effect.
    """

    __pydantic_config__: ClassVar[ConfigDict] = NO_OTHERS

    design: str = "A-conflict"
    sizes: tuple[Count, ...] = (4, 8, 12, 16)
    rules: tuple[str, ...] = ("exclusive", "absolute", "clipped", "difference")
    ablations: tuple[str, ...] = ("resample", "mean", "zero")
    n_drawn: Count = 120
    n_select: Count = 60
    n_validate: Count = 40
    n_test: Count = 100
    n_control: Count = 32
    n_random: Count = 100
    seeds: tuple[Index, ...] = (0, 1, 2)
    mlps: tuple[Count, ...] = ()
    neurons: tuple[Count, ...] = ()
    min_drop: Annotated[float, Field(ge=0, le=1)] = 0.15
    accuracy_margin: Annotated[float, Field(ge=0, le=1)] = 0.03
    effect_margin: Amount = 0.10

    def checked(self) -> Self:
        """The same settings.

        Raises:
            InterpError: an unknown design, rule or ablation, or nothing to do.
        """
        design_named(self.design)
        for rule in self.rules:
            if rule not in RULES:
                raise PlanError(f"unknown rule {shown(rule)}. {did_you_mean(rule, RULES)}")
        for kind in self.ablations:
            check_kind(kind, [TokenPrompt((0,))])
        if not (self.sizes and self.rules and self.ablations and self.seeds):
            raise PlanError("a study needs at least one size, rule, ablation and seed.")
        return self

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """From JSON.

        Raises:
            InterpError: an unknown key or a value that cannot be; as `checked`.
        """
        return checked(cls, record, "settings").checked()


class _Recipe(ClosedRow):
    model: Text
    dtype: Dtype | None
    settings: Settings


RECIPES = {file.stem: file for file in sorted((Path(__file__).parent / "recipes").glob("*.json"))}
"""Name -> file of the shipped recipes."""


def load_recipe(path: str | Path) -> tuple[dict[str, Any], Settings]:
    """Read a recipe: a JSON file with ``model``, ``dtype`` and ``settings``, or a shipped name.

    Raises:
        DataError: no such file or name, or it is malformed; the field is named.
    """
    file = locate(path, "a recipe file", RECIPES)
    found = checked(_Recipe, read_json(file, "recipe (JSON)"), str(file))
    try:
        settings = found.settings.checked()
    except InterpError as error:
        raise DataError(f"{file}: {error}") from error
    return {"model": found.model, "dtype": found.dtype}, settings
