"""Folders of results: a sealed manifest.json, tables in Parquet, arrays in safetensors.

Files and folders are whole or absent: they are written beside their place, then renamed into it.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from interp.errors import DataError, RunFolderError, first_line, shown
from interp.version import __version__

PACKAGES = ("torch", "transformers", "transformer-lens", "numpy")
MANIFEST, ARRAYS_FILE = "manifest.json", "arrays.safetensors"
AGAIN = "run it again with --force"

T = TypeVar("T")


def provenance() -> dict[str, Any]:
    """Where, when and with which versions a result was made."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "interp": __version__,
        "git": _own_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


@functools.cache
def _own_commit() -> str | None:
    """The commit of the toolkit, where it is a checkout; never that of the user's own folder."""
    home = Path(__file__).resolve().parents[2]
    if not (home / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(home), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()
    return None


# --- writing -----------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A file beside `path` to write to; it takes that place at the end, or goes on an error."""
    beside = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(b"")
        mode = beside.stat().st_mode
        yield beside
        beside.chmod(mode)  # safetensors makes files that only the user can read
        beside.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error}).") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text as UTF-8; whole or not at all, errors as in `replacing`."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return path


def write(
    path: Path,
    manifest: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    arrays: Mapping[str, np.ndarray],
) -> Path:
    """Write a folder beside `path` and rename it into place; errors as in the functions below."""
    refuse_foreign(path)
    with placing(path) as beside:
        for name, table in tables.items():
            with replacing(beside / f"{name}.parquet") as file:
                table.to_parquet(file, index=False)
        if arrays:
            with replacing(beside / ARRAYS_FILE) as file:
                save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, file)
        seal(beside, manifest)
    return path


def refuse_foreign(path: Path) -> None:
    """Raise `RunFolderError` where there is something that no run has written."""
    unsealed = path.is_dir() and not (path / MANIFEST).is_file() and any(path.iterdir())
    if path.is_file() or unsealed:
        raise RunFolderError(f"{path} exists and is not a run folder; choose another path.")


@contextlib.contextmanager
def placing(path: Path) -> Generator[Path]:
    """A new folder beside `path`; it takes that place at the end, or goes on an error."""
    beside = path.with_name(f".part-{path.name}")
    old = _old(beside)
    if old.exists() and not path.exists():  # killed between the two renames of `put`
        old.rename(path)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        put(beside, path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def put(beside: Path, path: Path) -> None:
    """Rename a folder to `path`; a folder that stood there goes only once it can."""
    old = _old(beside)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists() and any(path.iterdir()):
        path.rename(old)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _old(beside: Path) -> Path:
    return beside.with_name(f"{beside.name}-old")


def discard(path: Path) -> None:
    """Remove a folder; it is whole or gone."""
    gone = path.with_name(f".gone-{path.name}")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone)


def seal(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a folder whose other files, but for its pages, are there to digest."""
    files = {
        file.relative_to(path).as_posix(): _digest_of(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file != path / MANIFEST and file.suffix not in (".html", ".js")
    }
    record = json.loads(json.dumps({**manifest, "files": files}))
    sealed = record | {"seal": digest(record)}
    write_text(path / MANIFEST, json.dumps(sealed, indent=1, ensure_ascii=False))


def stamp(path: Path, note: Mapping[str, Any]) -> None:
    """Add to the provenance of a folder, and seal it again."""
    manifest = read_manifest(path)
    seal(path, manifest | {"provenance": manifest.get("provenance", {}) | dict(note)})


def digest(record: Any) -> str:
    """Identity of a value made of JSON's types."""
    text = json.dumps(record, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _digest_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


# --- reading -----------------------------------------------------------------------------------


def read(
    path: Path, kind: str
) -> tuple[dict[str, Any], dict[str, pd.DataFrame], dict[str, np.ndarray]]:
    """Read a run folder; `RunFolderError` where it is incomplete, altered or of another kind."""
    manifest = read_manifest(path)
    if manifest.get("kind") != kind:
        raise RunFolderError(f"{path} holds a {shown(manifest.get('kind'))} run, not {kind!r}.")
    check_files(path, manifest)
    tables = [path / name for name in manifest["files"] if name.endswith(".parquet")]
    loaded = {at.stem: _load(at, pd.read_parquet) for at in tables if at.parent == path}
    has_arrays = ARRAYS_FILE in manifest["files"]
    return manifest, loaded, _load(path / ARRAYS_FILE, load_file) if has_arrays else {}


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run folder, without its seal, which is checked; errors as in `read`."""
    if not path.is_dir():
        verbs = "`interp patch`, `attribute`, `ablate` or `circuit`"
        raise RunFolderError(f"no run folder at {path}; make one with {verbs} and --out.")
    file = path / MANIFEST
    manifest: Any = _load(file, lambda at: json.loads(at.read_text("utf-8")))
    if not isinstance(manifest, dict) or "seal" not in manifest:
        raise RunFolderError(f"{file} is damaged (it has no seal); {AGAIN}.")
    found: Any = manifest.pop("seal")
    if found != digest(manifest):
        raise _altered(file)
    return manifest


def check_files(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `RunFolderError` unless every file that a folder was sealed with is as it was."""
    with reading(path):
        for name, sealed in manifest["files"].items():
            if _load(path / str(name), _digest_of) != sealed:
                raise _altered(path / str(name))


def _altered(file: Path) -> RunFolderError:
    return RunFolderError(f"{file} is damaged or was altered (its seal is broken); {AGAIN}.")


def _load(file: Path, reader: Callable[[Path], T]) -> T:
    if not file.is_file():
        raise RunFolderError(f"{file} is missing: the run folder is incomplete; {AGAIN}.")
    with reading(file):
        return reader(file)


@contextlib.contextmanager
def reading(path: str | Path) -> Generator[None]:
    """Whatever goes wrong while a folder is decoded is raised as damage: `RunFolderError`."""
    try:
        yield
    except RunFolderError:
        raise
    except Exception as error:
        raise RunFolderError(f"{path} is damaged ({first_line(error, 90)}); {AGAIN}.") from error
