"""What transformers calls the KV cache, and what limits it.

The keyword is ``past_key_values`` up to 5.23 and ``cache`` from 5.24 on; it is looked for in the
signature, so that no version number decides.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from interp.errors import PlanError

NAMES = ("cache", "past_key_values")
"""The keyword's names, the newest first."""


def cache_in(kwargs: Mapping[str, Any]) -> Any:
    """The KV cache among the arguments of a forward call, or ``None``."""
    return next((kwargs[name] for name in NAMES if kwargs.get(name) is not None), None)


def cache_argument(module: nn.Module, cache: Any) -> dict[str, Any]:
    """A KV cache as the keyword argument that this module's forward takes it by.

    Raises:
        PlanError: it takes none, as recurrent models do.
    """
    parameters = inspect.signature(module.forward).parameters
    name = next((name for name in NAMES if name in parameters), None)
    if name is None or not keeps_keys(module):
        raise PlanError(
            f"a {type(module).__name__} takes no cache of keys and values, which reading a prompt "
            "in parts needs; use a model whose every layer has attention."
        )
    return {name: cache}


def keeps_keys(hf: Any) -> bool:
    """Whether a model's cache is keys and values, and not a recurrent state without a length."""
    return not getattr(hf, "_is_stateful", False)


def attention_window(config: Any) -> int | None:
    """How many columns back the shortest local attention of a model reaches; ``None``: all.

    Windows count columns, padding among them. A model of text and images has them in its text
    part's config.
    """
    text = config.get_text_config()
    names = ("sliding_window", "window_size", "attention_chunk_size")
    return min((size for name in names if (size := getattr(text, name, None))), default=None)
