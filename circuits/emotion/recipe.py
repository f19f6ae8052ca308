"""Recipes: all that `interp emotion run` needs to be told, as a JSON file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from circuits.emotion.decoding import Decoding
from circuits.emotion.doses import Doses
from circuits.emotion.marking import Limits
from interp.data.datasets import locate
from interp.data.records import NO_OTHERS, Count, Dtype, Text, checked, read_json
from interp.errors import PlanError, shown
from interp.results.folder import write_text

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

    __pydantic_config__: ClassVar[ConfigDict] = NO_OTHERS

    model: Text
    doses: Doses
    limits: Limits
    reader: Text
    dtype: Dtype | None = None
    paper: Text | None = None
    style: Text = "felt:B"
    n: Count = 80
    decoding: Decoding = field(default_factory=Decoding)

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        write_text(Path(path), json.dumps(self.record(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read a recipe from a file, or a shipped one by its name.

        Raises:
            DataError: no such file or name, or it is malformed; the field is named.
        """
        file = locate(path, "a recipe file", RECIPES)
        return checked(cls, read_json(file, "recipe (JSON)"), str(file))


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
            f"no recipe for {shown(model)}; there are {', '.join(RECIPES)}. "
            "Doses do not carry over between models: write a recipe and give it with --recipe."
        )
    return Recipe.load(name)
