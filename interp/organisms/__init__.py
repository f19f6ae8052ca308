"""Model organisms that come with the package: small models whose whole training world is known."""

from pathlib import Path

from interp.errors import ModelNotFound, did_you_mean

ORGANISMS = {
    "two-hop-organism": "Llama architecture, facts in its weights and in stories, one and two hops",
}
"""Name -> what it is."""


def folder_of(name: str) -> Path:
    """Where an organism lies: a Hugging Face folder, with `world.json` in it.

    Raises:
        ModelNotFound: there is no such organism, or its weights were not trained here.
    """
    if name not in ORGANISMS:
        raise ModelNotFound(f"{name!r} is no organism. {did_you_mean(name, ORGANISMS)}")
    folder = Path(__file__).parent / name.replace("-", "_")
    if not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"the weights of {name!r} are not in this checkout; train them with "
            f"'python -m benchmarks.train_organism --out {folder}'."
        )
    return folder
