"""`DiscoverySettings`: how a circuit is chosen."""

from pydantic import BaseModel, ConfigDict, Field

from interp.errors import PlanError

SCORED = {
    "top": ("edges", None),
    "greedy": ("edges", None),
    "threshold": ("edges", None),
    "nodes": ("nodes", None),
    "neurons": ("mlp_post", "layer,neuron"),
}
"""Ways to select from scores -> what is scored, and over which axes."""
SELECTS = (*SCORED, "acdc", "edge-pruning")
NEEDS_THRESHOLD = ("threshold", "acdc")
NO_SIZE_NEEDED = ("threshold", "acdc")


class DiscoverySettings(BaseModel):
    """Settings of `interp circuit discover`; messages name its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    select: str = Field("top", description="One of `SELECTS`.")
    method: str = Field("eap-dg", description="How scores are estimated.")
    size: str | None = Field(None, description="Components to take: a number, or a part of all.")
    threshold: float | None = Field(None, description="Lowest score kept, or ACDC's threshold.")
    signed: bool = Field(False, description="Rank by signed score, not by its absolute value.")
    metric: str = Field("logit_diff", description="What is measured at the last token.")
    seed: int = Field(0, description="Random seed for the masks of edge pruning.")

    def check(self) -> None:
        """Refuse settings that are missing, or that would go unused.

        Raises:
            PlanError: which, and what to give.
        """
        if self.select not in NO_SIZE_NEEDED and self.size is None:
            raise PlanError(f"--select {self.select} needs --size: a number, or a part of all.")
        if self.select in NEEDS_THRESHOLD and self.threshold is None:
            raise PlanError(f"--select {self.select} needs --threshold.")
        unused = {
            "--size": self.select == "threshold" and self.size is not None,
            "--threshold": self.select not in NEEDS_THRESHOLD and self.threshold is not None,
            "--signed": self.select == "edge-pruning" and self.signed,
        }
        for option, given in unused.items():
            if given:
                raise PlanError(f"--select {self.select} has no use for {option}; leave it out.")
        if self.size is not None:
            self.n(10**9)

    def n(self, of: int) -> int:
        """How many of `of` components `size` asks for; a part is rounded down, as MIB does.

        Raises:
            PlanError: none, or no number.
        """
        text = self.size or "1.0"
        try:
            part = None if text.isdigit() else float(text)
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
