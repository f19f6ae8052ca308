"""Settings of emotion discoveries, doses and comparisons: for Python, recipe files and options."""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from circuits.emotion.texts import Emotion
from interp.data.datasets import locate
from interp.data.records import (
    Amount,
    ClosedRow,
    Count,
    Dose,
    Dtype,
    Finite,
    Index,
    Text,
    checked,
    read_json,
)
from interp.errors import PlanError, shown
from interp.results.folder import write_text

FOLDER = Path(__file__).parent / "recipes"
RECIPES = {file.stem: file for file in sorted(FOLDER.glob("*.json"))}
"""Name -> file of the shipped recipes."""
BUILT_IN = (
    *("unmodulated", "prompting", "demonstrations", "chat", "steering", "circuit", "neurons"),
    *("heads", "circuit_prompting", "wrong_circuit", "wrong_vector", "random"),
)
"""Conditions of every comparison, beside those that a recipe names."""
CLOSING = ('"', "”", "\n")
"""Marks that end a reply: the quote that its prompt opened, or a new line."""


class CircuitSize(ClosedRow):
    """How many components a circuit has."""

    neurons: Index = Field(default=560, description="Number of neurons, in all layers together.")
    heads: Amount = Field(default=0.25, le=1, description="Fraction of all heads.")
    published: bool = Field(default=False, description="Ten components per sublayer instead.")


class EmotionSettings(ClosedRow):
    """How a discovery is made; the defaults are the clean preset."""

    styles: tuple[Text, ...] = Field(
        default=("felt:A", "felt:B", "felt:C", "day:A", "day:B", "day:C"),
        min_length=1,
        description="Frames and word sets, which are used in turn over the texts.",
    )
    double_bos: bool = Field(default=False, description="Begin chat prompts with two BOS tokens.")
    final: Literal["stream", "normed"] = Field(
        default="stream", description="Read the last stream before or after the final norm."
    )
    alphas: tuple[Dose, ...] = Field(default=(0.3,), description="Sizes of the perturbations.")
    n_neutral: Count | None = Field(
        default=48, description="Number of texts that influence is measured on; null: all."
    )
    n_demonstrations: Index = Field(
        default=24, description="Number of texts read after demonstrations, to choose the layer."
    )
    size: CircuitSize = Field(default=CircuitSize(), description="Size of the circuits.")

    @classmethod
    def published(cls, style: str = "paper:names") -> "EmotionSettings":
        """As Wang et al. 2025 (arXiv 2510.11328) released it: use the ``paper-influence`` circuits.

        The style is a frame with a system turn that asks for the emotion, and a word set;
        `DataError` where it is blank.
        """
        released = {
            "styles": [style],
            "double_bos": True,
            "final": "normed",
            "alphas": [0.1, 0.3, 0.5, 0.7],
            "n_neutral": None,
            "n_demonstrations": 0,
            "size": {"published": True},
        }
        return checked(cls, released, "settings")


class EffectSettings(ClosedRow):
    """How the causal tests of circuits are made."""

    n: Count = Field(default=24, description="Number of texts, in six emotions each.")
    n_random: Index = Field(default=3, description="Number of random circuits per emotion.")
    fill: Literal["mean", "zero"] = Field(default="mean", description="What replaces a circuit.")
    strength: Dose = Field(default=1.0, description="Factor of the injected vectors.")
    seed: Index = Field(default=0, description="Random seed of the random circuits.")


class Decoding(ClosedRow):
    """How replies are decoded: greedily, with the same penalties in every condition."""

    new_tokens: Count = Field(default=30, description="Most new tokens.")
    min_tokens: Index = Field(default=5, description="Fewest tokens of a reply.")
    repetition_penalty: Dose = Field(default=1.05, description="Penalty of tokens that occurred.")
    no_repeat: Count = Field(default=3, description="Length of runs that may not occur twice.")
    closing: tuple[str, ...] = Field(default=CLOSING, description="Marks that end a reply.")


def _in_order(layers: tuple[int, int]) -> tuple[int, int]:
    if layers[0] > layers[1]:
        raise ValueError("the first layer must not lie behind the last")
    return layers


class SteeringDose(ClosedRow):
    """How strongly, and where, emotion directions are added to the stream."""

    fraction: Dose = Field(description="Fraction of the norm of the state, in each layer.")
    layers: Annotated[tuple[Index, Index], AfterValidator(_in_order)] = Field(
        description="First and last layer, both included."
    )
    own: dict[Emotion, Amount] = Field(default={}, description="Fraction per emotion.")
    arrive: bool = Field(
        default=False,
        description="Add only what is missing until the projection is that fraction of the norm.",
    )
    hold: Count | Literal["sentence"] | None = Field(
        default=None, description="New tokens at the full dose, or those of the first sentence."
    )
    half_life: Dose | None = Field(
        default=None, description="Tokens after which it halves behind them; null: off at once."
    )


def _free(name: str) -> str:
    if name in BUILT_IN:
        raise ValueError("it is the name of a built-in condition; choose another")
    return name


class CircuitDose(ClosedRow):
    """Which circuits are driven, and how strongly."""

    strength: Dose = Field(description="Factor of the difference vectors (lambda).")
    preset: Text = Field(default="centred", description="Which circuits of the discovery.")
    own: dict[Emotion, Amount] = Field(default={}, description="Strength per emotion.")


class Doses(ClosedRow):
    """Doses of steering, of the circuit with all its controls, and of further circuits by name."""

    steering: SteeringDose
    circuit: CircuitDose
    others: dict[Annotated[Text, AfterValidator(_free)], CircuitDose] = {}

    @property
    def alike(self) -> "Doses":
        """Without the doses of single emotions."""
        held = self.model_dump()
        for one in (held["steering"], held["circuit"], *held["others"].values()):
            one["own"] = {}
        return Doses.model_validate(held)


class ReplyCriteria(ClosedRow):
    """What counts as a coherent and relevant reply."""

    perplexity_ratio: Amount = Field(
        default=5.0, description="Most times the perplexity of the unmodulated reply."
    )
    relevance: Finite = Field(
        default=0.0, description="Nats per token by which the event makes the reply likelier."
    )
    words: Index = Field(default=3, description="Fewest words.")
    sentences: Count = Field(default=3, description="Most sentences.")


class ReplySettings(ClosedRow):
    """How the replies under several conditions are compared."""

    judge_model: Text = Field(description="Another model, whose activations the judge reads.")
    criteria: ReplyCriteria = Field(default=ReplyCriteria(), description="What a good reply is.")
    style: Text = Field(default="felt:B", description="Frame and word set of the prompts.")
    n: Count = Field(default=80, description="Number of situations.")
    decoding: Decoding = Field(default=Decoding(), description="How replies are decoded.")


class EmotionRecipe(ReplySettings):
    """A model and how its emotions are controlled."""

    model: Text = Field(description="Built-in name, Hub id or folder.")
    doses: Doses = Field(description="Doses of steering and circuits.")
    dtype: Dtype | None = Field(default=None, description="Number format; by default the device's.")
    paper: Text | None = Field(default=None, description="Style of the published settings.")
    styles: tuple[Text, ...] = Field(
        default=(), description="Styles instead of the clean preset's."
    )

    @property
    def settings(self) -> EmotionSettings:
        """Settings of the discovery behind it: the published ones, or the clean preset."""
        if self.paper:
            return EmotionSettings.published(self.paper)
        return EmotionSettings(styles=self.styles) if self.styles else EmotionSettings()

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        write_text(Path(path), json.dumps(self.model_dump(mode="json"), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a recipe from a file, or a shipped one by its name.

        Raises:
            DataError: no such file or name, or it is malformed; the field is named.
        """
        file = locate(path, "a recipe file", RECIPES)
        return checked(cls, read_json(file, "recipe (JSON)"), str(file))

    @classmethod
    def of(cls, model: str) -> Self:
        """The shipped recipe of a model, by its built-in name or Hub id.

        Raises:
            PlanError: none is shipped.
        """
        name = model.rpartition("/")[2].lower()
        if name not in RECIPES:
            raise PlanError(
                f"no recipe for {shown(model)}; there are {', '.join(RECIPES)}. "
                "Doses do not carry over between models: write a recipe and give it with --recipe."
            )
        return cls.load(name)
