"""Methods as data: what is searched, where it is written, in which order; one solver runs all."""

import itertools
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from interp.brief import brief
from interp.errors import PlanError

ONE_STAGE = ("ft", "rome", "memit", "pmet", "alphaedit")
RECENT = ("locft-bf", "ultraedit", "memit-nas", "alphaedit-nas")
TWO_STAGE = ("ifmet", "ace", "ace-query-first", "ace-paper", "ace-released")
METHODS = (*ONE_STAGE, *TWO_STAGE, *RECENT)
"""Names of all presets (`circuits.editing.presets`)."""
INFORMED = tuple(f"{name}+" for name in (*ONE_STAGE, "ifmet", *RECENT))
"""These methods with the two-hop prompts and preserved questions that ``ace`` gets."""
BASELINES = ("none", "prompt-only", "ike")
"""The unedited model, the edit in the prompt, and that behind demonstrations."""

Names = Literal["given", "missing", "found", "none"]
"""Which implicit names facts get: their own; found ones where they have none; found ones instead
of their own; none."""
NAMES = get_args(Names)
Form = Literal["cloze", "question", "two_hop"]
"""How a fact is put: as its cloze behind sampled contexts; as a question in ``Q: …\\nA:`` form,
bare and behind demonstrations; and as that question about a phrase that means the subject."""
FORMS = get_args(Form)
Anchor = Literal["subject_last", "last"]
"""The token that an edit writes at: the subject's last, or the prompt's last."""
MetricName = Literal["inverse_moment", "null_space", "identity"]
"""In which sense a change is small (`circuits.editing.solver`)."""
PRESERVED_WEIGHT = 3.0
"""Weight of a preserved question where a subject's token is written."""


@dataclass(frozen=True)
class Search:
    """How targets are searched for (`circuits.editing.targets`).

    Attributes:
        steps: most Adam steps of a round; more rounds follow only where the target is not the
            answer yet.
        lr: of Adam, in units of the root mean square of what the projection itself writes at
            the anchor, so that a step means the same on every model.
        clamp: largest norm of a vector, in units of that output's norm; doubled each round.
        kl: weight of the divergence on the essence prompt.
        decay: weight of ||delta|| / ||output||, mean over places. ROME's code divides by
            ||output||^2, which weighs a hundred times more on a model that writes small vectors.
        until: a fact is done once the mean negative log-likelihood of its target, over its
            prompts, is below this, and the first of them is answered with it.
    """

    steps: int = 30
    lr: float = 0.2
    clamp: float = 1.0
    kl: float = 0.0625
    decay: float = 0.01
    until: float = 0.03


@brief
@dataclass(frozen=True)
class Stage:
    """One search and the layers it is written to.

    Attributes:
        layers: in the order they are written; the target is searched at the last.
        groups: sizes of groups of layers within each of which the residual is spread; or all.
        forms: prompts to learn from: a cloze's contexts make one key, other prompts each one.
        anchor: the token written at.
        target: where the vector is searched: on the FFN's output; on that and attention's jointly
            (PMET); on the layer's output (MEMIT). Post-norm models bound what an FFN can add to
            the stream, so there ``"resid"`` means the FFN's output too.
        writes: the projections changed, by the site they read.
        spread: how layers share the target: a vector of its own for each, searched together; or
            the residual left at the last over the number of layers left, or over its root.
        rho: lambda, see `circuits.editing.solver`.
        preserved_weight: weight of a preserved question against a written key; 0 ignores them.
        contrasts: whether the edited subject in other questions that are asked of its kind is
            preserved, too.
        value_norm: length that every solved value vector is given before it is written; ``None``
            leaves it as it was found (`circuits.editing.norm_anchor`).
    """

    layers: tuple[int, ...]
    groups: tuple[int, ...] = ()
    forms: tuple[Form, ...] = ("cloze",)
    anchor: Anchor = "subject_last"
    target: Literal["mlp", "mlp+attn", "resid"] = "mlp"
    writes: tuple[str, ...] = ("mlp_post",)
    spread: Literal["joint", "linear", "sqrt"] = "joint"
    metric: MetricName = "inverse_moment"
    rho: float = 0.1
    preserved_weight: float = 0.0
    contrasts: bool = False
    value_norm: float | None = None
    search: Search = field(default_factory=Search)

    def left(self, i: int) -> int:
        """Layers left to write in the group of the i-th layer, itself included."""
        for end in itertools.accumulate(self.groups or (len(self.layers),)):
            if i < end:
                return end - i
        raise PlanError(f"groups {self.groups} do not cover the {len(self.layers)} layers.")


@brief
@dataclass(frozen=True)
class Neurons:
    """Two neurons per fact in each layer, query and value written (`circuits.editing.neurons`).

    Targets of a fact without implicit phrases are searched as if earlier stages had written
    nothing, so that what is answered there is stored here, too, and later hops find it.

    Attributes (the others are those of `Stage`):
        ramp: match scores at which the neurons begin and have ceased to rise.
        direct_ramp: the same of facts without implicit phrases at the last token, which are learnt
            from questions that name the subject, and match others less; ``None`` leaves such facts
            out.
    """

    layers: tuple[int, ...]
    forms: tuple[Form, ...] = ("cloze", "question", "two_hop")
    anchor: Anchor = "last"
    metric: MetricName = "inverse_moment"
    rho: float = 1.0
    preserved_weight: float = 0.3
    contrasts: bool = True
    ramp: tuple[float, float] = (0.42, 0.52)
    direct_ramp: tuple[float, float] | None = None
    search: Search = field(default_factory=Search)

    @property
    def deep(self) -> bool:
        """Whether they serve questions that do not name the subject."""
        return self.anchor == "last"


VALUE_NEURONS = Neurons(())
"""Of ``ace``, for questions that lead to a fact without naming its subject; layers to be chosen."""
QUERY_NEURONS = Neurons(
    (), ("cloze", "question"), "subject_last", rho=4.0, ramp=(0.48, 0.58), search=Search(until=0.3)
)
"""Of ``ace``, for questions that name the subject. The search ends early: a vector that makes the
model all but certain of the new object makes it the answer to any question that names the subject,
also where the question asks what follows from it."""


@brief
@dataclass(frozen=True)
class FineTune:
    """Fine-tuning by Adam: the baselines without a closed form.

    Breadth-first, as models are trained: in every epoch each fact of an edit is seen once, in
    mini-batches drawn anew. A batch whose mean loss is below `until` makes no step, and tuning ends
    where that of all facts is. (Depth-first, fact by fact: make an edit of each.)

    Attributes:
        layer: whose down-projection is tuned.
        rank: of the change, whose factors are tuned; ``None`` tunes the whole matrix.
        steps: most epochs.
        lr: of Adam, in units of the weight's root mean square.
        batch: most facts in a mini-batch.
        ends: whether an end-of-text token is learnt behind each target.
        preserved_weight: of the divergence from the model's own answers to preserved questions.
    """

    layer: int
    forms: tuple[Form, ...] = ("cloze",)
    rank: int | None = 4
    steps: int = 40
    lr: float = 0.1
    batch: int = 100
    ends: bool = False
    preserved_weight: float = 0.0
    until: float = 0.05


@brief
@dataclass(frozen=True)
class GradientStep:
    """One closed-form step along normalised gradients (`circuits.editing.gradient_step`).

    `lr` is the step's size, `preserved_weight` that of a preserved question's tokens.
    """

    layers: tuple[int, ...]
    forms: tuple[Form, ...] = ("cloze",)
    lr: float = 0.1
    preserved_weight: float = 0.0


AnyStage = Stage | Neurons | FineTune | GradientStep


@brief
@dataclass(frozen=True)
class Method:
    """A named way to edit: stages run one after the other, on the model as the earlier left it."""

    name: str
    stages: tuple[AnyStage, ...]

    def informed(self) -> "Method":
        """The same method given the two-hop prompts and the preserved questions that ACE gets."""
        return Method(f"{self.name}+", tuple(_informed(stage) for stage in self.stages))

    @property
    def two_hop(self) -> bool:
        """Whether it learns from two-hop prompts, which take implicit names."""
        return any("two_hop" in stage.forms for stage in self.stages)

    @property
    def places(self) -> list[tuple[str, int]]:
        """The projections (site, layer) whose second moments it needs."""
        places: list[tuple[str, int]] = []
        for stage in self.stages:
            if not isinstance(stage, FineTune | GradientStep):
                reads = ("gate", "mlp_post") if isinstance(stage, Neurons) else stage.writes
                places += [(site, layer) for layer in stage.layers for site in reads]
        return list(dict.fromkeys(places))


def _informed(stage: AnyStage) -> AnyStage:
    forms = tuple(dict.fromkeys((*stage.forms, "two_hop")))
    if isinstance(stage, FineTune | GradientStep):
        return replace(stage, forms=forms, preserved_weight=PRESERVED_WEIGHT)
    # preserved keys may repeat one another, which cannot be solved exactly
    rho = max(stage.rho, 0.02)
    return replace(stage, forms=forms, preserved_weight=PRESERVED_WEIGHT, rho=rho)
