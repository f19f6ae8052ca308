"""Recipes: all that `interp emotion run` needs to be told, as a JSON file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from circuits.emotion.decoding import Decoding
from circuits.emotion.doses import CircuitDose, Doses, SteeringDose
from circuits.emotion.marking import Limits
from interp.errors import PlanError
from interp.shipped import locate

FOLDER = Path(__file__).parent / "recipes"
RECIPES = {file.stem: file for file in sorted(FOLDER.glob("*.json"))}
"""Name -> file of the shipped recipes."""


@dataclass(frozen=True)
class Recipe:
    """A model and how it is controlled.

    Attributes:
        model: built-in name, Hub id or folder.
        doses: of steering and circuits.
        limits: of coherence and relevance.
        reader: the model whose activations the first judge reads; not `model`.
        dtype: None takes the device's default.
        paper: style of the published settings; None takes the clean preset.
        style: frame and word set of the prompts that are replied to.
        n: situations.
        decoding: of every arm.
    """

    model: str
    doses: Doses
    limits: Limits
    reader: str
    dtype: str | None = None
    paper: str | None = None
    style: str = "felt:B"
    n: int = 80
    decoding: Decoding = field(default_factory=Decoding)

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        Path(path).write_text(json.dumps(self.record(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Recipe":
        """From what `record` gave.

        Raises:
            TypeError: a field is missing or unknown.
            KeyError: the doses are missing.
        """
        doses = raw["doses"]
        made: dict[str, Any] = {
            "doses": Doses(
                _dose(SteeringDose, doses["steering"]),
                _dose(CircuitDose, doses["circuit"]),
                {name: _dose(CircuitDose, one) for name, one in doses.get("others", {}).items()},
            ),
            "limits": Limits(**raw["limits"]),
        }
        if "decoding" in raw:
            said: dict[str, Any] = dict(raw["decoding"])
            if "closing" in said:
                said["closing"] = tuple(said["closing"])
            made["decoding"] = Decoding(**said)
        return cls(**{**raw, **made})

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read a recipe from a file, or a shipped one by its name.

        Raises:
            DataFileError: no such file or name.
            PlanError: it is malformed.
        """
        file = locate(path, "a recipe file", RECIPES)
        try:
            return cls.of(json.loads(file.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlanError(
                f"{path} is no recipe ({type(error).__name__}: {error}); give JSON with model, "
                f"doses, limits and reader, such as {RECIPES['smollm2-135m']}."
            ) from error


def _dose(kind: Any, raw: Mapping[str, Any]) -> Any:
    layers = raw.get("layers")
    return kind(**{**raw, "layers": layers and tuple(layers)})


def recipe_of(model: str) -> Recipe:
    """The shipped recipe of a model.

    Args:
        model: built-in name or Hub id.

    Raises:
        PlanError: none is shipped.
    """
    name = model.rpartition("/")[2].lower()
    if name not in RECIPES:
        raise PlanError(
            f"no recipe for {model!r}; there are {', '.join(RECIPES)}. Doses "
            "do not carry over between models: write a recipe and give it with --recipe."
        )
    return Recipe.load(name)
