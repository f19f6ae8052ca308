"""The stages of a discovery, kept beside its folder until that is written."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from circuits.emotion.data import Reply, Scenario
from circuits.emotion.discovery import Discovery, Settings
from circuits.emotion.frames import Frames
from circuits.emotion.influence import Influence
from circuits.emotion.states import States
from interp import folder
from interp.brief import brief
from interp.errors import RunFolderError
from interp.model import Model


@brief
@dataclass
class Stages:
    """A discovery on its way: its folder, what is finished, and how long each stage took."""

    model: Model
    settings: Settings
    out: Path | None
    key: str
    finished: Discovery | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Model,
        scenarios: Sequence[Scenario],
        frames: Frames,
        settings: Settings,
        replies: Sequence[Reply],
        out: str | Path | None,
    ) -> "Stages":
        """Open the folder of a discovery.

        Raises:
            RunFolderError: it holds another one.
        """
        texts = [(s.id, s.text, *(e.text for e in s.events)) for s in scenarios]
        shown = [(r.id, r.text) for r in replies]
        used = [s.partition(":")[0] for s in settings.styles]
        frame = [asdict(frames.frames[n]) for n in used if n in frames.frames]
        sets = {s.partition(":")[2] for s in settings.styles}
        words = {name: dict(frames.words[name]) for name in sorted(sets & set(frames.words))}
        given = [model.weights_hash, asdict(settings), texts, shown, frame, words]
        key = hashlib.sha256(json.dumps(given).encode()).hexdigest()[:16]
        run = cls(model, settings, None if out is None else Path(out), key)
        if run.out is None:
            return run
        if run.out.exists():
            run._check(run.out, str(folder.read_manifest(run.out).get("key")))
            run.finished = Discovery.load(run.out, model)
        else:
            mark = run.partial / "key"
            if run.partial.exists():
                run._check(run.partial, mark.read_text("utf-8") if mark.is_file() else "")
            run.partial.mkdir(parents=True, exist_ok=True)
            mark.write_text(key, "utf-8")
            times = run.partial / "seconds.json"
            run.seconds = json.loads(times.read_text("utf-8")) if times.is_file() else {}
        return run

    @property
    def partial(self) -> Path:
        """Where stages are kept until the folder is written."""
        assert self.out is not None
        return self.out.with_name(f"{self.out.name}.partial")

    def _check(self, at: Path, key: str) -> None:
        if key != self.key:
            raise RunFolderError(
                f"{at} holds a discovery with other texts, settings or weights, or something "
                "else; choose another --out, or remove it."
            )

    def states(self, name: str, make: Callable[[], States]) -> States:
        """A stage whose outcome is states."""
        return self._stage(name, make, States.load, lambda made, file: made.save(file))

    def influence(self, make: Callable[[], Influence]) -> Influence:
        """The stage whose outcome is influence."""
        s = self.settings

        def load(file: Path) -> Influence:
            return Influence(load_file(file)["values"], s.alphas, s.final)

        def save(made: Influence, file: Path) -> None:
            save_file({"values": made.values.contiguous()}, file)

        return self._stage("influence", make, load, save)

    def _stage(
        self,
        name: str,
        make: Callable[[], Any],
        load: Callable[[Path], Any],
        save: Callable[[Any, Path], None],
    ) -> Any:
        file = None if self.out is None else self.partial / name
        if file is not None and file.is_file():
            return load(file)
        began = time.monotonic()
        made = make()
        self.seconds[name] = time.monotonic() - began
        if file is not None:
            beside = file.with_suffix(".writing")
            save(made, beside)
            beside.rename(file)  # a half-written stage is never read
            (self.partial / "seconds.json").write_text(json.dumps(self.seconds), "utf-8")
        return made

    def finish(self, made: Discovery) -> Discovery:
        """Write the folder and drop the stages."""
        if self.out is not None:
            made.save(self.out, self.model, {"key": self.key})
            shutil.rmtree(self.partial)
        return made
