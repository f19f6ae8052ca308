"""What a study does, fixed before it runs: sizes, ablations, margins, seeds."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from circuits.recall_reasoning.cells import design_named
from circuits.recall_reasoning.scoring import RULES
from interp.ablation.values import check_kind
from interp.errors import PlanError, did_you_mean
from interp.prompts import TokenPrompt
from interp.shipped import locate


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

    design: str = "A-conflict"
    sizes: tuple[int, ...] = (4, 8, 12, 16)
    rules: tuple[str, ...] = ("exclusive", "absolute", "clipped", "difference")
    ablations: tuple[str, ...] = ("resample", "mean", "zero")
    n_drawn: int = 120
    n_select: int = 60
    n_validate: int = 40
    n_test: int = 100
    n_control: int = 32
    n_random: int = 100
    seeds: tuple[int, ...] = (0, 1, 2)
    mlps: tuple[int, ...] = ()
    neurons: tuple[int, ...] = ()
    min_drop: float = 0.15
    accuracy_margin: float = 0.03
    effect_margin: float = 0.10

    def checked(self) -> Self:
        """The same settings.

        Raises:
            InterpError: an unknown design, rule or ablation, or nothing to do.
        """
        design_named(self.design)
        for rule in self.rules:
            if rule not in RULES:
                raise PlanError(f"unknown rule {rule!r}. {did_you_mean(rule, RULES)}")
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
            PlanError: an unknown key.
        """
        known = {field.name for field in fields(cls)}
        for key in record:
            if key not in known:
                raise PlanError(f"unknown setting {key!r}. {did_you_mean(key, known)}")
        lists: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in record.items()
        }
        return cls(**lists).checked()


RECIPES = {file.stem: file for file in sorted((Path(__file__).parent / "recipes").glob("*.json"))}
"""Name -> file of the shipped recipes."""


def load_recipe(path: str | Path) -> tuple[dict[str, Any], Settings]:
    """Read a recipe: a JSON file with ``model``, ``dtype`` and ``settings``, or a shipped name.

    Raises:
        DataFileError: no such file or name.
        PlanError: it is malformed.
    """
    file = locate(path, "a recipe file", RECIPES)
    try:
        found = json.loads(file.read_text("utf-8"))
        return {k: found[k] for k in ("model", "dtype")}, Settings.of(found["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlanError(
            f"{path} is no recipe ({type(error).__name__}: {error}); give JSON with model, dtype "
            "and settings."
        ) from error
