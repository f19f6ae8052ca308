"""circuits: what is found with `interp`, and the command line.

graph = circuits.explain(model, "The capital of France is", "Paris")
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from circuits.discovery.stability import stability as stability
    from circuits.explanation.explain import explain as explain

lazy(__name__)
