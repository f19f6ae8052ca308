"""`RunFolder`: the folder of one run, made step by step, so that a stopped run can go on.

    with RunFolder.open(out, "patch", options) as run:
        if not run.finished:
            shards = [run.step(name, make, ARRAYS) for name, make in ...]
            run.finish(result.save)

Finished steps lie in ``<out>.partial`` until the whole is there; then the finished folder is
renamed into place. Whatever was made of other weights, data or options is refused.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import filelock

from interp.errors import DataError, RunFolderError
from interp.results import folder
from interp.results.files import write_text
from interp.results.run_key import Record, plain
from interp.results.steps import Steps, load_as, save_as

T = TypeVar("T")
LOCK, OWNER, RECORD = "lock", "owner", "run.json"


class RunFolder(Steps):
    """The folder of one run; see `open`.

    Attributes:
        out: the finished folder.
        work: where steps are kept until then.
        record: what makes the run this run.
        finished: whether the finished folder is there.
    """

    def __init__(self, out: Path, record: Record, unit: str) -> None:
        self.out, self.record, self.unit = out, record, unit
        self.work = out.with_name(f"{out.name}.partial")
        self.finished = False
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

        Left before it is finished, the steps stay for the next call, unless there are none. On
        Ctrl-C the exception gets a note that says so.

        Args:
            out: the run folder.
            verb: the command, such as ``"patch"``.
            options: every named value that decides the numbers; of the model its `identity`, of
                data rows their `fingerprint`.
            unit: what `count` counts, such as ``"pairs"``.
            force: replace another run, or a damaged one, with all that was kept of it.

        Raises:
            RunFolderError: `out` holds another run or something else, or another process writes
                to it.
        """
        run = cls(Path(out), Record(verb, plain(options)), unit)
        run._enter(force)
        try:
            yield run
        except BaseException as error:
            run._explain(error)
            raise
        finally:
            run._exit()

    # --- beginning and end ---

    def _enter(self, force: bool) -> None:
        self._refuse_foreign_steps()
        self.finished = self._is_finished(force)  # refuse before anything is made
        if self.finished and not self._is_mine_to_clear():
            return
        self._acquire()
        try:
            self.finished = self._is_finished(force)
            if not self.finished:
                self._take_over(force)
        except BaseException:
            self._exit()
            raise

    def _refuse_foreign_steps(self) -> None:
        if self.work.exists() and self._said() is None and self._kept():
            raise RunFolderError(
                f"{self.work} exists and holds no run's steps; choose another --out, or remove it."
            )

    def _is_finished(self, force: bool) -> bool:
        """Whether the finished folder is there, whole; another run's is refused."""
        folder.refuse_foreign(self.out)
        if not (self.out / folder.MANIFEST).is_file():
            return False
        try:
            manifest = folder.read_manifest(self.out)
            folder.check_files(self.out, manifest)
            self._refuse_other(self.out, manifest.get("provenance"))
        except RunFolderError:
            if force:
                return False
            raise
        return True

    def _refuse_other(self, at: Path, said: Any) -> None:
        found = Record.of(said)
        if found is None or found.key != self.record.key:
            holds = "something else" if found is None else found.differs(self.record)
            raise RunFolderError(
                f"{at} holds {holds}; choose another --out, or pass --force to replace it."
            )

    def _is_mine_to_clear(self) -> bool:
        """Whether a killed process left the steps of this very finished run."""
        found = Record.of(self._said())
        return self.work.is_dir() and (
            not self._kept() if found is None else found.key == self.record.key
        )

    def _said(self) -> Any:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.work / RECORD).read_text("utf-8"))
        return None

    def _kept(self) -> list[Path]:
        """Steps, and folders of steps; whatever begins with a dot is half made."""
        with contextlib.suppress(FileNotFoundError):  # another process may remove it just now
            return [at for at in self.work.iterdir() if at.is_dir() and at.name[0] != "."]
        return []

    def _take_over(self, force: bool) -> None:
        said = self._said()
        if said is not None and not force:
            self._refuse_other(self.work, said)
        if said is not None and said != self.record.as_json():
            self._clear()
        write_text(self.work / RECORD, json.dumps(self.record.as_json(), indent=1))

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
        write_text(self.work / OWNER, str(os.getpid()))

    def _owner(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return f" (pid {int((self.work / OWNER).read_text('utf-8'))})"
        return ""

    def _explain(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt) and not self.finished and self._kept():
            there = "what is finished is kept"
            if self._count:
                there = f"{self._count[0]} of {self._count[1]} {self.unit} are kept"
            error.add_note(f"{there} in {self.work}; run the same command again to go on.")

    def _exit(self) -> None:
        if self._lock is None:
            return
        try:
            if self.finished or not self._kept():
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
            if not self.finished:
                for at in self._parents:
                    at.rmdir()

    def _clear(self) -> None:
        """Remove all steps and temporaries."""
        for at in self.work.iterdir():
            if at.is_dir():
                shutil.rmtree(at)
            elif at.name not in (LOCK, OWNER, RECORD):
                at.unlink()

    # --- the work ---

    def step(self, name: str, make: Callable[[], T], kind: Any) -> T:
        """The outcome of a step: read back if an earlier call finished it, else made and kept.

        What was just made is read back, too, so that a resumed run has the very same values.

        Args:
            name: of the step, unique in its run.
            make: does the work.
            kind: the outcome's type; see `Steps.step`.
        """
        at = self.work / name
        with contextlib.suppress(RunFolderError):
            if folder.read_manifest(at).get("provenance", {}).get("run") == self.record.key:
                return load_as(kind, at)
        made = make()
        save = partial(save_as, kind, made)
        folder.put(self._made([save], {"run": self.record.key}), at)
        return load_as(kind, at)

    def count(self, done: int, total: int) -> None:
        """Say how much of the run is kept, in its unit."""
        self._count = done, total

    def finish(
        self, *write: Callable[[Path], Any], page: Callable[[Path], Any] | None = None
    ) -> None:
        """Write the finished folder and put it into place.

        Args:
            write: each is called with the folder; the first one makes it (a result's ``save``).
            page: writes its page, from the folder as it can then be loaded.
        """
        beside = self._made(write, self.record.as_json())
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


def in_one_piece(
    out: str | Path | None,
    verb: str,
    options: Mapping[str, Any],
    make: Callable[[], T],
    kind: Any,
    *,
    page: Callable[[Path], Any] | None = None,
    force: bool = False,
) -> T:
    """A run without steps: loaded from its finished folder, or made and written there.

    Args:
        out: the run folder; ``None`` keeps nothing.
        verb: as in `RunFolder.open`; so are `options` and `force`.
        options: every named value.
        make: does the work.
        kind: the outcome's type; see `Steps.step`.
        page: writes its page into the folder.
        force: replace another run.

    Raises:
        RunFolderError: `out` holds another run or something else.
    """
    if out is None:
        return make()
    with RunFolder.open(out, verb, options, force=force) as run:
        if not run.finished:
            run.finish(partial(save_as, kind, make()), page=page)
    return load_as(kind, Path(out))
