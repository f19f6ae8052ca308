"""interp: find where a language model computes something, and prove it causally.

The path of data is one line: prompt pairs -> runs with interventions -> a labelled result ->
statistics -> a figure or a file.

    model = interp.load_model("smollm2-135m")
    pairs = interp.load_pairs("datasets/country_capitals.jsonl")
    result = interp.patch(model, pairs[:16], site="resid_pre", over=("layer", "pos"))
    result.plot()
"""

from interp.errors import InterpError
from interp.loading import load_model
from interp.metrics import METRICS
from interp.model import Model
from interp.pairs import Pair, PromptPairs, load_pairs
from interp.patching import patch
from interp.results import PatchResult
from interp.sites import SITES, Site
from interp.validation import validate

__version__ = "0.1.0"

__all__ = [
    "METRICS",
    "SITES",
    "InterpError",
    "Model",
    "Pair",
    "PatchResult",
    "PromptPairs",
    "Site",
    "load_model",
    "load_pairs",
    "patch",
    "validate",
]
