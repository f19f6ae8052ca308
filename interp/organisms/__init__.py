"""Model organisms that come with the package: small models whose whole training world is known."""

from pathlib import Path

from interp.errors import ModelNotFound, did_you_mean

ORGANISMS = {
    "two-hop-organism": "Llama architecture, 6 layers, d_model 128, 8 heads; facts in its weights "
    "and in stories, one and two hops",
}
"""Name -> what it is."""


def folder_of(name: str) -> Path:
    """Where a shipped organism lies: a Hugging Face folder, and `world.json` beside it.

    Raises:
        ModelNotFound: there is no such organism.
    """
    if name not in ORGANISMS:
        raise ModelNotFound(f"{name!r} is no organism. {did_you_mean(name, ORGANISMS)}")
    return Path(__file__).parent / name.replace("-", "_")
