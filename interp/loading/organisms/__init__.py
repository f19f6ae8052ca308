"""Model organisms that come with the package: small models whose whole training world is known."""

import hashlib
from pathlib import Path

from interp.errors import ModelError, did_you_mean

ORGANISMS = {
    "two-hop-organism": "Llama architecture, facts in its weights and in stories, one and two hops"
}
"""Name -> what it is."""

WEIGHTS = {"two-hop-organism": "1ff7f61ce1bd20f6f5524b11eb977e6e3723e1a6f9caaaeb8a0521a69ae52f1e"}
"""Name -> SHA-256 of its `model.safetensors`."""


def folder_of(name: str) -> Path:
    """Where an organism lies: a Hugging Face folder, with `world.json` in it.

    `ModelError` for an unknown name, and where its weights are missing or not those of its card.
    """
    if name not in ORGANISMS:
        raise ModelError(f"{name!r} is not an organism. {did_you_mean(name, ORGANISMS)}")
    folder = Path(__file__).parent / name.replace("-", "_")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ModelError(
            f"the weights of {name!r} are not in this checkout; train them with "
            f"'python datasets/build/train_organism.py --out {folder}'."
        )
    if hashlib.sha256(weights.read_bytes()).hexdigest() != WEIGHTS[name]:
        raise ModelError(
            f"{weights} is not the organism that its card speaks of; install interp again, or load "
            f"your own training run as a folder: {folder}."
        )
    return folder
