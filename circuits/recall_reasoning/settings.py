"""What a study does, fixed before it runs: sizes, ablations, margins, seeds."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field

from circuits.recall_reasoning.designs import DesignName
from interp.data.chat import Chat
from interp.data.datasets import locate
from interp.data.records import (
    Amount,
    ClosedRow,
    Count,
    Dose,
    Dtype,
    Each,
    Index,
    Text,
    checked,
    read_json,
)

Rule = Literal["exclusive", "absolute", "clipped", "difference"]
Ablation = Literal["resample", "mean", "zero"]
Fraction = Annotated[float, Field(ge=0, le=1)]
ChatField = Annotated[
    Chat | None, Field(description="How prompts are put into the model's chat template.")
]

Demonstrations = Annotated[
    int, Field(ge=0, le=4, description="Number of worked questions before the one that is asked.")
]


class StudySettings(ClosedRow):
    """A study's options."""

    design: DesignName = Field(
        default="A-conflict", description="Which kinds of prompts are contrasted."
    )
    sizes: Each[Count] = Field(default=(4, 8, 12, 16), description="Numbers of heads in a circuit.")
    rules: Each[Rule] = Field(
        default=get_args(Rule), description="How components are ranked for an ability."
    )
    ablations: Each[Ablation] = Field(
        default=get_args(Ablation),
        description="Kinds of ablation; the first decides, and random sets undergo only that one.",
    )
    n_drawn: Count = Field(default=120, description="Number of pairs drawn per cell and split.")
    n_select: Count = Field(default=60, description="Largest number of selection pairs per cell.")
    n_validate: Count = Field(default=40, description="Largest number of validation pairs.")
    n_test: Count = Field(default=100, description="Largest number of test pairs per cell.")
    n_control: Count = Field(default=32, description="Number of test pairs for random sets.")
    n_random: Count = Field(default=100, description="Number of random sets per control.")
    seeds: Each[Index] = Field(
        default=(0, 1, 2), description="Random seeds for the splits; each is a study of its own."
    )
    mlps: tuple[Count, ...] = Field(default=(), description="Numbers of MLPs in a circuit.")
    neurons: tuple[Count, ...] = Field(default=(), description="Numbers of neurons in a circuit.")
    min_drop: Fraction = Field(default=0.15, description="Accuracy that an ability must lose.")
    accuracy_margin: Fraction = Field(
        default=0.03, description="Change of accuracy that still counts as intact."
    )
    effect_margin: Amount = Field(
        default=0.10, description="Fraction of the total effect that still counts as intact."
    )
    chat: ChatField = None

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return self.model_dump(mode="json")

    def but(self, **changed: Any) -> Self:
        """The same settings with some fields changed; `DataError` where one cannot be."""
        return checked(type(self), self.record() | changed, "settings")


class StudyRecipe(ClosedRow):
    """A study as a JSON file describes it."""

    model: Text
    dtype: Dtype | None
    settings: StudySettings


RECIPES = {file.stem: file for file in sorted((Path(__file__).parent / "recipes").glob("*.json"))}
"""Name -> file of the shipped recipes."""


def load_recipe(path: str | Path) -> StudyRecipe:
    """Read a recipe from a JSON file, or a shipped one by its name; `DataError` if malformed."""
    file = locate(path, "a recipe file", RECIPES)
    return checked(StudyRecipe, read_json(file, "recipe (JSON)"), str(file))


class FeasibilitySettings(ClosedRow):
    """What `feasibility` asks."""

    n: Count = Field(default=30, description="Number of pairs drawn per cell and split.")
    new_tokens: Count = Field(default=64, description="Largest number of tokens of a chain.")
    demonstrations: Demonstrations = 4
    seed: Index = Field(default=0, description="Random seed for splits and draws.")
    chat: ChatField = None


class _TwoHopSettings(ClosedRow):
    template: Text = Field(
        default="The capital of the country where {} is located is the city of",
        description="Two-hop text that is to be completed; {} stands for the landmark.",
    )
    seed: Index = Field(default=0, description="Random seed for all that is drawn.")
    chat: ChatField = None


class BridgeSettings(_TwoHopSettings):
    """What `bridge` reads and swaps, fixed before it runs."""

    n_swaps: Count = Field(default=40, description="Number of swaps per half of the countries.")
    layers: tuple[Index, ...] = Field(
        default=(), description="Layers in which states are swapped; by default all."
    )
    positions: tuple[Index, ...] = Field(
        default=(),
        description="Positions swapped, counted from the landmark's last token; by default all.",
    )


class ThoughtSettings(_TwoHopSettings):
    """What `thought` asks, and how it intervenes."""

    n: Count = Field(
        default=60,
        description="Number of questions, about landmarks that name neither country nor capital.",
    )
    demonstrations: Demonstrations = 4
    new_tokens: Count = Field(default=64, description="Largest number of tokens of a reply.")
    resamples: Count = Field(default=1, description="Number of times each sentence is drawn again.")
    temperature: Dose = Field(default=1.0, description="Temperature of these draws.")
