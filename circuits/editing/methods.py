"""Methods as data: what is searched, where it is written, in which order. One solver runs them all.

Published settings are kept where a model's shape names them; elsewhere layers stand at the same
relative depth. lambda is rho times the key's width (`Metric.typical`), so GPT-J's 15,000 at
width 16,384 is rho = 0.92.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from circuits.editing.method_names import METHODS
from circuits.editing.moments import Moments
from circuits.editing.prompting import Anchor, Form
from circuits.editing.search import Search
from circuits.editing.solving import MetricName
from interp.brief import brief
from interp.errors import DataError, did_you_mean
from interp.model.model import Model

Spread = Literal["joint", "linear", "sqrt"]
"""How layers share a target: a vector of its own for each, searched together; or the residual
left at the last layer over the number of layers left, or over its square root."""

Target = Literal["mlp", "mlp+attn", "resid"]
"""Where the vector is searched: on the FFN's output; on that and attention's jointly (PMET); on
the layer's output (MEMIT). Post-norm models bound what an FFN can add to the stream, so there
``"resid"`` means the FFN's output too."""


@brief
@dataclass(frozen=True)
class Stage:
    """One search and the layers it is written to.

    Attributes:
        layers: in the order they are written; the target is searched at the last.
        groups: sizes of the groups of layers within each of which the residual is spread;
            empty for one group.
        forms: prompts to learn from. The contexts of a cloze make one key; other prompts each
            their own.
        anchor: the token written at.
        target: where the vector is searched.
        writes: the projections changed, by the site they read.
        spread: how layers share the target.
        metric: what the change is small in.
        rho: lambda, see `circuits.editing.solving`.
        kept_weight: how much a preserved question counts beside a written key; 0 ignores them.
        contrasts: whether the edited subject in other questions that are asked of its kind is
            preserved, too (`circuits.editing.prompting.contrasts`).
        search: of the target.
    """

    layers: tuple[int, ...]
    groups: tuple[int, ...] = ()
    forms: tuple[Form, ...] = ("cloze",)
    anchor: Anchor = "subject_last"
    target: Target = "mlp"
    writes: tuple[str, ...] = ("mlp_post",)
    spread: Spread = "joint"
    metric: MetricName = "inverse_moment"
    rho: float = 0.1
    kept_weight: float = 0.0
    contrasts: bool = False
    search: Search = field(default_factory=Search)

    def left(self, i: int) -> int:
        """Layers left to write in the group of the i-th layer, itself included."""
        end = 0
        for size in self.groups or (len(self.layers),):
            end += size
            if i < end:
                return end - i
        raise DataError(f"groups {self.groups} do not cover the {len(self.layers)} layers.")


@brief
@dataclass(frozen=True)
class Neurons:
    """Two neurons a fact in each layer, query and value written (`circuits.editing.neurons`).

    Anchored at the last token, a fact without implicit phrases is left out: nothing but its own
    subject leads to it.

    Attributes:
        layers: where; a target for each is searched jointly.
        forms: prompts to learn from, each a key of its own.
        anchor: the token written at.
        metric: what a query is small in, over what the FFN reads.
        rho: lambda, see `circuits.editing.solving`.
        kept_weight: how much a preserved question counts beside a key of the fact.
        contrasts: whether the edited subject in other questions that are asked of its kind is
            preserved, too.
        ramp: gains at which the neurons begin and have ceased to rise.
        search: of the target.
    """

    layers: tuple[int, ...]
    forms: tuple[Form, ...] = ("cloze", "question", "two_hop")
    anchor: Anchor = "last"
    metric: MetricName = "inverse_moment"
    rho: float = 1.0
    kept_weight: float = 0.3
    contrasts: bool = True
    ramp: tuple[float, float] = (0.42, 0.52)
    search: Search = field(default_factory=Search)

    @property
    def deep(self) -> bool:
        """Whether they serve questions that do not name the subject."""
        return self.anchor == "last"


VALUE_NEURONS = Neurons(())
"""Of ``ace``, for questions that lead to a fact without naming its subject; at layers still to be
placed."""

RISE = 0.05
"""Half of the gain over which neurons rise."""

QUERY_NEURONS = Neurons(
    (),
    ("cloze", "question"),
    "subject_last",
    rho=4.0,
    ramp=(0.48, 0.58),
    search=Search(until=0.3),
)
"""Of ``ace``, for questions that name the subject. The search ends early: a vector that makes the
model all but certain of the new object makes it say that object behind any question that names the
subject, also where the question asks what follows from it."""


@brief
@dataclass(frozen=True)
class FineTune:
    """Low-rank fine-tuning of one layer's down-projection, the crude baseline.

    Attributes:
        layer: which.
        forms: prompts to learn from.
        rank: of the change.
        steps, lr: of Adam on the factors; `lr` in units of the weight's root mean square.
        kept_weight: weight of the divergence from the model's own answers to preserved questions.
        until: a fact whose loss is below this is done.
    """

    layer: int
    forms: tuple[Form, ...] = ("cloze",)
    rank: int = 4
    steps: int = 40
    lr: float = 0.1
    kept_weight: float = 0.0
    until: float = 0.05


@brief
@dataclass(frozen=True)
class Method:
    """A named way to edit.

    Attributes:
        name: as the command line has it.
        stages: run one after the other, each on the model as the earlier ones left it.
    """

    name: str
    stages: tuple[Stage | Neurons | FineTune, ...]

    def informed(self) -> "Method":
        """The same method given the two-hop prompts and the preserved questions that ACE sees."""
        return Method(f"{self.name}+", tuple(_informed(stage) for stage in self.stages))


KEPT_WEIGHT = 3.0
"""Weight of a preserved question where a subject's token is written."""


def _informed(stage: Stage | Neurons | FineTune) -> Stage | Neurons | FineTune:
    forms = tuple(dict.fromkeys((*stage.forms, "two_hop")))
    if isinstance(stage, FineTune):
        return replace(stage, forms=forms, kept_weight=KEPT_WEIGHT)
    # preserved keys may repeat one another, which cannot be solved exactly
    return replace(stage, forms=forms, kept_weight=KEPT_WEIGHT, rho=max(stage.rho, 0.02))


def depth(model: Model, *fractions: float) -> tuple[int, ...]:
    """Layers at fractions of the depth, without repeats."""
    last = model.arch.n_layers - 1
    return tuple(dict.fromkeys(min(last, round(f * model.arch.n_layers)) for f in fractions))


def early(model: Model) -> tuple[int, ...]:
    """Where MEMIT and PMET write: layers 3 to 8 of GPT-J's 28 (arXiv 2210.07229, 2308.08742)."""
    n = model.arch.n_layers
    lo, hi = round(3 / 28 * n), round(8 / 28 * n)
    return tuple(range(lo, max(lo, hi) + 1))


@brief
@dataclass(frozen=True)
class Placement:
    """The layers that an attribution chose for a two-stage edit.

    Attributes:
        query: layers where the subject's own token is written.
        value: deeper layers where the last token of a two-hop prompt is written.
        by: which attribution chose them, on what.
        moments: of what the FFNs of these layers read at such tokens of questions
            (`circuits.editing.scatter`); without them queries are small over text.
        threshold: gain at which value neurons write half of their target, where one was chosen.
        until: mean negative log-likelihood of the target at which the query neurons' search ends.
        separation: by deep layer, how well gains tell questions through a fact from others
            (AUROC), where that chose the value layers.

    Raises:
        DataError: a layer is in both, or `threshold` or `until` is no number, 0 or more.
    """

    query: tuple[int, ...]
    value: tuple[int, ...]
    by: str = ""
    moments: Moments = field(default_factory=dict, repr=False, compare=False)
    threshold: float | None = None
    until: float = QUERY_NEURONS.search.until
    separation: dict[int, float] = field(default_factory=dict, repr=False)

    @property
    def ramp(self) -> tuple[float, float]:
        """Gains at which value neurons begin and have ceased to rise."""
        if self.threshold is None:
            return VALUE_NEURONS.ramp
        return self.threshold - RISE, self.threshold + RISE

    def __post_init__(self) -> None:
        both = sorted({*self.query} & {*self.value})
        if both:
            raise DataError(
                f"layers {both} are to be both query and value layers; give other ones."
            )
        for name, value in (("threshold", self.threshold), ("until", self.until)):
            if value is not None and not 0 <= value < math.inf:
                raise DataError(f"{name} is {value}; give a number, 0 or more.")

    def summary(self) -> dict[str, Any]:
        """What it says, without the moments."""
        return {
            "query": list(self.query),
            "value": list(self.value),
            "by": self.by,
            "threshold": self.threshold,
            "until": self.until,
            "separation": {str(layer): value for layer, value in self.separation.items()},
        }

    @classmethod
    def of(cls, said: Mapping[str, Any], moments: Moments | None = None) -> "Placement":
        """From a `summary`.

        Raises:
            KeyError: a part is missing.
        """
        return cls(
            tuple(said["query"]),
            tuple(said["value"]),
            said["by"],
            moments or {},
            said["threshold"],
            said["until"],
            {int(layer): value for layer, value in said["separation"].items()},
        )


def refuse_unknown(name: str, also: Collection[str] = ()) -> None:
    """Raise unless a preset, or one of the names in `also`, goes by this name.

    Raises:
        DataError: with what was probably meant.
    """
    base = name.removesuffix("+")
    if name not in also and base not in METHODS:
        raise DataError(f"unknown method {name!r}. {did_you_mean(base, (*also, *METHODS))}")


def preset(name: str, model: Model, placement: Placement | None = None) -> Method:
    """A method by name, at this model's layers.

    Args:
        name: of `METHODS`; ``+`` at the end informs it (`Method.informed`).
        model: for its depth.
        placement: the layers of the ACE family.

    Raises:
        DataError: unknown name, or an ACE preset without a placement.
    """
    refuse_unknown(name)
    base = name.removesuffix("+")
    if base.startswith("ace"):
        if placement is None:
            raise DataError(
                f"{name} needs the layers that an attribution chose; give a placement "
                "(circuits.editing.placing.place), on the command line --placement."
            )
        method = _ace(base, placement)
    else:
        method = Method(base, _published(base, model))
    return method.informed() if name.endswith("+") else method


PMET_SEARCH = Search(kl=1.0)


def _published(name: str, model: Model) -> tuple[Stage | FineTune, ...]:
    layers = early(model)
    pmet = Stage(layers, target="mlp+attn", spread="sqrt", rho=0.05, search=PMET_SEARCH)
    if name == "ft":
        return (FineTune(depth(model, 0.28)[0]),)
    if name == "rome":
        return (Stage(depth(model, 0.28), rho=0.0, search=Search(clamp=4.0)),)
    if name == "memit":
        return (Stage(layers, target="resid", spread="linear", rho=0.05),)
    if name == "alphaedit":
        return (Stage(layers, target="resid", spread="linear", metric="null_space", rho=0.05),)
    if name == "pmet":
        return (pmet,)
    # IFMET's second stage: GPT-J layers 16 to 20 of 28 (arXiv 2410.06331)
    deep = depth(model, *(i / 28 for i in range(16, 21)))
    second = replace(pmet, layers=deep, forms=("two_hop",), anchor="last")
    return pmet, second


def _ace(name: str, at: Placement) -> Method:
    if name in ("ace", "ace-query-first"):
        value = replace(VALUE_NEURONS, layers=at.value, ramp=at.ramp)
        search = replace(QUERY_NEURONS.search, until=at.until)
        query = replace(QUERY_NEURONS, layers=at.query, search=search)
        # behind value neurons a question that names the subject is answered already, so nothing is
        # stored at the subject: what else is asked of it is spared, and later hops find nothing
        return Method(name, (value, query) if name == "ace" else (query, value))
    pmet = Stage(at.query, target="mlp+attn", spread="sqrt", rho=0.05, search=PMET_SEARCH)
    if name == "ace-paper":  # arXiv 2510.07896, section 4: value layers first, then query layers
        first = replace(pmet, layers=at.value, forms=("two_hop",), anchor="last")
        return Method(name, (first, replace(pmet, layers=at.query)))
    # the released code: single-hop prompts, one target at the last layer, attention written too
    both = (*at.query, *at.value)
    groups = (len(at.query), len(at.value))
    return Method(name, (replace(pmet, layers=both, groups=groups, writes=("z", "mlp_post")),))
