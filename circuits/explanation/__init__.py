"""One prompt explained: attribution graphs by position, their page, and whether they are true."""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.explanation.circuit_tracer import read_circuit_tracer as read_circuit_tracer
    from circuits.explanation.circuit_tracer import write_circuit_tracer as write_circuit_tracer
    from circuits.explanation.clusters import activity as activity
    from circuits.explanation.clusters import clustered as clustered
    from circuits.explanation.explain import explain as explain
    from circuits.explanation.graph import AttributionGraph as AttributionGraph
    from circuits.explanation.names import named as named
    from circuits.explanation.query_key import query_key_edges as query_key_edges
    from circuits.explanation.truth import check as check

lazy(__name__)
