"""Doses chosen on the tuning file: as many configurations for steering as for the circuit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from circuits.emotion.doses import CircuitDose, Layers, SteeringDose, modulate, steer
from circuits.emotion.replying import Arm

if TYPE_CHECKING:
    from circuits.emotion.discovery import Discovery

WINDOWS: Mapping[str, tuple[float, float]] = {
    "early": (0.25, 0.45),
    "centre": (0.35, 0.6),
    "middle": (0.45, 0.7),
    "late": (0.6, 0.85),
    "wide": (0.25, 0.7),
    "whole": (0.1, 0.9),
}
"""Name -> first and last layer as parts of the depth."""
FRACTIONS: Mapping[str, tuple[float, ...]] = {
    "early": (0.03, 0.05, 0.08),
    "centre": (0.03, 0.04, 0.05, 0.06),
    "middle": (0.03, 0.04, 0.05, 0.06, 0.08, 0.1),
    "late": (0.03, 0.05, 0.08, 0.11),
    "wide": (0.02, 0.03, 0.04, 0.05),
    "whole": (0.02, 0.03),
}
NOT_LAST: tuple[float, float] = (0.0, 0.8)


def window(n_layers: int, part: tuple[float, float]) -> Layers:
    """First and last layer of a part of the depth."""
    first, last = (round(bound * n_layers) for bound in part)
    return first, max(first, last - 1)


def steering_grid(n_layers: int) -> dict[str, SteeringDose]:
    """Name -> dose, by window and fraction; three windows with feedback, too."""
    out: dict[str, SteeringDose] = {}
    for name, fractions in FRACTIONS.items():
        layers = window(n_layers, WINDOWS[name])
        for fraction in fractions:
            out[f"steer {name} {fraction:g}"] = SteeringDose(fraction, layers)
    for name in ("early", "middle", "wide"):
        most, layers = FRACTIONS[name][-1], window(n_layers, WINDOWS[name])
        out[f"steer {name} {most:g} feedback"] = SteeringDose(most, layers, feedback=True)
    return out


def circuit_grid(n_layers: int) -> dict[str, CircuitDose]:
    """Name -> dose; as many as `steering_grid` has."""
    late = window(n_layers, NOT_LAST)
    plain = {
        "centred": (1.5, 2.0, 3.0, 4.0),
        "centred-influence": (2.0, 3.0, 4.0, 5.0, 6.0),
        "paper": (2.0, 3.0, 4.0),
        "paper-influence": (2.0, 3.0, 4.0, 5.0),
    }
    out = {
        f"{preset} {strength:g}": CircuitDose(strength, preset)
        for preset, strengths in plain.items()
        for strength in strengths
    }
    for strength in (1.5, 2.0, 2.5, 3.0):
        out[f"centred by influence {strength:g}"] = CircuitDose(strength, by_influence=True)
    return out | {
        "centred relative 2": CircuitDose(2.0, size="relative"),
        "centred relative 3": CircuitDose(3.0, size="relative"),
        "centred feedback 3": CircuitDose(3.0, feedback=True),
        "centred feedback 4": CircuitDose(4.0, feedback=True),
        "centred-influence by influence 3": CircuitDose(
            3.0, "centred-influence", by_influence=True
        ),
        "centred not last 3": CircuitDose(3.0, layers=late),
    }


def arms_of_grids(
    found: "Discovery",
    steering: Mapping[str, SteeringDose],
    circuit: Mapping[str, CircuitDose],
) -> list[Arm]:
    """An arm a configuration."""
    return [
        *(Arm(name, modulation=steer(found, dose)) for name, dose in steering.items()),
        *(Arm(name, modulation=modulate(found, dose)) for name, dose in circuit.items()),
    ]
