"""One prompt explained: attribution graphs by position, and whether they are true."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.explain.explain import explain
    from circuits.explain.graph import AttributionGraph
    from circuits.explain.merge import recurring_edges, task_circuit
    from circuits.explain.query_key import query_key_edges
    from circuits.explain.truth import check

__all__ = [
    "AttributionGraph",
    "check",
    "explain",
    "query_key_edges",
    "recurring_edges",
    "task_circuit",
]

lazy(__name__)
