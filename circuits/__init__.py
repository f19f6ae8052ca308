"""circuits: what is found with `interp`, and the command line."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.discovery.stability import stability

__all__ = ["stability"]

lazy(__name__)
