"""`Validation`: what ablating query neurons did to their value neurons and to the answer."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from interp.data.pairs import Excluded
from interp.statistics import bootstrap_mean, bootstrap_ratio, empirical_p

READOUTS = ("activation", "logprob", "accuracy")


@dataclass(frozen=True)
class Validation:
    """What `validate` measured.

    Attributes:
        readings: each of `READOUTS` by prompt and run: ``baseline``, ``query`` (query neurons
            ablated) and ``random 0``, ``random 1``, …. ``activation`` is the sum of the value
            neurons' coefficients at the last token, each with its sign in discovery;
            ``logprob`` the answer's, in nats; ``accuracy`` whether no token is likelier.
        clusters: each prompt's entity.
        excluded: prompts that the unablated model gets wrong, with what it says.
        n_query: query neurons ablated in a prompt, on average.
        n_value: value neurons read in a prompt, on average.
        n_also_query: value neurons left out because they are ablated themselves, on average.
        neurons: ``"shared"`` or ``"own"``.
        kind: ``"mean"`` or ``"zero"``.
        positions: where neurons were ablated.
        model: of which model.
    """

    readings: xr.Dataset = field(repr=False)
    clusters: tuple[str, ...] = field(repr=False)
    excluded: tuple[Excluded, ...] = field(repr=False)
    n_query: float
    n_value: float
    n_also_query: float
    neurons: str
    kind: str
    positions: Any
    model: str

    @property
    def n_prompts(self) -> int:
        """How many prompts were measured."""
        return self.readings.sizes["prompt"]

    @property
    def n_random(self) -> int:
        """How many random sets."""
        return self.readings.sizes["run"] - 2

    def table(self, seed: int = 0) -> pd.DataFrame:
        """Effects with 95 % bootstrap intervals over clusters of prompts.

        Returns:
            A row a readout: its ``baseline``; the change by ablating query neurons, ``effect``
            with ``low`` and ``high``; the mean change by random neurons, ``random``; their paired
            ``difference`` with bounds; ``p``, how often a random set lowers the mean at least as
            much, the query set counted. Activation is relative to the baseline.
        """
        return pd.DataFrame([self._row(name, seed) for name in READOUTS])

    def _row(self, name: str, seed: int) -> dict[str, Any]:
        values = self.readings[name].transpose("prompt", "run").values
        base, change = values[:, 0], values[:, 1:] - values[:, :1]
        random = change[:, 1:].mean(1)
        parts = np.stack([change[:, 0], random, change[:, 0] - random], 1)
        if name == "activation":
            found = bootstrap_ratio(parts, base, seed, clusters=self.clusters)
        else:
            found = bootstrap_mean(parts, seed, clusters=self.clusters)
        mean, low, high = (np.asarray(x) for x in found)
        totals = change.mean(0)
        return {
            "readout": name,
            "n": len(values),
            "baseline": base.mean(),
            "effect": mean[0],
            "low": low[0],
            "high": high[0],
            "random": mean[1],
            "random_low": low[1],
            "random_high": high[1],
            "difference": mean[2],
            "difference_low": low[2],
            "difference_high": high[2],
            "p": float(empirical_p(totals[0], totals[1:], "less")),
        }

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The figures the command line prints."""
        kept = ("model", "neurons", "kind", "n_query", "n_value", "n_also_query")
        return {
            **{name: getattr(self, name) for name in kept},
            "positions": str(self.positions),
            "n_prompts": self.n_prompts,
            "n_random": self.n_random,
            "n_excluded": len(self.excluded),
            "table": self.table(seed).to_dict("records"),
        }
