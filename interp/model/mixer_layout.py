"""Sites inside what mixes tokens: the latents of latent attention, and a gate on the output."""

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from interp.model.architecture import NO_GATE, NO_LATENTS, BlockMap, ModulePoint
from interp.model.sites import MIXER_SITES

READERS = {"q_latent": "q_b_proj", "kv_latent": "kv_b_proj"}
"""The linear maps that make heads' queries, or keys and values, from a latent: in transformers
every latent attention calls them so."""

GATES = ("g_proj", "g_b_proj", "in_proj_z", "output_gate", "gate_proj")
"""Linear maps that give a gate on the mixer's output, where it has one of its own."""


def with_mixer(block_map: BlockMap, block: nn.Module) -> BlockMap:
    """The map of a block with the sites inside its mixer, or why it has none."""
    points: dict[str, ModulePoint] = {}
    for site, name in READERS.items():
        found = list(_called(block, (name,)))
        if len(found) == 1:
            points[site] = ModulePoint(found[0], "in")
    gates = [path for path in _called(block, GATES) if not _of_mlp(block, path)]
    if len(gates) == 1:
        points["mixer_gate"] = ModulePoint(gates[0], "out")
    whys = {"q_latent": NO_LATENTS, "kv_latent": NO_LATENTS, "mixer_gate": NO_GATE}
    kept = {name: why for name, why in block_map.missing.items() if name not in MIXER_SITES}
    absent = {name: why for name, why in whys.items() if name not in points}
    return replace(block_map, points={**block_map.points, **points}, missing=kept | absent)


def _of_mlp(block: nn.Module, path: str) -> bool:
    """Whether a gate's module also has a map up: then it is an MLP, or shared experts."""
    return "up_proj" in dict(block.get_submodule(path.rpartition(".")[0]).named_children())


def _called(block: nn.Module, names: tuple[str, ...]) -> Iterator[str]:
    """Paths of a block's linear maps with some name."""
    for path, module in block.named_modules():
        if path.rpartition(".")[2] in names and hasattr(module, "weight"):
            yield path
