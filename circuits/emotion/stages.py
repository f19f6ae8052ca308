"""The stages of a discovery, each kept with the seconds it took."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from circuits.emotion.discovery import Settings
from circuits.emotion.influence import Influence
from circuits.emotion.states import States
from interp.brief import brief
from interp.results.steps import Steps

T = TypeVar("T")


@brief
@dataclass
class Stages:
    """A discovery on its way: where finished stages are kept, and how long each took."""

    steps: Steps
    settings: Settings
    seconds: dict[str, float] = field(default_factory=dict)

    def states(self, name: str, make: Callable[[], States]) -> States:
        """A stage whose outcome is states."""
        return self._stage(name, make, States)

    def influence(self, make: Callable[[], Influence]) -> Influence:
        """The stage whose outcome is influence."""
        return self._stage("influence", make, Influence)

    def _stage(self, name: str, make: Callable[[], T], kind: type[T]) -> T:
        def measured() -> tuple[T, float]:
            began = time.monotonic()
            return make(), time.monotonic() - began

        made, self.seconds[name] = self.steps.step(name, measured, tuple[kind, float])
        return made
