"""Which versions the test suite ran with: the lowest and the highest of each, as data."""

from importlib import metadata
from types import MappingProxyType

from packaging.version import Version

TESTED = MappingProxyType(
    {
        "python": ("3.11", "3.11"),
        "torch": ("2.13.0", "2.13.0"),
        "transformers": ("5.23.0", "5.25.0"),
        "transformer-lens": ("4.3.0", "4.3.0"),
        "nnsight": ("0.8.1", "0.8.1"),
    }
)
"""`constraints.txt` pins the lowest of each; `make test-newest` installs the newest allowed."""


def installed(name: str) -> str | None:
    """The version of a distribution, or ``None`` where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def was_tested(name: str, version: str) -> bool:
    """Whether a version lies in the range that was tested, as far as the range is precise."""
    low, high = (Version(end) for end in TESTED[name])
    release = Version(version).release[: len(high.release)]
    return low.release <= release <= high.release
