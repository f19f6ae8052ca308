"""interp: find where a language model computes something, and test it causally.

The path of data is one line: prompt pairs -> runs with interventions -> a labelled result ->
statistics -> a figure or a file.

    model = interp.load_model("smollm2-135m")
    pairs = interp.load_pairs("country_capitals")
    result = interp.patch(model, pairs[:16], site="resid_pre", over=("layer", "pos"))
    result.plot()
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy
from interp.version import __version__ as __version__

if TYPE_CHECKING:
    from interp.ablation.ablate import ablate
    from interp.ablation.result import AblationResult
    from interp.attribution.attribute import attribute, attribute_edges, attribute_nodes
    from interp.attribution.exact import path_patch
    from interp.attribution.logit_attribution import (
        direct_logit_attribution,
        log_prob_increase,
        top_tokens,
    )
    from interp.attribution.scores import Scores
    from interp.data.chat import Chat, Conversation
    from interp.data.datasets import datasets
    from interp.data.pairs import Pair, PromptPairs, load_pairs
    from interp.data.prompts import TokenPrompt, prompt
    from interp.errors import InterpError
    from interp.interventions.bridge import bridge_hooks
    from interp.interventions.contrast_pairs import load_contrast_pairs, steering_vector
    from interp.interventions.generate import Generation, generate
    from interp.interventions.labelled import ActivationCache, Activations
    from interp.interventions.native import applied
    from interp.interventions.plan import (
        Ablate,
        Add,
        Clamp,
        KnockOut,
        Patch,
        Plan,
        ProjectOut,
        Scale,
    )
    from interp.interventions.recording import activations
    from interp.interventions.run import forward, sweep_plans
    from interp.interventions.steering_vector import SteeringVector
    from interp.interventions.values import (
        mean_ablation,
        mean_activations,
        noise_ablation,
        optimal_ablation,
        resample_ablation,
    )
    from interp.lens.jacobian import JacobianLens, jacobian_lens
    from interp.lens.reading import LensReading, logit_lens
    from interp.loading.check import validate
    from interp.loading.load import load_model
    from interp.metrics import METRICS, metric
    from interp.model.components import all_but, cumulative, singles
    from interp.model.model import Model
    from interp.model.sites import SITES, Site
    from interp.patching.patch import patch
    from interp.patching.result import PatchResult
    from interp.results.token_figures import plot_attention

__all__ = [
    "METRICS",
    "SITES",
    "Ablate",
    "AblationResult",
    "ActivationCache",
    "Activations",
    "Add",
    "Chat",
    "Clamp",
    "Conversation",
    "Generation",
    "InterpError",
    "JacobianLens",
    "KnockOut",
    "LensReading",
    "Model",
    "Pair",
    "Patch",
    "PatchResult",
    "Plan",
    "ProjectOut",
    "PromptPairs",
    "Scale",
    "Scores",
    "Site",
    "SteeringVector",
    "TokenPrompt",
    "ablate",
    "activations",
    "all_but",
    "applied",
    "attribute",
    "attribute_edges",
    "attribute_nodes",
    "bridge_hooks",
    "cumulative",
    "datasets",
    "direct_logit_attribution",
    "forward",
    "generate",
    "jacobian_lens",
    "load_contrast_pairs",
    "load_model",
    "load_pairs",
    "log_prob_increase",
    "logit_lens",
    "mean_ablation",
    "mean_activations",
    "metric",
    "noise_ablation",
    "optimal_ablation",
    "patch",
    "path_patch",
    "plot_attention",
    "prompt",
    "resample_ablation",
    "singles",
    "steering_vector",
    "sweep_plans",
    "top_tokens",
    "validate",
]

lazy(__name__)
