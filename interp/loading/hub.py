"""A model's place on the Hugging Face Hub: is it in the cache, or there at all?"""

import difflib
import re
from collections.abc import Iterable

from interp.errors import ModelError, did_you_mean, first_line

HUB_ID = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")
"""``name`` or ``owner/name``."""

TIMEOUT = 5.0
"""Seconds for the one question whether a model is there."""

NEAR = 0.85
"""Similarity from which a name without an owner is taken for a mistyped name of ours."""


def is_cached(ref: str) -> bool:
    """Whether the config of a Hub model lies in the Hugging Face cache; asks no network."""
    from huggingface_hub import errors, try_to_load_from_cache

    if not HUB_ID.fullmatch(ref):
        return False
    try:
        return isinstance(try_to_load_from_cache(ref, "config.json"), str)
    except errors.HFValidationError:
        return False


def require_on_hub(ref: str, ours: Iterable[str]) -> None:
    """Ask the Hub, once and without retrying, whether it has a model.

    `ModelError` where it is no Hub id, nearly one of `ours` (the names that mean no Hub model), not
    on the Hub, or where nothing answers.
    """
    import huggingface_hub

    names = did_you_mean(ref, ours)
    if not HUB_ID.fullmatch(ref):
        raise ModelError(
            f"unknown model {ref[:80]!r}: not a built-in name, a folder, a .gguf file, or a Hub id "
            f"('gpt2', 'owner/name'). {names}"
        )
    if "/" not in ref and difflib.get_close_matches(ref.lower(), list(ours), cutoff=NEAR):
        raise ModelError(f"unknown model {ref!r}. {names}")
    try:
        url = huggingface_hub.hf_hub_url(ref, "config.json")
        huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT)
    except Exception as error:  # whatever the client of the day raises without a connection
        raise ModelError(
            f"unknown model {ref!r}: no built-in name, folder or file, and cannot load {ref!r} "
            f"from the Hugging Face Hub ({_why_not(error)}); check the id and the connection. "
            f"{names}"
        ) from error


def _why_not(error: Exception) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return "access is restricted; accept its terms there and log in with 'hf auth login'"
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return "there is no such public model"
    if isinstance(error, errors.EntryNotFoundError):
        return "it has no config.json, so transformers cannot load it"
    if isinstance(error, errors.HfHubHTTPError):
        return first_line(error)
    offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "no connection"
    return f"it is not cached here and could not be fetched: {offline}"
