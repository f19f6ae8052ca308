"""One prompt explained: attribution graphs by position, and whether they are true."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.explain.circuit_tracer import edited, read_circuit_tracer, write_circuit_tracer
    from circuits.explain.clusters import activity, clustered
    from circuits.explain.graph import AttributionGraph
    from circuits.explain.names import named

__all__ = [
    "AttributionGraph",
    "activity",
    "clustered",
    "edited",
    "named",
    "read_circuit_tracer",
    "write_circuit_tracer",
]

lazy(__name__)
