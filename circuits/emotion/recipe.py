"""Recipes: all that `interp emotion run` needs to be told, as a JSON file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from circuits.emotion.decoding import Decoding
from circuits.emotion.doses import Doses
from circuits.emotion.marking import Limits
from interp.errors import PlanError, shown
from interp.records import read_json
from interp.schema import NO_OTHERS, Count, Dtype, Text, checked

FOLDER = Path(__file__).parent / "recipes"


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
        Path(path).write_text(json.dumps(self.record(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read a recipe.

        Raises:
            DataFileError: it is missing or malformed; the field is named.
        """
        return checked(cls, read_json(path, "recipe (JSON)"), str(path))


def recipe_of(model: str) -> Recipe:
    """The shipped recipe of a model.

    Args:
        model: built-in name or Hub id.

    Raises:
        PlanError: none is shipped.
    """
    known = sorted(FOLDER.glob("*.json"))
    path = FOLDER / f"{model.rpartition('/')[2].lower()}.json"
    if path not in known:
        raise PlanError(
            f"no recipe for {shown(model)}; there are {', '.join(one.stem for one in known)}. "
            "Doses do not carry over between models: write a recipe and give it with --recipe."
        )
    return Recipe.load(path)
