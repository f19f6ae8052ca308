"""The settings of `interp edit sequence`: many edits of one model, in a row and in one batch."""

from typing import Literal, get_args

from pydantic import Field, field_validator

from circuits.editing.evaluation.comparison_settings import EvaluationSettings
from interp.data.records import Count, Each

Order = Literal["row", "batch"]
ORDERS: tuple[Order, ...] = get_args(Order)


class SequenceSettings(EvaluationSettings, frozen=True):
    """Settings of sequences of edits."""

    methods: Each[str] = Field(
        ("rome", "memit", "alphaedit", "ace"),
        description="Editing methods; + after a name gives it the two-hop prompts and preserved "
        "questions that ace gets.",
    )
    lengths: Each[Count] = Field(
        (1, 10, 100),
        description="Numbers of edits after which the model is asked, such as 1,10,100,1000.",
    )
    orders: Each[Order] = Field(
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
    seed: int = Field(0, description="Random seed for the order of the edits, and the questions.")

    @field_validator("lengths")
    @classmethod
    def _ascending(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(lengths))
