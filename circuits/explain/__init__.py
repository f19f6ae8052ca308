"""One prompt explained: attribution graphs by position, and whether they are true."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.explain.graph import AttributionGraph

__all__ = ["AttributionGraph"]

lazy(__name__)
