<<<<<<< HEAD
"""circuits: what is found with `interp`, and the command line.

graph = circuits.explain(model, "The capital of France is", "Paris")
"""
=======
"""circuits: what is found with `interp`, and the command line."""
>>>>>>> main

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
<<<<<<< HEAD
    from circuits.explain.explain import explain

__all__ = ["explain"]
=======
    from circuits.discovery.stability import stability

__all__ = ["stability"]
>>>>>>> main

lazy(__name__)
