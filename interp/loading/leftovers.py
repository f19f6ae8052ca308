"""Weights in a model's files that the model does not use: harmless ones, and those that are not.

A config with fewer layers, biases or norms than the files have makes another model of them.
"""

import re
from collections.abc import Iterable

from torch import nn

from interp.errors import ModelError, shown

CONSTANT = re.compile(r"(inv_freq|position_ids|(attn|attention)\.(masked_)?bias|causal_mask)$")
"""What older versions of transformers saved, and computes anew."""

BESIDE = re.compile(
    r"vision|visual|image|audio|speech|video|multi_?modal|projector|connector|qformer|perceiver"
    r"|resampler|vqmodel|talker|2wav|(^|\.)(mtp|nextn|medusa|v_head|value_head|score|classifier)"
)
"""Towers of other senses, predictors of further tokens, and heads for rewards and classes, by a
name above the first numbered block: they read the model, or write into its input."""

FURTHER = re.compile(r"(.*?\.\d+)\.(eh_proj|enorm|hnorm|nextn)\b")
"""A block behind the last that predicts a further token (DeepSeek, GLM), by weights of its own."""


def require_used(ref: str, hf: nn.Module, unused: Iterable[str], quantised: bool) -> None:
    """Refuse (`ModelError`) files with weights that the model should have and has no place for.

    Beside what the patterns above name, buffers are left out, and in quantised files what a module
    that is there has of its own, such as scales.
    """
    names, buffers = sorted(unused), {name for name, _ in hf.named_buffers()}
    modules = {name for name, _ in hf.named_modules()} if quantised else set[str]()
    further = tuple(f"{found[1]}." for name in names if (found := FURTHER.match(name)))
    wrong = [
        name
        for name in names
        if not (name in buffers or CONSTANT.search(name) or name.startswith(further))
        and not BESIDE.search(re.split(r"\.\d+\.", name)[0])
        and name.rpartition(".")[0] not in modules
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ModelError(
            f"cannot load {ref!r}: its files hold {len(wrong)} weight{'s' * (len(wrong) > 1)} that "
            f"its config has no place for ({', '.join(shown(name, 90) for name in wrong[:3])}"
            f"{more}), so its numbers would be another model's; give the config that belongs to "
            "these files."
        )
