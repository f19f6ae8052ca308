"""What is added to a model's activations while it writes: steering, circuit modulation, feedback.

A batch holds rows of different emotions, so a push has one vector an emotion, and each row takes
its own. It acts on the one new token a row that a decoding step reads, never on the prompt before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.brief import brief
from interp.forward.hooks import Edit
from interp.model.model import Model
from interp.model.sites import SITES, Site

Size = Literal["absolute", "norm", "relative"]
MOST_GAIN = 2.0
"""What feedback multiplies a dose by at most."""


@brief
@dataclass
class Rows:
    """The rows of a batch that are still being written.

    Attributes:
        emotion: of each row, as its place in `EMOTIONS`.
        gain: what feedback multiplies each row's dose by; 1 without feedback.
        next_gain: the same for the next token, so that all layers of one token share a dose.
    """

    emotion: Int[Tensor, " row"]
    gain: Float[Tensor, " row"]
    next_gain: Float[Tensor, " row"]

    @classmethod
    def of(cls, emotion: Sequence[int], device: torch.device | str = "cpu") -> "Rows":
        """Rows at full dose."""
        full = torch.ones(len(emotion), device=device)
        return cls(torch.tensor(emotion, device=device), full, full)

    def advance(self, kept: Int[Tensor, " kept"]) -> None:
        """Go on to the next token with some of the rows."""
        self.emotion, self.next_gain = self.emotion[kept], self.next_gain[kept]
        self.gain = self.next_gain


@brief
@dataclass(frozen=True)
class Push:
    """A vector an emotion added at a site in several layers, at every new token.

    Attributes:
        site: a name in `SITES`.
        values: layer -> one vector an emotion, in the site's own units.
        strength: what they are multiplied by (the paper's lambda, or the fraction f).
        size: ``absolute``: added as they are (Wang et al. 2025, section 1.10 of the spec);
            ``norm``: times the L2 norm of the activation they are added to (steering by a
            fraction of the residual stream); ``relative``: times the activation's root mean
            square over `reference`, so that the dose follows the context.
        reference: layer -> root mean square of the site on the discovery prompts; for
            ``relative`` alone.
    """

    site: str
    values: Mapping[int, Float[Tensor, "emotion width"]]
    strength: float
    size: Size = "absolute"
    reference: Mapping[int, float] = field(default_factory=dict)

    def edits(self, model: Model, rows: Rows) -> list[tuple[Site, int, Edit]]:
        """The edits of a batch, which follow `rows` as it shrinks."""
        return [
            (SITES[self.site], layer, self._edit(layer, value.to(model.device), rows))
            for layer, value in self.values.items()
        ]

    def _edit(self, layer: int, value: Float[Tensor, "emotion width"], rows: Rows) -> Edit:
        def edit(activation: Float[Tensor, "row new width"]) -> None:
            dose = self.strength * rows.gain[:, None, None] * self._scale(activation, layer)
            activation += (dose * value[rows.emotion][:, None]).to(activation.dtype)

        return edit

    def _scale(self, activation: Tensor, layer: int) -> Tensor | float:
        if self.size == "absolute":
            return 1.0
        if self.size == "norm":
            return activation.float().norm(dim=-1, keepdim=True)
        rms = activation.float().square().mean(-1, keepdim=True).sqrt()
        return rms / self.reference[layer]

    def at(self, strength: float) -> "Push":
        """The same push at another strength."""
        return replace(self, strength=strength)


@brief
@dataclass(frozen=True)
class Feedback:
    """Less dose where the state already shows the emotion, more where it does not.

    After each token, a row's gain becomes its shortfall: 1 where the state at `layer` stands where
    unmodulated states stand, 0 where it stands where emotional prompts' states stand, and
    at most `MOST_GAIN`.

    Attributes:
        layer: whose output is read.
        directions: one unit vector an emotion.
        low: an emotion's mean cosine of the state with its direction on neutral prompts.
        high: the same on prompts in that emotion.
    """

    layer: int
    directions: Float[Tensor, "emotion d_model"]
    low: Float[Tensor, " emotion"]
    high: Float[Tensor, " emotion"]

    def edits(self, model: Model, rows: Rows) -> list[tuple[Site, int, Edit]]:
        """One reading, which changes nothing but the rows' gain at the next token."""
        own, low, high = (t.to(model.device) for t in (self.directions, self.low, self.high))

        def read(activation: Float[Tensor, "row new d_model"]) -> None:
            state = torch.nn.functional.normalize(activation[:, -1].float(), dim=-1)
            level = (state * own[rows.emotion]).sum(-1)
            top, bottom = high[rows.emotion], low[rows.emotion]
            rows.next_gain = ((top - level) / (top - bottom)).clamp(0.0, MOST_GAIN)

        return [(SITES["resid_post"], self.layer, read)]


@brief
@dataclass(frozen=True)
class Modulation:
    """All that is done to the activations; nothing by default.

    Attributes:
        pushes: in the order in which they apply.
        feedback: what follows the state, if anything.
    """

    pushes: tuple[Push, ...] = ()
    feedback: Feedback | None = None

    def edits(self, model: Model, rows: Rows) -> list[tuple[Site, int, Edit]]:
        """The edits of a batch."""
        found = [edit for push in self.pushes for edit in push.edits(model, rows)]
        # after the pushes, so that it reads the state that the next layer reads
        return found + (self.feedback.edits(model, rows) if self.feedback else [])

    def at(self, strength: float) -> "Modulation":
        """The same at another strength, of every push alike."""
        return replace(self, pushes=tuple(push.at(strength) for push in self.pushes))
