"""The methods by name, at a model's layers.

Published settings are kept where a model's shape names them; elsewhere layers stand at the same
relative depth. lambda is rho times the key's width (`KeyMetric.typical`), so
GPT-J's 15,000 at width 16,384 is rho = 0.92.
"""

from collections.abc import Collection
from dataclasses import replace

from circuits.editing.layer_selection import LayerSelection
from circuits.editing.methods import (
    METHODS,
    QUERY_NEURONS,
    VALUE_NEURONS,
    FineTune,
    GradientStep,
    Method,
    Search,
    Stage,
)
from circuits.editing.norm_anchor import value_norm
from interp.errors import DataError, did_you_mean
from interp.model.model import Model


def refuse_unknown(name: str, also: Collection[str] = ()) -> None:
    """Raise `DataError` unless a preset, or one of the names in `also`, goes by this name."""
    base = name.removesuffix("+")
    if name not in also and base not in METHODS:
        raise DataError(f"unknown method {name!r}. {did_you_mean(base, (*also, *METHODS))}")


def preset(name: str, model: Model, layers: LayerSelection | None = None) -> Method:
    """A method by name, at this model's layers; ``+`` at the end informs it (`Method.informed`).

    Raises `DataError` for an unknown name, or an ACE preset without a layer selection.
    """
    refuse_unknown(name)
    base = name.removesuffix("+")
    if base.startswith("ace"):
        if layers is None:
            raise DataError(
                f"{name} needs a layer selection; make one with "
                "circuits.editing.layer_search.select_layers, or on the command line with "
                "`interp edit place`, and give --placement."
            )
        method = _ace(base, layers)
    else:
        method = Method(base, _published(base, model))
    return method.informed() if name.endswith("+") else method


def depth(model: Model, *fractions: float) -> tuple[int, ...]:
    """Layers at fractions of the depth, without repeats."""
    last = model.arch.n_layers - 1
    return tuple(dict.fromkeys(min(last, round(f * model.arch.n_layers)) for f in fractions))


def early(model: Model) -> tuple[int, ...]:
    """Where MEMIT and PMET write: layers 3 to 8 of GPT-J's 28 (arXiv 2210.07229, 2308.08742)."""
    n = model.arch.n_layers
    lo, hi = round(3 / 28 * n), round(8 / 28 * n)
    return tuple(range(lo, max(lo, hi) + 1))


def _pmet(layers: tuple[int, ...]) -> Stage:
    return Stage(layers, target="mlp+attn", spread="sqrt", rho=0.05, search=Search(kl=1.0))


def _two_hop(layers: tuple[int, ...]) -> Stage:
    return replace(_pmet(layers), forms=("two_hop",), anchor="last")


def _published(name: str, model: Model) -> tuple[Stage | FineTune | GradientStep, ...]:
    layers = early(model)
    if name == "ft":
        return (FineTune(depth(model, 0.28)[0]),)
    if name == "locft-bf":
        return (
            FineTune(depth(model, 0.69)[0], rank=None, steps=25, lr=0.005, ends=True, until=0.01),
        )
    if name == "ultraedit":  # arXiv 2505.14679: layers 18 to 26 of 28
        return (GradientStep(depth(model, *(i / 28 for i in range(18, 27)))),)
    if name == "rome":
        return (Stage(depth(model, 0.28), rho=0.0, search=Search(clamp=4.0)),)
    if name == "memit":
        return (Stage(layers, target="resid", spread="linear", rho=0.05),)
    if name == "alphaedit":
        return (Stage(layers, target="resid", spread="linear", metric="null_space", rho=0.05),)
    if name.endswith("-nas"):
        (stage,) = _published(name.removesuffix("-nas"), model)
        if isinstance(stage, Stage):
            return (replace(stage, value_norm=value_norm(model, stage)),)
    if name == "pmet":
        return (_pmet(layers),)
    if name == "ifmet":  # second stage: GPT-J layers 16 to 20 of 28 (arXiv 2410.06331)
        return _pmet(layers), _two_hop(depth(model, *(i / 28 for i in range(16, 21))))
    raise ValueError(f"no settings of method {name!r}")


def _ace(name: str, at: LayerSelection) -> Method:
    if name in ("ace", "ace-query-first"):
        value = replace(VALUE_NEURONS, layers=at.value, ramp=at.ramp, direct_ramp=at.direct_ramp)
        search = replace(QUERY_NEURONS.search, until=at.until)
        query = replace(QUERY_NEURONS, layers=at.query, search=search)
        # behind value neurons a question that names the subject is answered already, so of a fact
        # with implicit names nothing is stored at the subject: what else is asked of it is spared,
        # and later hops find nothing
        return Method(name, (value, query) if name == "ace" else (query, value))
    if name == "ace-paper":  # arXiv 2510.07896, section 4: value layers first, then query layers
        return Method(name, (_two_hop(at.value), _pmet(at.query)))
    if name != "ace-released":
        raise ValueError(f"no settings of method {name!r}")
    # the released code: single-hop prompts, one target at the last layer, attention written too
    both, groups = (*at.query, *at.value), (len(at.query), len(at.value))
    return Method(name, (replace(_pmet(both), groups=groups, writes=("z", "mlp_post")),))
