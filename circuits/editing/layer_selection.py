"""Layers chosen for a model, as a folder: from `interp edit place`, or shipped for ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from circuits.editing.methods import Placement
from circuits.editing.moments import Moment
from interp.brief import brief
from interp.errors import DataError, RunFolderError
from interp.model.model import Model
from interp.results import folder

PLACEMENTS = Path(__file__).with_name("placements")
"""Chosen for built-in models on the design half of the shipped ``multihop_chains``."""
KIND = "edit placement"
"""Of a placement's folder."""


def save_placement(path: Path, model: Model, placement: Placement) -> Path:
    """Write what was chosen for a model as a folder that names its weights.

    Raises:
        RunFolderError: the path holds something that is not a run folder.
    """
    moments = placement.moments
    manifest = {
        "kind": KIND,
        "model": model.name,
        "weights": model.weights_hash,
        **placement.summary(),
        "moments": [[*at, one.n_tokens, one.text] for at, one in moments.items()],
        "provenance": folder.provenance(),
    }
    arrays = {str(i): one.matrix.float().numpy() for i, one in enumerate(moments.values())}
    return folder.write(path, manifest, {}, arrays)


@brief
@dataclass(frozen=True)
class SavedPlacement:
    """A folder of `save_placement`, without the moments: what can be shown without the model.

    Attributes:
        model: whose layers.
        placement: which.
        provenance: as saved.
    """

    model: str
    placement: Placement
    provenance: Mapping[str, Any]

    def summary(self) -> dict[str, Any]:
        """The figures the command line prints."""
        return {"model": self.model, "placement": self.placement.summary()}

    @classmethod
    @folder.decoding
    def load(cls, path: Path) -> "SavedPlacement":
        """Read the folder.

        Raises:
            RunFolderError: it is missing, damaged or of another kind.
        """
        said, _, _ = folder.read(path, KIND, ())
        try:
            chosen = Placement.of(said)
            return cls(said["model"], chosen, said["provenance"] | {"weights": said["weights"]})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"{path} is damaged ({type(error).__name__}: {error}); place again."
            ) from error


def placement_for(model: Model, path: Path | None, *methods: str) -> Placement | None:
    """The layers of a model for the ACE presets, from a folder or, of a built-in model, ours.

    Args:
        model: whose layers.
        path: a folder of `save_placement`.
        methods: the presets asked for; without one of the ACE family there is nothing to place.

    Raises:
        DataError: there are none for this model.
        RunFolderError: the folder is missing or damaged.
    """
    if not any(name.startswith("ace") for name in methods):
        return None
    ours = [at.name for at in PLACEMENTS.iterdir()]
    if path is None and model.name not in ours:
        raise _unplaced("the package has no layers", model)
    return placement_in(model, path or PLACEMENTS / model.name)


def placement_in(model: Model, here: Path) -> Placement:
    """The layers of a model in a folder.

    Raises:
        DataError: they are another model's.
        RunFolderError: the folder is missing or damaged.
    """
    said, _, arrays = folder.read(here, KIND, ())
    if said.get("weights") != model.weights_hash:
        raise _unplaced(f"{here} has the layers of {said.get('model')!r}, other weights", model)
    with folder.reading(here):
        moments = {
            (site, layer): Moment(torch.from_numpy(arrays[str(i)]).double(), n, text)
            for i, (site, layer, n, text) in enumerate(said["moments"])
        }
        chosen = Placement.of(said, moments)
        model.check_layers([*chosen.query, *chosen.value])
    return chosen


def _unplaced(why: str, model: Model) -> DataError:
    return DataError(
        f"{why}; choose those of {model.name} with `interp edit place --model {model.name} --cases "
        "… --out layers` and give --placement layers."
    )
