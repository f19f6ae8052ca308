"""GGUF files as safetensors folders in the cache: de-quantised once, then loaded like any folder.

A conversion belongs to the content of its file, the number format, and the versions that made it.
It is kept only where it loads as the file itself does, and used only while its seal holds.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from interp.errors import DataError, InterpError, RunFolderError, first_line
from interp.loading.builtin import cache_dir, locked
from interp.loading.wheels import sha256_of
from interp.model.model import Model
from interp.results.folder import (
    check_files,
    digest,
    discard,
    placing,
    read_manifest,
    seal,
    write_text,
)

RECIPE = 1  # raise it when something else is written, so that older conversions are not used
SETTLED = 10**8
"""Nanoseconds after a write from which another one shows in a file's times."""

Loaded = tuple[Any, Any]
"""A Hugging Face model and its tokenizer."""


def kept(
    file: Path, dtype: torch.dtype, convert: Callable[[], Loaded], load: Callable[[Path], Loaded]
) -> Loaded:
    """A GGUF file's model, by `load` from its folder in the cache, which `convert` fills once.

    What is done is told on stderr. Where nothing can be kept, such as on a full disk, what
    `convert` gives is used.
    """
    file = file.resolve()
    before, made, told, loaded = _stamp(file), None, None, None
    parts = [RECIPE, str(dtype), *map(metadata.version, ("transformers", "gguf"))]
    try:
        folder = cache_dir() / "converted" / digest([_remembered(file, sha256_of), *parts])
        with locked(folder, _say, f"converting {file.name}"):
            if not _whole(folder):
                _say(f"converting {file.name} to safetensors once, kept in {folder}")
                made = convert()
                told = _identity(made)
                if _stamp(file) != before:
                    raise OSError(errno.EBUSY, f"{file.name} was written to meanwhile")
                _save(made, folder, {"source": str(file), "made by": parts})
    except Exception as error:
        if made is None and isinstance(error, InterpError):  # of the file, not of the cache
            raise
        why = getattr(error.__cause__ or error, "strerror", None) or first_line(error)
        _say(
            f"cannot keep {file.name} as safetensors in {cache_dir()} ({why}), so each load "
            "converts it: free some space, or set INTERP_CACHE to another folder"
        )
        return made or convert()
    made = None  # memory for one model, not two
    _say(f"loading {file.name} from {folder} ({_size(folder) / 1e9:.1f} GB)")
    try:
        loaded = load(folder)
    except InterpError:
        if told is None:
            raise
    if told is not None and (loaded is None or _identity(loaded) != told):
        discard(folder)
        _say(f"{file.name} does not load from safetensors as it does itself, so it is not kept")
        return convert()
    if told is not None:
        _whole(folder)  # hashed now, so that the next load need not
    assert loaded is not None
    return loaded


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _save(made: Loaded, folder: Path, manifest: dict[str, Any]) -> None:
    hf, tokenizer = made
    folder.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder.parent).free < 1.05 * hf.get_memory_footprint():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with placing(folder) as beside:
        hf.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        for weights in beside.glob("*.safetensors"):  # which only their owner could read
            shutil.copymode(beside / "config.json", weights)
        seal(beside, manifest)


def _whole(folder: Path) -> bool:
    """Whether a conversion is there, as it was sealed; a damaged one is told."""
    if not folder.is_dir():
        return False
    try:
        _remembered(folder, lambda _: check_files(folder, read_manifest(folder)) or "whole")
    except RunFolderError as damage:
        _say(f"{str(damage).partition(';')[0]}, so it is made again")
        return False
    return True


def _identity(loaded: Loaded) -> str:
    """Hash of all by which a model could give other numbers."""
    hf, tokenizer = loaded
    model = Model(hf, tokenizer, "", arch=None)  # pyright: ignore[reportArgumentType]
    said = hf.generation_config.to_diff_dict() | {"transformers_version": None}
    parts = [model.weights_hash, model.config_hash(), model.tokenizer_hash(), said]
    return digest([*parts, tokenizer.padding_side])


def _stamp(path: Path) -> list[list[Any]]:
    """What changes where a file, or one of a folder, is written to or replaced."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files]
    return [[n, s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns] for n, s in stats]


def _remembered(path: Path, find: Callable[[Path], str]) -> str:
    """What `find` says of a file or folder; from memory while nothing was written to it."""
    memory = cache_dir() / "converted" / f".seen-{digest(str(path))}.json"
    stamp, known = _stamp(path), None
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(memory.read_text("utf-8"))
    if isinstance(known, list) and len(known) == 2 and known[0] == stamp:
        return known[1]
    found = find(path)
    if time.time_ns() - max(max(row[3:]) for row in stamp) > SETTLED:
        with contextlib.suppress(DataError):  # a cache that cannot be written to
            write_text(memory, json.dumps([stamp, found]))
    return found
