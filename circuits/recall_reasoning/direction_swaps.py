"""Swaps along lens directions: two bridges exchange their coordinates, and nothing else changes.

    h' = h + (c_old - c_new) (d_new - d_old)

`d` are the directions along which a lens reads the two bridges' tokens at a depth: their rows u of
the unembedding, or J^T u for the Jacobian lens (the final norm is left out of both). `c` are the
coordinates of h along them, by least squares. The control takes a third country's direction for
the new one, and its change has the same norm.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.recall_reasoning.bridge_swaps import SAID, Drawn, layers_and_positions, outcomes
from circuits.recall_reasoning.settings import BridgeSettings
from circuits.recall_reasoning.two_hop import Asked, swapped
from interp.interventions.plan import Add
from interp.interventions.recording import recorded
from interp.interventions.run import sweep_plans
from interp.lens import JacobianLens
from interp.model.model import Model
from interp.model.sites import SITES


def direction_swaps(
    model: Model,
    asked: Asked,
    drawn: Sequence[Drawn],
    settings: BridgeSettings,
    lens: str,
    jacobian: JacobianLens | None,
) -> pd.DataFrame:
    """A row per swap, layer, place, and direction or control, as `measured_swaps` has them.

    A fitted lens swaps in the layers at its depths.
    """
    some = [one for one in drawn if one[0]["condition"] == "bridge"]
    targets = [target for _, target, *_ in some]
    pairs = [swapped(target.prompt, target.prompt, tuple(both)) for _, target, _, *both in some]
    layers, positions = layers_and_positions(model, asked, settings)
    layers = [one for one in layers if jacobian is None or one in jacobian.depths]
    at = [tuple(one.prompt.spans["read"][p] for p in positions) for one in targets]
    points = [(SITES["resid_pre"], layer) for layer in layers]
    states = recorded(model, [one.prompt for one in targets], points, at) if layers else []
    rows = _unembedded(model, asked)
    others, name = _others(asked, some, settings.seed + 2), lens.removesuffix(" lens")
    trios = [
        (one.bridge, labels["donor"], other)
        for (labels, one, *_), other in zip(some, others, strict=True)
    ]
    frames: list[pd.DataFrame] = []
    for layer, state in zip(layers, states, strict=True):
        maps = None if jacobian is None else jacobian.jacobians[jacobian.depths.index(layer)]
        along = {k: row if maps is None else row @ maps for k, row in rows.items()}
        old, new, third = (torch.stack([along[t[i]] for t in trios]) for i in range(3))
        for number, place in enumerate(positions):
            h = state[:, number].float().cpu()
            change = exchange(h, old, new)
            control = torch.nn.functional.normalize(exchange(h, old, third), dim=-1)
            changes = {"direction": change, "control": control * change.norm(dim=-1, keepdim=True)}
            plans = [
                Add("resid_pre", own[:, None], layers=layer, positions=str(place))
                for own in changes.values()
            ]
            said = sweep_plans(model, pairs, plans, SAID, "corrupt").values
            frames += [
                outcomes(
                    labels | {"condition": f"{name} {kind}"},
                    target,
                    layer,
                    [asked.places[place]],
                    own[[k]],
                )
                for (labels, target, *_), own in zip(some, said, strict=True)
                for k, kind in enumerate(changes)
            ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def exchange(
    h: Float[Tensor, "row d_model"],
    old: Float[Tensor, "row d_model"],
    new: Float[Tensor, "row d_model"],
) -> Float[Tensor, "row d_model"]:
    """What to add to states so that their coordinates along two directions change places."""
    basis = torch.stack([old, new], -1)  # (row, d_model, 2)
    first, second = (torch.linalg.pinv(basis) @ h[..., None])[..., 0].unbind(-1)
    return (first - second)[:, None] * (new - old)


def _unembedded(model: Model, asked: Asked) -> Mapping[str, Float[Tensor, " d_model"]]:
    """Bridge -> its token's row of the unembedding."""
    names = sorted({one.bridge for one in asked.of_half()})
    ids = [model.tokenizer.encode(f" {name}", add_special_tokens=False)[0] for name in names]
    return dict(zip(names, model.unembedding[ids].detach().float().cpu(), strict=True))


def _others(asked: Asked, some: Sequence[Drawn], seed: int) -> list[str]:
    """For each swap a third country, of any half."""
    rng = np.random.default_rng(seed)
    names = sorted({one.bridge for one in asked.of_half()})
    free = [[n for n in names if n not in (t.bridge, labels["donor"])] for labels, t, *_ in some]
    return [own[int(rng.integers(len(own)))] for own in free]
