"""Is a GGUF file's header sound? Read before the file goes to loaders that trust every count in it.

A header is a list of settings and a list of tensors, each preceded by its length. Loaders loop to
these lengths and build as many layers as the settings say, so a damaged one keeps them busy for
ever; here every length is held against the bytes that are left.
"""

import functools
import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import ModelError, first_line

SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""GGUF's number of each scalar type, and struct's letter for it."""

STRING, ARRAY = 8, 9
VERSIONS = (2, 3)
MOST_DIMENSIONS, MOST_NESTED = 8, 4


class _Damaged(Exception):
    """What is wrong with a header."""


@dataclass
class _Header:
    """A place in the file, from which values are read one after the other, and what was read."""

    data: Any
    order: str = "<"
    at: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def number(self, letter: str) -> Any:
        size = struct.calcsize(letter)
        self.skip(size)
        return struct.unpack_from(self.order + letter, self.data, self.at - size)[0]

    def skip(self, n_bytes: int) -> None:
        if n_bytes > self.left:
            raise _Damaged(f"it ends at byte {len(self.data)}, in the middle of its header")
        self.at += n_bytes

    def count(self, what: str, least: int) -> int:
        """A number of things that take at least so many bytes each."""
        n = self.number("Q")
        if n * least > self.left:
            raise _Damaged(f"it claims {n} {what}, more than its {self.left} remaining bytes hold")
        return n

    def text(self) -> str:
        n = self.count("characters", 1)
        self.skip(n)
        try:
            return bytes(self.data[self.at - n : self.at]).decode()
        except UnicodeDecodeError:
            raise _Damaged(f"the text at byte {self.at - n} is not UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> Any:
        """A setting; of arrays of numbers, only how long they are."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY or depth == MOST_NESTED:
            raise _Damaged(f"the type {kind} at byte {self.at} does not exist here")
        of = self.number("I")
        if of in SCALARS:
            size = struct.calcsize(SCALARS[of])
            self.skip(size * self.count("numbers", size))
            return None
        return [self.value(of, depth + 1) for _ in range(self.count("values", 8))]


def check_gguf(path: Path) -> None:
    """Refuse (`ModelError`) a file that is damaged, not a GGUF file, or one part of several."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Header(data)
            _read(header)
        n_parts = header.settings.get("split.count")
        if isinstance(n_parts, int) and n_parts > 1:
            raise ModelError(
                f"cannot load {str(path)!r}: it is one of the {n_parts} parts of a split GGUF "
                "file; merge them first, with 'llama-gguf-split --merge'."
            )
        _check_settings(header)
    except (_Damaged, OSError, ValueError) as error:  # mmap: ValueError for an empty file
        why = str(error) if isinstance(error, _Damaged) else first_line(error)
        raise ModelError(
            f"cannot load {str(path)!r}: {why}; the file is damaged, so fetch it again."
        ) from error


def _read(header: _Header) -> None:
    if bytes(header.data[:4]) != b"GGUF":
        raise _Damaged("it is not a GGUF file")
    header.skip(4)
    version = header.number("I")
    if version & 0xFFFF == 0:  # written on a machine of the other byte order
        header.order, version = ">", version >> 24
    if version not in VERSIONS:
        raise _Damaged(f"its version {version} is not one of {VERSIONS}")
    n_tensors, n_settings = header.count("tensors", 24), header.count("settings", 13)
    for _ in range(n_settings):
        key = header.text()
        header.settings[key] = header.value(header.number("I"))
    ends = [_tensor(header) for _ in range(n_tensors)]
    align = header.settings.get("general.alignment", 32)
    if not isinstance(align, int) or align <= 0 or align & (align - 1):
        raise _Damaged(f"its alignment {align!r} is not a power of two")
    start = -(-header.at // align) * align
    if ends and start + max(ends) > len(header.data):
        missing = start + max(ends) - len(header.data)
        raise _Damaged(f"its tensors end {missing} bytes behind the end of the file")


def _tensor(header: _Header) -> int:
    """Read one tensor's entry; where its data ends, counted from the first tensor's data."""
    name, n = header.text(), header.number("I")
    if n > MOST_DIMENSIONS:
        raise _Damaged(f"tensor {name[:40]!r} has {n} dimensions")
    shape = tuple(header.number("Q") for _ in range(n))
    kind, offset = header.number("I"), header.number("Q")
    if kind not in _block_sizes():
        raise _Damaged(f"tensor {name[:40]!r} is of an unknown type {kind}")
    block, n_bytes = _block_sizes()[kind]
    if math.prod(shape) % block:
        raise _Damaged(f"tensor {name[:40]!r} of shape {shape} does not divide into blocks")
    header.tensors[name] = shape
    return offset + math.prod(shape) // block * n_bytes


@functools.cache
def _block_sizes() -> dict[int, tuple[int, int]]:
    """Numbers and bytes of a block, by GGUF's number of each tensor type."""
    from gguf.constants import GGML_QUANT_SIZES

    return {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}


def _check_settings(header: _Header) -> None:
    """Hold the sizes in the settings against the tensors, before anything is built to them."""
    family = header.settings.get("general.architecture")
    if not isinstance(family, str):
        raise _Damaged("it does not name its architecture")
    layers = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    n_layers = header.settings.get(f"{family}.block_count")
    if not isinstance(n_layers, int) or not 0 < n_layers == len(layers):
        raise _Damaged(f"it claims {n_layers!r} layers and has the tensors of {len(layers)}")
    embedding = header.tensors.get("token_embd.weight", ())
    width = header.settings.get(f"{family}.embedding_length")
    if not embedding or width != embedding[0]:
        raise _Damaged(f"it claims width {width!r}, but its embedding has shape {embedding}")
    largest = max(max(shape, default=0) for shape in header.tensors.values())
    heads = ("attention.head_count", "attention.head_count_kv")
    for name in ("feed_forward_length", "vocab_size", *heads):
        n = header.settings.get(f"{family}.{name}")
        if n is not None and not (isinstance(n, int) and 0 < n <= largest):
            raise _Damaged(f"its {family}.{name} is {n!r}, which fits none of its tensors")
