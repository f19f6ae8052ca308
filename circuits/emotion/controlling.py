"""`evaluate`: every arm's replies to the same situations, decoded alike, measured and judged.

Each arm is a file beside the run folder as soon as it is written, so that a stopped run goes on
where it was. Judges read the finished replies; another judge or other limits cost no generation.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from circuits.emotion.control import Control
from circuits.emotion.decoding import Decoding
from circuits.emotion.marking import Judges, Limits, Yardstick, against, judge_with, measure
from circuits.emotion.modulation import Modulation
from circuits.emotion.replying import Arm, Batch, read_all, replies
from circuits.emotion.situations import Asking, Situation
from interp.brief import brief
from interp.model import Model

Progress = Callable[[str, int, int], None]
"""Called with (arm, replies done, in all)."""


@brief
@dataclass
class Writer:
    """Writes arms' replies to one list of situations; neutral prompts are read once for all.

    Attributes:
        model: the model.
        asking: words, frames and demonstrations.
        texts: the situations.
        decoding: the decoder's settings, of every arm.
        store: folder of finished arms; none are kept without.
        progress: called as replies come.
    """

    model: Model
    asking: Asking
    texts: Sequence[Situation]
    decoding: Decoding = Decoding()
    store: Path | None = None
    progress: Progress | None = None

    def write(self, arm: Arm) -> pd.DataFrame:
        """The measured replies of an arm, from the store if it has them."""
        file = self.store and self.store / f"{arm.name}-{self._key(arm)}.parquet"
        if file and file.is_file():
            return pd.read_parquet(file)
        told = self.progress
        neutral = arm.prompt == "neutral"
        table = replies(
            self.model,
            arm,
            self._neutral if neutral else read_all(self.model, self.asking, arm.prompt, self.texts),
            self.texts,
            self.decoding,
            told and (lambda done, total: told(arm.name, done, total)),
        )
        table = measure(self.model, table, self._yardstick).assign(arm=arm.name)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = file.with_suffix(".writing")
            table.to_parquet(beside, index=False)
            beside.rename(file)
        return table

    @cached_property
    def _neutral(self) -> list[Batch]:
        """The neutral prompts, which most arms continue and all are scored after."""
        return list(read_all(self.model, self.asking, "neutral", self.texts))

    @cached_property
    def _yardstick(self) -> Yardstick:
        return Yardstick.of(self.model, self.asking, self._neutral)

    def _key(self, arm: Arm) -> str:
        said = {
            "weights": self.model.weights_hash,
            "texts": [one.text for one in self.texts],
            "decoding": asdict(self.decoding),
            "prompts": [asdict(self.asking.prompt(arm.prompt, self.texts[0], e)) for e in (0, 5)],
            "modulation": fingerprint(arm.modulation),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def fingerprint(modulation: Modulation) -> str:
    """A hash of all that a modulation adds."""
    digest = hashlib.sha256()

    def add(*parts: Any) -> None:
        for part in parts:
            is_tensor = isinstance(part, torch.Tensor)
            digest.update(
                part.detach().cpu().float().numpy().tobytes() if is_tensor else repr(part).encode()
            )

    for push in modulation.pushes:
        add(push.site, push.strength, push.size, sorted(push.reference.items()))
        for layer in sorted(push.values):
            add(layer, push.values[layer])
    if modulation.feedback:
        read = modulation.feedback
        add("feedback", read.layer, read.directions, read.low, read.high)
    return digest.hexdigest()


def evaluate(
    writer: Writer,
    arms: Sequence[Arm],
    judges: Mapping[str, Judges],
    limits: Limits,
    *,
    note: Mapping[str, Any] | None = None,
) -> Control:
    """Write, measure and judge every arm.

    Args:
        writer: model, situations and decoding.
        arms: with unique names, one of them ``unmodulated``.
        judges: by name; the first decides.
        limits: of coherence and relevance, from the tuning file.
        note: recorded with the result, such as the doses.

    Returns:
        All replies with their marks.

    Raises:
        MarkError: no arm is ``unmodulated``.
    """
    table = pd.concat([writer.write(arm) for arm in arms], ignore_index=True)
    plain: Any = table[table["arm"] == "unmodulated"]
    table = against(table, plain)
    return Control(
        replies=judge_with(table, judges),
        limits=limits,
        judges=tuple(judges),
        model=writer.model.name,
        settings={"decoding": asdict(writer.decoding)} | dict(note or {}),
    )


def finish(control: Control, out: Path, store: Path) -> None:
    """Write the run folder, and drop the finished arms beside it."""
    control.save(out)
    shutil.rmtree(store, ignore_errors=True)
