"""`evaluate`: every arm's replies to the same situations, decoded alike, measured and judged.

Each arm is a step of its run, so that a stopped run goes on where it was. Judges read the finished
replies; another judge or other limits cost no generation.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
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
from interp.model.model import Model
from interp.results.run_folder import TABLES, Steps

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
        steps: where finished arms are kept.
        progress: called as replies come.
    """

    model: Model
    asking: Asking
    texts: Sequence[Situation]
    decoding: Decoding = Decoding()
    steps: Steps = field(default_factory=Steps)
    progress: Progress | None = None

    def write(self, arm: Arm) -> pd.DataFrame:
        """The measured replies of an arm, read back if they are kept."""
        name = f"{arm.name}-{self._key(arm)}"
        return self.steps.step(name, lambda: {"replies": self._measured(arm)}, TABLES)["replies"]

    def _measured(self, arm: Arm) -> pd.DataFrame:
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
        return measure(self.model, table, self._yardstick).assign(arm=arm.name)

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
        DataError: no arm is ``unmodulated``.
    """
    written: list[pd.DataFrame] = []
    for arm in arms:
        written.append(writer.write(arm))
        writer.steps.count(len(written), len(arms))
    table = pd.concat(written, ignore_index=True)
    plain: Any = table[table["arm"] == "unmodulated"]
    table = against(table, plain)
    return Control(
        replies=judge_with(table, judges),
        limits=limits,
        judges=tuple(judges),
        model=writer.model.name,
        settings={"decoding": asdict(writer.decoding)} | dict(note or {}),
    )
