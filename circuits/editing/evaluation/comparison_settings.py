"""The settings of an evaluation of edits, and those of `interp edit evaluate` beside them."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from circuits.editing.evaluation.demonstrations import Shots, shots_named
from circuits.editing.methods import METHODS, Names
from interp.data.chat import Chat
from interp.data.datasets import locate
from interp.data.records import NO_OTHERS, Count, Each, read_text

N_TOKENS = 20_000  # of `circuits.editing.moments`, which would load torch
Filter = Literal["composed", "hops", "none"]
N_QUESTIONS = 8
"""Questions of each kind on an edit card that are drawn from data, at most."""


class EvaluationSettings(BaseModel, frozen=True):
    """What a comparison and a sequence of edits both set."""

    model_config = NO_OTHERS

    methods: Each[str] = Field(
        (*METHODS[:6], "ace", "none"),
        description="Editing methods; + after a name gives it the two-hop prompts and preserved "
        "questions that ace gets. Baselines: none (unedited), prompt-only (the edit stated in the "
        "prompt), ike (in the prompt, with demonstrations).",
    )
    shots: str | Shots = Field(
        "direct",
        description="Demonstrations before every question of multi-hop cases: direct, reasoned "
        "(chain of thought), or a file with MQuAKE's prompts.",
    )
    neutral: str | None = Field(
        None, description="Text for divergence and perplexity: neutral_text, or a text file."
    )
    n_tokens: Count = Field(
        N_TOKENS, description="Number of the model's own tokens that second moments are taken over."
    )

    @classmethod
    def says(cls, field: str) -> str:
        """What a field is for, as the command line says it."""
        return cls.model_fields[field].description or ""

    def demonstrations(self) -> Shots:
        """The demonstrations; `DataError` where there are none of that name."""
        return self.shots if isinstance(self.shots, Shots) else shots_named(self.shots)

    def neutral_text(self) -> str | None:
        """The neutral text, shipped or of a file; `DataError` where it cannot be read."""
        if self.neutral is None:
            return None
        return read_text(Path(locate(self.neutral, "a text file")), "neutral text")


class ComparisonSettings(EvaluationSettings, frozen=True):
    """Settings of a comparison of editing methods on the same cases."""

    seeds: Each[int] = Field(
        (0,), description="Random seeds for contexts and controls, such as 0,1,2."
    )
    limit: Count | None = Field(
        None, description="Use only the first N usable cases; the model is asked until there are N."
    )
    filter: Filter = Field(
        "composed",
        description="Use multi-hop cases whose hops and composed question the model answers before "
        "the edit (composed), whose hops it answers (hops), or all (none).",
    )
    implicit: Names = Field(
        "given",
        description="Implicit names of the edited subjects: given (as the cases have them), "
        "missing (found where a fact has none), found (found for all), none (withheld). What is "
        "found shows nothing of the tested chain.",
    )
    chat: Chat | None = Field(
        None,
        description="Put edits, and demonstrations with their question, into the model's chat "
        "template as a user's turn; of multi-hop cases.",
    )
    sequential: bool = Field(
        False,
        description="Make the edits one on top of the other, and ask after the last one; cases "
        "whose edits touch those of an earlier one are left out.",
    )
    fact_questions: bool = Field(
        True,
        description="Ask also for negations, fact checks, the reverse and leakage of each fact.",
    )

    def demonstrations(self) -> Shots:
        """The demonstrations, in the chat; `DataError` where there are none of that name."""
        found = super().demonstrations()
        return replace(found, chat=self.chat) if self.chat else found
