"""Files that are whole or absent: written beside their place, then renamed into it."""

import contextlib
from collections.abc import Generator
from pathlib import Path

from interp.errors import DataError


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A file beside `path` to write to; it takes that place at the end, or goes on an error.

    Its mode is that of any file the user makes (the umask), whoever writes it.

    Raises:
        DataError: it cannot be written there.
    """
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
    """Write a text as UTF-8; whole or not at all.

    Raises:
        DataError: it cannot be written there.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return path
