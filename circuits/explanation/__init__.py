"""One prompt explained: attribution graphs by position, their page, and whether they are true."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.explanation.circuit_tracer import (
        edited,
        read_circuit_tracer,
        write_circuit_tracer,
    )
    from circuits.explanation.clusters import activity, clustered
    from circuits.explanation.explain import explain
    from circuits.explanation.graph import AttributionGraph
    from circuits.explanation.merge import recurring_edges, task_circuit
    from circuits.explanation.names import named
    from circuits.explanation.query_key import query_key_edges
    from circuits.explanation.truth import check

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
