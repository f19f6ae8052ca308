"""Prompts and plans that tests of interventions share."""

import torch
from conftest import hooks_left, word_pairs

from interp import Ablate, Add, KnockOut, Patch, Plan, ProjectOut, Scale
from interp.data.pairs import tokenise
from interp.data.prompts import TokenPrompt, as_prompts
from interp.model.model import Model
from interp.model.sites import SITES


def prompts_for(model: Model) -> list[TokenPrompt]:
    """Three prompts of unequal length, with the span "s"."""
    return as_prompts(model, tokenise(model, word_pairs())[0])


def vector(model: Model, site: str, *axes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(site))
    return torch.randn(*axes, model.width(SITES[site]), generator=generator)


def every_kind(model: Model) -> Plan:
    v = vector(model, "resid_post")
    return Plan.of(
        Patch("z", vector(model, "z", 3, 8), layers=(0, 1), units=2, positions="prompt"),
        Ablate("mlp_post", units=(1, 5), positions="s"),
        Ablate("mlp_out", v.bfloat16(), kind="mean", layers=2),
        Add("resid_post", v, 0.5, positions="last"),
        Scale("blocks.1.hook_attn_out", 0.5),
        ProjectOut("resid_pre", torch.stack([v, v.roll(1)]), layers=1, positions=(0, 2)),
        KnockOut("last", "s", layers=(0, 2), heads=1),
    )


def assert_untouched(model: Model) -> None:
    assert not hooks_left(model)
    assert model.attention_implementation in ("sdpa", "eager")
