"""`RunFolder`: the folder of one run, made step by step, so that a stopped run can go on.

    with RunFolder.open(out, "patch", options) as run:
        if not run.finished:
            shards = [run.step(name, make, ARRAYS) for name, make in ...]
            run.finish(result.save)

Finished steps lie in ``<out>.partial`` until the whole is there; then the finished folder is
renamed into place. Whatever was made of other weights, data or options is refused.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import filelock
import numpy as np
import pandas as pd

from interp.brief import brief
from interp.errors import DataError, RunFolderError, shown
from interp.model.model import Model
from interp.results import folder, storage
from interp.results.result import Result

T = TypeVar("T")
ARRAYS = dict[str, np.ndarray]
TABLES = dict[str, pd.DataFrame]
LOCK, OWNER, RECORD = "lock", "owner", "run.json"
N_DIFFERENCES = 3
"""Options that differ, in a refusal."""


# --- what makes a run --------------------------------------------------------------------------


def identity(model: Model) -> dict[str, str]:
    """The options that name a model: weights, config and tokenizer as they are now, and dtype."""
    hashes = {"weights": model.weights_hash, "config": model.config_hash()}
    hashes["tokenizer"] = model.tokenizer_hash()
    return {name: f"blake2b:{one}" for name, one in hashes.items()} | {"dtype": str(model.dtype)}


def names_of(rows: Sequence[Any]) -> dict[str, Any]:
    """The options that name data rows: how many, what they are, what is left out, how rendered."""
    chats = {json.dumps(plain(row.chats[0].chat)) for row in rows if getattr(row, "chats", None)}
    named: dict[str, Any] = {"chat": sorted(chats)} if chats else {}
    if excluded := getattr(rows, "excluded", ()):
        named["excluded"] = fingerprint(excluded)
    return named | {"pairs": len(rows), "rows": fingerprint(rows)}


def fingerprint(value: Any) -> str:
    """A short option that stands for data: rows, texts, settings."""
    return f"blake2b:{folder.digest(plain(value))}"


def plain(value: Any) -> Any:
    """A value in JSON's types."""
    return json.loads(json.dumps(value, default=_part))


def _part(value: Any) -> Any:
    if is_dataclass(value):
        parts = (f.name for f in fields(value) if f.metadata.get("in_key", True))
        return {name: getattr(value, name) for name in parts}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:  # as text it may be gigabytes
        held = hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=16).hexdigest()
        return [str(value.dtype), *value.shape, held]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, Path) else list(value)


@brief
@dataclass(frozen=True)
class RunKey:
    """A run's verb and every named value that decides its numbers; data by `fingerprint`."""

    verb: str
    options: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Hash of all."""
        return folder.digest([self.verb, self.options])

    def as_json(self) -> dict[str, Any]:
        """As written to a folder; `of` reads it."""
        return {"run": self.digest, "verb": self.verb, "options": self.options}

    @classmethod
    def of(cls, stored: Any) -> "RunKey | None":
        """Read what `as_json` gave; ``None`` where there is no such thing."""
        given: Any = stored if isinstance(stored, dict) else {}
        verb, options = given.get("verb"), given.get("options")
        whole = isinstance(verb, str) and isinstance(options, dict)
        return cls(verb, options) if whole else None

    def differs(self, other: "RunKey") -> str:
        """What sets it apart from another run, for a refusal."""
        first, second = (f"{'an' if v[0] in 'aeiou' else 'a'} {v}" for v in (self.verb, other.verb))
        if self.verb != other.verb:
            return f"{first} run, not {second} run"
        parts: list[str] = []
        for name in dict.fromkeys([*self.options, *other.options]):
            both = self.options.get(name), other.options.get(name)
            if both[0] != both[1]:
                hashed = any(str(one).startswith("blake2b:") for one in both)
                each = f"{name}={shown(both[0])} (this one: {shown(both[1])})"
                parts.append(f"other {name}" if hashed else each)
        if len(parts) > N_DIFFERENCES:
            parts[N_DIFFERENCES:] = [f"{len(parts) - N_DIFFERENCES} more"]
        listed = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
        return f"{first} run with {listed}"


# --- steps -------------------------------------------------------------------------------------


class Steps:
    """Steps that are not stored: of a run without a folder."""

    def step(self, name: str, make: Callable[[], T], kind: Any) -> T:
        """The outcome of a step: read back if an earlier call finished it, else made and stored.

        What was just made is read back, too, so that a resumed run has the very same values.
        `kind` is the outcome's type: a `Result`, or what `storage` can hold.
        """
        return make()

    def count(self, done: int, total: int) -> None:
        """Say how much of the run is there, in its unit."""


def _save(made: Any, path: Path) -> Path:
    return made.save(path) if isinstance(made, Result) else storage.store(made, path, "step")


def _load(kind: Any, path: Path) -> Any:
    return kind.load(path) if _is_result(kind) else storage.restore(path, "step", kind)


def _is_result(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Result)


def page_of(kind: type[Result]) -> Callable[[Path], Path]:
    """What writes the page of a folder that holds such a result."""
    return lambda at: kind.load(at).report().write(at / "index.html")


class RunFolder(Steps):
    """The folder of one run: `out` once it is `finished`, until then the steps in `work`."""

    def __init__(self, out: Path, key: RunKey, unit: str) -> None:
        self.out, self.key, self.unit, self.finished = out, key, unit, False
        self.work = out.with_name(f"{out.name}.partial")
        self._lock: filelock.BaseFileLock | None = None
        self._count: tuple[int, int] | None = None
        self._parents: list[Path] = []

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        out: str | Path,
        verb: str,
        options: Mapping[str, Any],
        *,
        unit: str = "steps",
        force: bool = False,
    ) -> Generator[Self]:
        """Open the folder of a run, which no other process may write to until it is closed.

        Left before it is finished, the steps stay for the next call; on Ctrl-C the exception gets
        a note that says so. `verb` is the command, such as ``"patch"``; `options` every named
        value that decides the numbers, of the model its `identity`, of data rows their
        `fingerprint`; `unit` what `count` counts. With `force` another run, or a damaged one, is
        replaced, with all that was stored of it.

        Raises:
            RunFolderError: `out` holds anything else, or another process writes to it.
        """
        run = cls(Path(out), RunKey(verb, plain(options)), unit)
        run._enter(force)
        try:
            yield run
        except BaseException as error:
            run._explain(error)
            raise
        finally:
            run._exit()

    def step(self, name: str, make: Callable[[], T], kind: Any) -> T:  # noqa: D102 (see Steps)
        at = self.work / name
        with contextlib.suppress(RunFolderError):
            if folder.read_manifest(at).get("provenance", {}).get("run") == self.key.digest:
                return _load(kind, at)
        made = make()
        folder.put(self._made([partial(_save, made)], {"run": self.key.digest}), at)
        return _load(kind, at)

    def count(self, done: int, total: int) -> None:  # noqa: D102 (see Steps)
        self._count = done, total

    def finish(
        self, *write: Callable[[Path], Any], page: Callable[[Path], Any] | None = None
    ) -> None:
        """Make the finished folder by each `write`, then its `page`, and put it into place."""
        beside = self._made(write, self.key.as_json())
        if page:
            page(beside)
        folder.put(beside, self.out)
        self.finished = True

    def _made(self, write: Sequence[Callable[[Path], Any]], note: Mapping[str, Any]) -> Path:
        """A folder in a temporary place of ours, stamped."""
        beside = self.work / ".made"
        shutil.rmtree(beside, ignore_errors=True)
        for one in write:
            one(beside)
        folder.stamp(beside, note)
        return beside

    # --- beginning and end ---

    def _enter(self, force: bool) -> None:
        if self.work.exists() and self._stored_key() is None and self._stored():
            raise RunFolderError(
                f"{self.work} exists and holds no run's steps; choose another --out, or remove it."
            )
        self.finished = self._is_finished(force)  # refuse before anything is made
        if self.finished and not self._is_ours_to_clear():
            return
        self._acquire()
        try:
            self.finished = self._is_finished(force)
            if not self.finished:
                self._take_over(force)
        except BaseException:
            self._exit()
            raise

    def _is_finished(self, force: bool) -> bool:
        """Whether the finished folder is there, whole; another run's is refused."""
        folder.refuse_foreign(self.out)
        if not (self.out / folder.MANIFEST).is_file():
            return False
        try:
            manifest = folder.read_manifest(self.out)
            folder.check_files(self.out, manifest)
            self._refuse_other(self.out, RunKey.of(manifest.get("provenance")))
        except RunFolderError:
            if force:
                return False
            raise
        return True

    def _refuse_other(self, at: Path, found: RunKey | None) -> None:
        if found is None or found.digest != self.key.digest:
            holds = "something else" if found is None else found.differs(self.key)
            raise RunFolderError(
                f"{at} holds {holds}; choose another --out, or pass --force to replace it."
            )

    def _is_ours_to_clear(self) -> bool:
        """Whether a killed process left the steps of this very finished run."""
        found = self._stored_key()
        ours = not self._stored() if found is None else found.digest == self.key.digest
        return self.work.is_dir() and ours

    def _stored_key(self) -> RunKey | None:
        with contextlib.suppress(OSError, ValueError):
            return RunKey.of(json.loads((self.work / RECORD).read_text("utf-8")))
        return None

    def _stored(self) -> list[Path]:
        """Steps, and folders of steps; whatever begins with a dot is half made."""
        with contextlib.suppress(FileNotFoundError):  # another process may remove it just now
            return [at for at in self.work.iterdir() if at.is_dir() and at.name[0] != "."]
        return []

    def _take_over(self, force: bool) -> None:
        found = self._stored_key()
        if found is not None and not force:
            self._refuse_other(self.work, found)
        if found is not None and found.digest != self.key.digest:
            self._clear()
        folder.write_text(self.work / RECORD, json.dumps(self.key.as_json(), indent=1))

    def _acquire(self) -> None:
        """Lock the folder of steps, making it; a process that is killed gives its lock back."""
        self._parents = [at for at in self.work.parents if not at.exists()]
        while True:
            try:
                self.work.mkdir(parents=True, exist_ok=True)
                lock = filelock.FileLock(self.work / LOCK, thread_local=False)
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise RunFolderError(
                    f"{self.out} is being written by another process{self._owner()}; wait for it "
                    "or choose another --out."
                ) from None
            except FileNotFoundError:  # another process has just finished and removed the folder
                continue
            except OSError as error:
                raise DataError(f"cannot write {self.out} ({error.strerror}).") from error
            if (self.work / LOCK).exists():
                break
            lock.release()
        self._lock = lock
        folder.write_text(self.work / OWNER, str(os.getpid()))

    def _owner(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return f" (pid {int((self.work / OWNER).read_text('utf-8'))})"
        return ""

    def _explain(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt) and not self.finished and self._stored():
            n = self._count
            there = f"{n[0]} of {n[1]} {self.unit} are saved" if n else "what is finished is saved"
            error.add_note(f"{there} in {self.work}; run the same command again to go on.")

    def _exit(self) -> None:
        if self._lock is None:
            return
        try:
            if self.finished or not self._stored():
                self._remove()
        finally:
            self._lock.release()
            self._lock = None

    def _remove(self) -> None:
        """Remove the folder of steps; the lock goes last, as until then the folder is ours."""
        self._clear()
        with contextlib.suppress(OSError):  # another process may have moved in behind us
            for name in (RECORD, OWNER, LOCK):
                (self.work / name).unlink(missing_ok=True)
            self.work.rmdir()
            for at in [] if self.finished else self._parents:
                at.rmdir()

    def _clear(self) -> None:
        """Remove all steps and temporaries."""
        for at in self.work.iterdir():
            if at.is_dir():
                shutil.rmtree(at)
            elif at.name not in (LOCK, OWNER, RECORD):
                at.unlink()


def in_steps(
    out: str | Path | None,
    verb: str,
    options: Mapping[str, Any],
    make: Callable[[Steps], T],
    kind: Any,
    *,
    unit: str = "steps",
    force: bool = False,
) -> T:
    """A run: loaded from its finished folder, or made, step by step, and written there.

    Without a folder nothing is stored. A result's page is written, too; else as in `RunFolder`.
    """
    if out is None:
        return make(Steps())
    with RunFolder.open(out, verb, options, unit=unit, force=force) as run:
        if not run.finished:
            page = page_of(kind) if _is_result(kind) else None
            run.finish(partial(_save, make(run)), page=page)
    return _load(kind, Path(out))


def in_one_piece(
    out: str | Path | None,
    verb: str,
    options: Mapping[str, Any],
    make: Callable[[], T],
    kind: Any,
    force: bool = False,
) -> T:
    """A run without steps; else as `in_steps`."""
    return in_steps(out, verb, options, lambda _: make(), kind, force=force)
