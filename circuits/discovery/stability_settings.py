"""`StabilitySettings`: what is resampled, and which circuits are compared."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from circuits.discovery.discovery_settings import Method
from interp.errors import PlanError

Source = Literal["prompts", "groups", "methods"]
"""What inclusion is a probability over."""


class StabilitySettings(BaseModel):
    """Settings of `interp circuit stability`; messages name its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: tuple[Method, ...] = Field(
        ("eap-dg",),
        description="How scores are estimated, as in `interp attribute`; the first one's circuits "
        "are resampled, the others are compared with it.",
    )
    edges: int = Field(1000, description="Number of edges in a circuit, before pruning.")
    nodes: int = Field(20, description="Number of nodes in a circuit of nodes.")
    signed: bool = Field(False, description="Rank by signed score, not by its absolute value.")
    by: str | None = Field(
        None, description="Column of the rows that groups them, such as template or relation."
    )
    entities: str | None = Field(
        None,
        description="Span whose text in the clean prompt is the row's entity: rows that share it "
        "are resampled together. By default the first span of --split-by.",
    )
    threshold: float = Field(
        0.9, description="Lowest inclusion of an edge in the consensus circuit."
    )
    over: tuple[Source, ...] = Field(
        ("prompts",),
        description="What the inclusion of the consensus circuit is a probability over; of several "
        "the smallest counts.",
    )
    resamples: int = Field(1000, description="Number of bootstrap resamples of the prompts.")
    splits: int = Field(100, description="Number of random pairs of disjoint samples.")
    samples: int = Field(
        2, description="Number of single samples whose circuits are run on test prompts."
    )
    sample_size: int = Field(16, description="Number of pairs in such a sample.")
    metric: str = Field(
        "logit_diff", description="What is measured of the answers, or at the last token."
    )
    answers: Literal["whole", "first"] = Field(
        "whole", description="Read all tokens of the answers (the default), or the first alone."
    )
    ablation: Literal["resample", "zero", "mean"] = Field(
        "resample", description="What edges outside the circuit carry on test prompts."
    )
    seed: int = Field(0, description="Random seed of resamples, splits, samples and intervals.")

    def check(self) -> None:
        """Refuse (`PlanError`) settings that are out of range, or that would go unused."""
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise PlanError(f"--methods {','.join(self.methods)}: name each method once.")
        if not 0 < self.threshold <= 1:
            raise PlanError(f"--threshold {self.threshold:g} is not an inclusion between 0 and 1.")
        least = {"edges": 1, "nodes": 1, "resamples": 2, "splits": 2, "samples": 0, "seed": 0}
        for name, bound in {**least, "sample_size": 1}.items():
            if getattr(self, name) < bound:
                option = name.replace("_", "-")
                raise PlanError(
                    f"--{option} {getattr(self, name)} is too few; give {bound} or more."
                )
        needs = {"groups": self.by is not None, "methods": len(self.methods) > 1}
        for source, given in needs.items():
            if source in self.over and not given:
                option = "--by" if source == "groups" else "two --methods or more"
                raise PlanError(f"inclusion --over {source} needs {option}.")
        if not self.over:
            raise PlanError("--over names nothing; give prompts, groups or methods.")
