"""Control vectors as GGUF files, in the form that llama.cpp and repeng read.

A file holds one fp32 tensor ``direction.N`` per layer, which is added to the output of block N,
counted from 0, at every token. llama.cpp refuses layer 0.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import DataError, PlanError, first_line
from interp.results.folder import replacing

ARCHITECTURE, PREFIX = "controlvector", "direction."

Directions = Mapping[int, Float[Tensor, " d_model"]]
"""A vector for each layer."""


def write_control_vector(path: str | Path, directions: Directions, hint: str) -> Path:
    """Write a GGUF control vector; `hint` names the model's family, such as ``qwen2``.

    Raises:
        PlanError: there is a vector for layer 0, which llama.cpp does not read, or one that is not
            finite in fp32.
        DataError: the file cannot be written.
    """
    from gguf import GGUFWriter

    if any(not bool(vector.float().isfinite().all()) for vector in directions.values()):
        raise PlanError(f"vectors for {path} hold NaN or infinity; give a finite dose.")
    if 0 in directions:
        raise PlanError(
            "llama.cpp reads no control vector for layer 0; choose others: --layers, or in Python "
            "vector.only(layers=...)."
        )
    with replacing(Path(path)) as beside:
        writer = GGUFWriter(beside, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
        for layer, vector in directions.items():
            writer.add_tensor(f"{PREFIX}{layer}", vector.float().cpu().numpy().astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return Path(path)


def read_control_vector(path: str | Path) -> tuple[dict[int, Float[Tensor, " d_model"]], str]:
    """The vectors of a GGUF control vector by layer, and the model's family.

    Raises:
        DataError: no such file, or not a control vector that llama.cpp would read.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        fields = {name: _text(reader, name) for name in ("general.architecture", _HINT)}
        tensors = {str(one.name): np.array(one.data) for one in reader.tensors}
    except Exception as error:  # gguf trusts every count of a damaged file
        raise DataError(f"cannot read {path} as a GGUF file ({first_line(error)}).") from error
    if fields["general.architecture"] != ARCHITECTURE:
        raise DataError(
            f"{path} is a GGUF file of {fields['general.architecture'] or 'no architecture'}, not "
            f"a control vector ({ARCHITECTURE})."
        )
    found: dict[int, Tensor] = {}
    for name, values in tensors.items():
        number = name.removeprefix(PREFIX)
        if not (name.startswith(PREFIX) and number.isdecimal() and int(number)):
            raise DataError(f"{path}: {name!r} is no direction.N of a layer from 1.")
        if values.ndim != 1 or values.dtype != np.float32 or not np.isfinite(values).all():
            raise DataError(f"{path}: {name} is not a vector of finite fp32 numbers.")
        found[int(number)] = torch.from_numpy(values)
    if len({len(vector) for vector in found.values()}) != 1:
        raise DataError(f"{path} holds no vectors, or vectors of several lengths.")
    return dict(sorted(found.items())), fields[_HINT]


_HINT = f"{ARCHITECTURE}.model_hint"


def _text(reader: Any, name: str) -> str:
    field = reader.get_field(name)
    return "" if field is None else bytes(field.parts[-1]).decode("utf-8", "replace")
