"""Compiled (tracr) programs that come with the package, each with its true circuit."""

from pathlib import Path

PROGRAMS = {
    "tracr-hist": "how often each token occurs in the input",
    "tracr-sort": "the tokens in order",
    "tracr-reverse": "the tokens from last to first",
    "tracr-xproportion": "the share of x among the tokens so far",
}
"""Name -> what the program computes."""


def file_of(ref: str | Path) -> Path:
    """The ``.npz`` file of a shipped program, by name; any other path as it is."""
    if str(ref) not in PROGRAMS:
        return Path(ref)
    return Path(__file__).parent / f"{str(ref).removeprefix('tracr-')}.npz"
