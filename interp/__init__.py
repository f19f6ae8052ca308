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
    from interp.ablation.ablate import ablate as ablate
    from interp.ablation.result import AblationResult as AblationResult
    from interp.attribution.attribute import attribute as attribute
    from interp.attribution.attribute import attribute_edges as attribute_edges
    from interp.attribution.attribute import attribute_nodes as attribute_nodes
    from interp.attribution.exact import path_patch as path_patch
    from interp.attribution.logit_attribution import (
        direct_logit_attribution as direct_logit_attribution,
    )
    from interp.attribution.logit_attribution import log_prob_increase as log_prob_increase
    from interp.attribution.logit_attribution import top_tokens as top_tokens
    from interp.attribution.scores import Scores as Scores
    from interp.data.chat import Chat as Chat
    from interp.data.chat import Conversation as Conversation
    from interp.data.datasets import datasets as datasets
    from interp.data.pairs import Pair as Pair
    from interp.data.pairs import PromptPairs as PromptPairs
    from interp.data.pairs import load_pairs as load_pairs
    from interp.data.prompts import TokenPrompt as TokenPrompt
    from interp.data.prompts import prompt as prompt
    from interp.errors import InterpError as InterpError
    from interp.interventions.bridge import bridge_hooks as bridge_hooks
    from interp.interventions.contrast_pairs import load_contrast_pairs as load_contrast_pairs
    from interp.interventions.contrast_pairs import steering_vector as steering_vector
    from interp.interventions.generate import Generation as Generation
    from interp.interventions.generate import generate as generate
    from interp.interventions.labelled import ActivationCache as ActivationCache
    from interp.interventions.labelled import Activations as Activations
    from interp.interventions.native import applied as applied
    from interp.interventions.plan import Ablate as Ablate
    from interp.interventions.plan import Add as Add
    from interp.interventions.plan import Clamp as Clamp
    from interp.interventions.plan import KnockOut as KnockOut
    from interp.interventions.plan import Patch as Patch
    from interp.interventions.plan import Plan as Plan
    from interp.interventions.plan import ProjectOut as ProjectOut
    from interp.interventions.plan import Scale as Scale
    from interp.interventions.recording import activations as activations
    from interp.interventions.run import forward as forward
    from interp.interventions.run import sweep_plans as sweep_plans
    from interp.interventions.steering_vector import SteeringVector as SteeringVector
    from interp.interventions.values import mean_ablation as mean_ablation
    from interp.interventions.values import mean_activations as mean_activations
    from interp.interventions.values import noise_ablation as noise_ablation
    from interp.interventions.values import resample_ablation as resample_ablation
    from interp.lens.jacobian import JacobianLens as JacobianLens
    from interp.lens.jacobian import jacobian_lens as jacobian_lens
    from interp.lens.reading import LensReading as LensReading
    from interp.lens.reading import logit_lens as logit_lens
    from interp.loading.check import validate as validate
    from interp.loading.load import load_model as load_model
    from interp.metrics import METRICS as METRICS
    from interp.metrics import metric as metric
    from interp.model.components import all_but as all_but
    from interp.model.components import cumulative as cumulative
    from interp.model.components import singles as singles
    from interp.model.model import Model as Model
    from interp.model.sites import SITES as SITES
    from interp.model.sites import Site as Site
    from interp.patching.patch import patch as patch
    from interp.patching.result import PatchResult as PatchResult
    from interp.results.token_figures import plot_attention as plot_attention

lazy(__name__)
