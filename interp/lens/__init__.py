"""Lenses: what the residual stream at a layer and position would make the model say.

reading = interp.lens.logit_lens(model, prompts, tokens=[" France", " Japan"])
fitted = interp.lens.jacobian_lens(model, texts)
reading = interp.lens.logit_lens(model, prompts, jacobian=fitted)
"""

from typing import TYPE_CHECKING

from interp.lazy import lazy

if TYPE_CHECKING:
    from interp.lens.jacobian import JacobianLens as JacobianLens
    from interp.lens.jacobian import jacobian_lens as jacobian_lens
    from interp.lens.reading import LensReading as LensReading
    from interp.lens.reading import logit_lens as logit_lens

lazy(__name__)
