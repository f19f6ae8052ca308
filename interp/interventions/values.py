"""What interventions write: means, resampled prompts, noise, constants.

Each ``…_ablation`` gives a plan of one `Ablate` per layer, its values inside. All of them take
the `model`, `prompts` (texts, token prompts, or pairs, of which the clean prompts run), a `site`
(a short name, or a hook name for one layer), and what is ablated there: `layers`, `units` (heads
or neurons) and `positions`; all by default.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.data.prompts import Positions, Prompts, TokenPrompt, as_prompts
from interp.errors import PlanError
from interp.interventions.batch_run import Window
from interp.interventions.binding import resolve
from interp.interventions.plan import Ablate, AblationKind, Numbers, Plan
from interp.interventions.recording import Layers, Values, site_values
from interp.model.model import Model

Per = Literal["all", "position", "template"]


def mean_activations(
    model: Model,
    prompts: Prompts,
    site: str,
    layers: Layers = None,
    *,
    per: Per = "all",
    positions: Positions = "all",
    templates: Sequence[Hashable] | None = None,
) -> Values:
    """Means of a site's activations over prompts.

    `per`: ``"all"``: one mean over all tokens; ``"position"``: one per position, over the
    prompts that reach it; ``"template"``: one per position and template (Wang et al.,
    arXiv 2211.00593), given out to each prompt.
    `positions`: the tokens that the one mean of ``per="all"`` is over.
    `templates`: the template of each prompt, for ``per="template"``.

    Returns:
        layer -> [width], [pos, width] or [prompt, pos, width].
    """
    rows = as_prompts(model, prompts)
    found = site_values(model, rows, site, layers)
    if per == "all":
        scope = _table(rows, positions)
        return {layer: a[scope].double().mean(0).to(a) for layer, a in found.items()}
    real = _table(rows, "all")
    if per == "position":
        return {layer: _by_position(a, real) for layer, a in found.items()}
    if templates is None or len(templates) != len(rows):
        raise PlanError(
            f"per='template' needs the template of each of the {len(rows)} prompts; got "
            f"{0 if templates is None else len(templates)}."
        )
    out = {layer: torch.zeros_like(a) for layer, a in found.items()}
    for template in set(templates):
        same = torch.tensor([t == template for t in templates])
        for layer, a in found.items():
            out[layer][same] = _by_position(a[same], real[same])
    return out


def _table(rows: Sequence[TokenPrompt], positions: Positions) -> Bool[Tensor, "prompt pos"]:
    """Which positions of each prompt a scope covers."""
    length = torch.tensor([len(row.ids) for row in rows])
    real = torch.arange(int(length.max())) < length[:, None]
    scope = resolve(positions, rows, torch.ones(len(rows), dtype=torch.bool))
    chosen = scope.columns(Window.of(real))
    if not chosen.any():
        raise PlanError(f"positions={positions!r} covers no token of the prompts to learn from.")
    return chosen


def _by_position(
    a: Float[Tensor, "prompt pos width"], real: Bool[Tensor, "prompt pos"]
) -> Float[Tensor, "pos width"]:
    count = real.sum(0).clamp(min=1)[:, None]
    return ((a.double() * real[:, :, None]).sum(0) / count).to(a)


# --- ablations ---------------------------------------------------------------------------------


def _plan(site: str, values: Mapping[int, Tensor], kind: AblationKind, **where: Any) -> Plan:
    return Plan.of(*(Ablate(site, v, kind=kind, layers=i, **where) for i, v in values.items()))


def mean_ablation(
    model: Model,
    prompts: Prompts,
    site: str,
    layers: Layers = None,
    *,
    units: Numbers = None,
    positions: Positions = "prompt",
    per: Per = "all",
    templates: Sequence[Hashable] | None = None,
) -> Plan:
    """Replace activations by their mean over prompts; arguments as in `mean_activations`."""
    how: dict[str, Any] = {"per": per, "positions": positions, "templates": templates}
    values = mean_activations(model, prompts, site, layers, **how)
    return _plan(site, values, "mean", units=units, positions=positions)


def resample_ablation(
    model: Model,
    prompts: Prompts,
    site: str,
    layers: Layers = None,
    *,
    units: Numbers = None,
    positions: Positions = "prompt",
    counterparts: Prompts | None = None,
    seed: int = 0,
) -> Plan:
    """Replace each prompt's activations by those of another prompt of the same length.

    `counterparts`: the other prompts, one for each; by default the prompts themselves,
    cyclically shifted among those of one length in an order drawn from `seed`. `PlanError` where
    a counterpart has another length, or a prompt no other of its length.
    """
    rows = as_prompts(model, prompts)
    others = _derangement(rows, seed) if counterparts is None else as_prompts(model, counterparts)
    lengths = [[len(row.ids) for row in side] for side in (rows, others)]
    if lengths[0] != lengths[1]:
        raise PlanError(
            f"prompts of {lengths[0]} tokens have counterparts of {lengths[1]}; give each prompt a "
            "counterpart of equal token length."
        )
    values = site_values(model, others, site, layers)
    return _plan(site, values, "resample", units=units, positions=positions)


def _derangement(rows: Sequence[TokenPrompt], seed: int) -> list[TokenPrompt]:
    """For each prompt, another of its length."""
    others = list(rows)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    for n in {len(row.ids) for row in rows}:
        same = [i for i in order if len(rows[i].ids) == n]
        if len(same) == 1:
            raise PlanError(
                f"prompt {same[0]} is the only one of {n} tokens, so there is none to resample "
                "from; add prompts of that length or give `counterparts`."
            )
        for i, j in zip(same, same[1:] + same[:1], strict=True):
            others[i] = rows[j]
    return others


def noise_ablation(
    model: Model,
    prompts: Prompts,
    site: str = "blocks.0.hook_resid_pre",
    layers: Layers = None,
    *,
    units: Numbers = None,
    positions: Positions = "prompt",
    sigmas: float = 3.0,
    seed: int = 0,
) -> Plan:
    """Add Gaussian noise, by default to what enters layer 0, the embeddings.

    Drawn here, so a plan always adds the same. `sigmas`: how many standard deviations of the
    site's activations at `positions`, over all prompts and features.

    Source: Meng et al., arXiv 2202.05262, section 2.1 (3 standard deviations).
    """
    rows = as_prompts(model, prompts)
    scope = _table(rows, positions)
    generator = torch.Generator().manual_seed(seed)
    values = {
        layer: sigmas * float(a[scope].double().std()) * torch.randn(a.shape, generator=generator)
        for layer, a in site_values(model, rows, site, layers).items()
    }
    return _plan(site, values, "noise", units=units, positions=positions)
