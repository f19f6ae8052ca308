"""Sites: the named places in a transformer where an activation can be read or replaced.

Names are TransformerLens's hook names, so notebooks and papers carry over.
"""

import re
from dataclasses import dataclass
from typing import Literal

from interp.errors import PlanError, did_you_mean

Units = Literal[
    "d_model", "head", "kv_head", "neuron", "expert", "expert_vector", "expert_neuron", "vector"
]

_FORM = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Site:
    """One kind of activation, present once per layer.

    `hook` is the TransformerLens hook name inside a block, e.g. ``"attn.hook_z"``; `units` are what
    its last axis is made of; heads, neurons and experts can be patched one by one.
    """

    name: str
    hook: str
    units: Units

    def at(self, layer: int) -> str:
        """The full TransformerLens hook name, e.g. ``blocks.7.attn.hook_z``."""
        return f"blocks.{layer}.{self.hook}"


SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site("resid_pre", "hook_resid_pre", "d_model"),
        Site("resid_mid", "hook_resid_mid", "d_model"),
        Site("resid_post", "hook_resid_post", "d_model"),
        Site("attn_out", "hook_attn_out", "d_model"),
        Site("mlp_out", "hook_mlp_out", "d_model"),
        Site("q", "attn.hook_q", "head"),
        Site("k", "attn.hook_k", "kv_head"),
        Site("v", "attn.hook_v", "kv_head"),
        Site("z", "attn.hook_z", "head"),
        Site("mlp_post", "mlp.hook_post", "neuron"),
        Site("router_logits", "mlp.hook_router_logits", "expert"),
        Site("router_weights", "mlp.hook_router_weights", "expert"),
        Site("expert_post", "mlp.hook_expert_post", "expert_neuron"),
        Site("expert_out", "mlp.hook_expert_out", "expert_vector"),
        Site("shared_post", "mlp.hook_shared_post", "neuron"),
        Site("shared_out", "mlp.hook_shared_out", "d_model"),
        Site("q_latent", "attn.hook_q_latent", "vector"),
        Site("kv_latent", "attn.hook_kv_latent", "vector"),
        Site("mixer_gate", "attn.hook_gate", "vector"),
    )
}

EXPERT_SITES = tuple(name for name in SITES if name.startswith(("router", "expert", "shared")))
"""Sites of mixtures of experts, in the order in which they are computed."""

UNITS = ("head", "neuron", "expert")
"""Axes of the units of a site."""

AXES = ("layer", "pos", "span", *UNITS)
"""What a sweep or an attribution can tell apart."""

MIXER_SITES = ("q_latent", "kv_latent", "mixer_gate")
"""Sites inside what mixes tokens: latents of latent attention, and a gate on the output."""

AXES_OF: dict[str, tuple[str, ...]] = {
    "d_model": (),
    "vector": (),
    "head": ("head",),
    "kv_head": ("head",),
    "neuron": ("neuron",),
    "expert": ("expert",),
    "expert_vector": ("expert",),
    "expert_neuron": ("neuron", "expert"),
}
"""The axes along which a site's units can be told apart."""


def sites_along(axis: str) -> str:
    """Names of the sites whose units an axis tells apart, for messages."""
    return ", ".join(name for name, site in SITES.items() if axis in AXES_OF[site.units])


PATTERN = Site("pattern", "attn.hook_pattern", "head")
"""Attention weights after the softmax: recorded by `interp.activations`, cut by `KnockOut`."""


def parse_site(text: str) -> tuple[Site, int | None]:
    """A site and its layer: ``"z"`` (``None``: every layer) or ``"blocks.7.attn.hook_z"``."""
    known = SITES | {PATTERN.name: PATTERN}
    if text in known:
        return known[text], None
    match = _FORM.fullmatch(text)
    by_hook = {site.hook: site for site in known.values()}
    if match and match[2] in by_hook:
        return by_hook[match[2]], int(match[1])
    raise PlanError(
        f"unknown site {text!r}. {did_you_mean(text, SITES)} A full hook name such as "
        "'blocks.7.attn.hook_z' works too."
    )
