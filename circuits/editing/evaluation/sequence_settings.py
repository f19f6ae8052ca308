"""The settings of `interp edit sequence`: many edits of one model, in a row and in one batch."""

from typing import Literal

from pydantic import BaseModel, Field, field_validator

from circuits.editing.evaluation.comparison_settings import N_TOKENS
from circuits.editing.evaluation.demonstrations import Shots, shots_named
from interp.data.records import NO_OTHERS, Count

Order = Literal["row", "batch"]
ORDERS: dict[Order, str] = {"row": "one after the other", "batch": "in one batch"}


class SequenceSettings(BaseModel, frozen=True):
    """Settings of sequences of edits."""

    model_config = NO_OTHERS

    methods: tuple[str, ...] = Field(
        ("rome", "memit", "alphaedit", "ace"),
        description="Editing methods; + after a name gives it the two-hop prompts and preserved "
        "questions that ace gets.",
    )
    lengths: tuple[Count, ...] = Field(
        (1, 10, 100),
        description="Numbers of edits after which the model is asked, such as 1,10,100,1000.",
    )
    orders: tuple[Order, ...] = Field(
        ("row", "batch"),
        description="row: each edit is made on the model as the earlier ones left it; batch: all "
        "are written together. By default both.",
    )
    n_asked: Count = Field(
        100, description="Edits that are asked about after each number of edits, spread evenly."
    )
    n_controls: Count = Field(
        100, description="Known questions about other subjects, asked each time."
    )
    shots: str | Shots = Field(
        "direct", description="Demonstrations before every question: direct, or a file."
    )
    neutral: str | None = Field(
        None, description="Text for divergence and perplexity: neutral_text, or a text file."
    )
    seed: int = Field(0, description="Random seed for the order of the edits, and the questions.")
    n_tokens: Count = Field(
        N_TOKENS, description="Number of the model's own tokens that second moments are taken over."
    )

    @field_validator("lengths")
    @classmethod
    def _ascending(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(lengths)))

    def demonstrations(self) -> Shots:
        """The demonstrations; `DataError` where there are none of that name."""
        return self.shots if isinstance(self.shots, Shots) else shots_named(self.shots)
