"""Run folders: manifest.json, tables in Parquet, arrays in safetensors; whole or absent."""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from interp.errors import RunFolderError

PATCH_FIELDS = ("model", "site", "metric", "unit", "direction", "at", "source")
PACKAGES = ("torch", "transformers", "transformer-lens", "numpy")


def provenance() -> dict[str, Any]:
    """Where, when and with which versions a result was made."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "git": _git_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def _git_commit() -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()
    return None


def write(
    path: Path,
    manifest: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    arrays: Mapping[str, np.ndarray],
) -> Path:
    """Write a folder beside `path` and rename it into place.

    Raises:
        RunFolderError: `path` exists and is not a run folder.
    """
    if path.exists() and not (path / "manifest.json").is_file() and any(_entries(path)):
        raise RunFolderError(f"{path} exists and is not a run folder; choose another path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        for name, table in tables.items():
            table.to_parquet(beside / f"{name}.parquet", index=False)
        save_file(
            {k: np.ascontiguousarray(v) for k, v in arrays.items()}, beside / "arrays.safetensors"
        )
        (beside / "manifest.json").write_text(
            json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        beside.chmod(0o755)
        _swap(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return path


def _entries(path: Path) -> list[Path]:
    return [path] if path.is_file() else list(path.iterdir())


def _swap(beside: Path, path: Path) -> None:
    """Put `beside` where `path` is; a folder that stood there goes only once it can."""
    if not path.exists():
        beside.rename(path)
        return
    old = beside.with_name(f"{beside.name}-old")
    path.rename(old)
    beside.rename(path)
    shutil.rmtree(old)


def read(
    path: Path, kind: str, tables: Sequence[str]
) -> tuple[dict[str, Any], dict[str, pd.DataFrame], dict[str, np.ndarray]]:
    """Read a run folder.

    Raises:
        RunFolderError: a file is missing or damaged, or the folder is of another kind.
    """
    manifest = read_manifest(path)
    if manifest.get("kind") != kind:
        raise RunFolderError(f"{path} holds a {manifest.get('kind')!r} run, not {kind!r}.")
    loaded = {name: _load(path / f"{name}.parquet", pd.read_parquet) for name in tables}
    return manifest, loaded, _load(path / "arrays.safetensors", load_file)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run folder; errors as in `read`."""
    if not path.is_dir():
        verbs = "`interp patch`, `attribute`, `ablate` or `circuit`"
        raise RunFolderError(f"no run folder at {path}; make one with {verbs} and --out.")
    return _load(path / "manifest.json", lambda file: json.loads(file.read_text("utf-8")))


def _load(file: Path, reader: Any) -> Any:
    if not file.is_file():
        raise RunFolderError(f"{file} is missing: the run folder is incomplete; run it again.")
    try:
        return reader(file)
    except Exception as error:
        raise RunFolderError(
            f"{file} is damaged ({type(error).__name__}); run it again."
        ) from error
