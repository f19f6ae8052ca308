"""One prompt explained: attribution graphs by position, their page, and whether they are true."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.explain.circuit_tracer import edited, read_circuit_tracer, write_circuit_tracer
    from circuits.explain.clusters import activity, clustered
    from circuits.explain.explain import explain
    from circuits.explain.graph import AttributionGraph
    from circuits.explain.merge import recurring_edges, task_circuit
    from circuits.explain.names import named
    from circuits.explain.query_key import query_key_edges
    from circuits.explain.truth import check

__all__ = [
    "AttributionGraph",
    "activity",
    "check",
    "clustered",
    "edited",
    "explain",
    "named",
    "query_key_edges",
    "read_circuit_tracer",
    "recurring_edges",
    "task_circuit",
    "write_circuit_tracer",
]

lazy(__name__)
