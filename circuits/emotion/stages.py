"""The stages of a discovery, each kept with the seconds it took."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from circuits.emotion.discovery import Settings
from circuits.emotion.influence import Influence
from circuits.emotion.states import States
from interp.brief import brief
from interp.results.steps import ARRAYS, Codec, Steps, timed

T = TypeVar("T")
STATES: Codec[States] = Codec(lambda made, path: made.save(path), States.load)


@brief
@dataclass
class Stages:
    """A discovery on its way: where finished stages are kept, and how long each took."""

    steps: Steps
    settings: Settings
    seconds: dict[str, float] = field(default_factory=dict)

    def states(self, name: str, make: Callable[[], States]) -> States:
        """A stage whose outcome is states."""
        return self._stage(name, make, STATES)

    def influence(self, make: Callable[[], Influence]) -> Influence:
        """The stage whose outcome is influence."""
        s = self.settings
        codec: Codec[Influence] = Codec(
            lambda made, path: ARRAYS.save({"values": made.values.numpy()}, path),
            lambda path: Influence(
                torch.from_numpy(ARRAYS.load(path)["values"]), s.alphas, s.final
            ),
        )
        return self._stage("influence", make, codec)

    def _stage(self, name: str, make: Callable[[], T], codec: Codec[T]) -> T:
        def measured() -> tuple[T, float]:
            began = time.monotonic()
            return make(), time.monotonic() - began

        made, self.seconds[name] = self.steps.step(name, measured, timed(codec))
        return made
