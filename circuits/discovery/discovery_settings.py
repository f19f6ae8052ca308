"""`DiscoverySettings`: how a circuit is chosen."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from interp.errors import PlanError

Select = Literal["top", "greedy", "threshold", "nodes", "neurons", "acdc", "edge-pruning"]
Method = Literal[
    "exact", "eap", "eap-ig", "eap-gl", "eap-dg", "relp", "clean-corrupted", "eap-ig-activations",
    "eap-qk",
]  # fmt: skip
"""Of edges, as `interp.attribution.attribute.EDGE_METHODS` has them, which would load torch."""
SCORED = {
    "top": ("edges", None),
    "greedy": ("edges", None),
    "threshold": ("edges", None),
    "nodes": ("nodes", None),
    "neurons": ("mlp_post", "layer,neuron"),
}
"""Ways to select from scores -> what is scored, and over which axes."""
NEEDS_THRESHOLD = ("threshold", "acdc")
"""They also need no size."""


class DiscoverySettings(BaseModel):
    """Settings of `interp circuit discover`; messages name its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Field(
        "eap-dg",
        description="How scores are estimated, as in `interp attribute`; by default eap-dg.",
    )
    select: Select = Field(
        "top",
        description="How edges are chosen: from scores, or by search (acdc, edge-pruning); by "
        "default top.",
    )
    size: str | None = Field(
        None,
        description="Components to take: a number, or a part of all, such as 0.02; by default the "
        "smallest of 0.001 to 0.5 that is faithful (0.9 <= f <= 1.1; f >= 0.9 with --signed) on "
        "held-out pairs: half of those given, or of the discovery half.",
    )
    threshold: float | None = Field(
        None, description="Lowest score kept (threshold), or ACDC's threshold, in metric units."
    )
    signed: bool = Field(False, description="Rank by signed score, not by its absolute value.")
    metric: str = Field(
        "logit_diff", description="What is measured of the answers, or at the last token."
    )
    answers: Literal["whole", "first"] = Field(
        "whole", description="Read all tokens of the answers (the default), or the first alone."
    )
    seed: int = Field(0, description="Random seed for the masks of edge pruning; by default 0.")

    @property
    def chooses_size(self) -> bool:
        """Whether the size is chosen on pairs held out for it."""
        return self.size is None and self.select in SCORED and self.select != "threshold"

    def check(self) -> None:
        """Refuse (`PlanError`) settings that are missing, or that would go unused."""
        if self.select == "edge-pruning" and self.size is None:
            raise PlanError(f"--select {self.select} needs --size: a number, or a part of all.")
        if self.select in NEEDS_THRESHOLD and self.threshold is None:
            raise PlanError(f"--select {self.select} needs --threshold.")
        given, searched = self.model_fields_set, self.select == "edge-pruning"
        unscored = searched or (self.select == "acdc" and self.size is None)
        unused = {
            "--size": self.select == "threshold" and self.size is not None,
            "--threshold": self.select not in NEEDS_THRESHOLD and self.threshold is not None,
            "--signed": unscored and self.signed,
            "--method": unscored and "method" in given,
            "--seed": not searched and "seed" in given,
        }
        for option, useless in unused.items():
            if useless:
                raise PlanError(f"--select {self.select} has no use for {option}; leave it out.")
        if self.size is not None:
            self.n(10**9)

    def n(self, of: int) -> int:
        """How many of `of` components `size` asks for; a part is rounded down, as MIB does."""
        text = self.size or "1.0"
        try:
            part = None if text.isdecimal() else float(text)
        except ValueError:
            part = -1.0
        if part is None and int(text):
            return int(text)
        if part is None or not 0 < part <= 1:
            raise PlanError(
                f"--size {text!r}: write a number of components, 1 or more, or a part of all "
                "between 0 and 1, such as 0.02."
            )
        if not int(part * of):
            raise PlanError(f"--size {text} of {of} components is none; take a larger part.")
        return int(part * of)
