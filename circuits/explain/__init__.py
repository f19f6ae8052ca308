"""One prompt explained: attribution graphs by position, and whether they are true."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.explain.explain import explain
    from circuits.explain.graph import AttributionGraph
    from circuits.explain.truth import check

__all__ = ["AttributionGraph", "check", "explain"]

lazy(__name__)
