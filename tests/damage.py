"""Seeded damage to input files: to their bytes, and to the values of their JSON."""

import copy
import json
import random
from typing import Any

from input_examples import Kind, dumped

RAW = [
    "NaN", "-Infinity", "1e999", "1e308", "-1e308", "9" * 5000, "-" + "9" * 19, "9" * 17, "0", "-1",
    "-0.0", "1", "2", "3", "1.5", "0.3", "true", "false", "null", '""', '" "', '"x"', "[]", "{}",
    "[[]]", "[{}]", "[null]", "[0]", "[true]", "[NaN]", '{"": null}', '{"a": 1, "a": 2}',
    "[" * 70 + "]" * 70, "[" * 300 + "]" * 300, "[" * 100_000, '{"a":' * 500 + "1" + "}" * 500,
    r'"\ud800"', r'["\udfff x"]', r'{"\udc00": 1}', r'"\u0000"', r'"a\nb\r\u2028c"',
    r'"\ud83d\ude00"', f'"{"x" * 5000}"', f'["{"y" * 5000}"]', f'{{"{"k" * 5000}": 1}}',
    f'"{"{" * 50}"', '"{}"', '"{} {}"', '"{0.__class__}"', '"%s"', f"[{','.join(['7'] * 3000)}]",
    '"surprise"', '"float32"', '"a0.h0"',
    '"all"', "[1, 0]", "[0, 1]", '["a", "b"]', "[[0, 1], [0, 1]]", '["a", "b", "c"]', "1000000",
]  # fmt: skip
"""JSON texts, and what only looks like JSON, to stand where something else belongs."""


def damaged(kind: Kind, rng: random.Random) -> bytes:
    """The bytes of a file after one to three mishaps."""
    if isinstance(kind.content, bytes) or rng.random() < 0.25:
        raw = kind.text()
        for _ in range(rng.choice((1, 1, 2, 3))):
            raw = rng.choice(BYTES)(raw, rng)
        return raw
    content = copy.deepcopy(kind.content)
    raws: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = _changed(content, rng, raws)
    text = dumped(kind.file, content)
    for i, raw in enumerate(raws):
        text = text.replace(json.dumps(_mark(i)).encode(), raw.encode())
    return text


# --- of values ---------------------------------------------------------------------------------


def _mark(i: int) -> str:
    return f"@raw {i}@"


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(value, dict | list):
        return [at]
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    return [at, *(place for key, one in inside for place in _places(one, (*at, key)))]


def _changed(content: Any, rng: random.Random, raws: list[str]) -> Any:
    places = [place for place in _places(content) if place]
    if not places or rng.random() < 0.03:
        return _raw(rng, raws)
    place = rng.choice(places)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    _hit(inner, place[-1], rng, raws)
    return content


def _hit(inner: Any, key: Any, rng: random.Random, raws: list[str]) -> None:
    """Put another value at a key, or do without it, or have it twice."""
    what = rng.random()
    if what < 0.6:
        inner[key] = _raw(rng, raws)
    elif what < 0.75:
        del inner[key]
    elif what < 0.85 and isinstance(inner, list):
        inner.insert(key, copy.deepcopy(inner[key]))
    elif what < 0.9 and isinstance(inner, dict):
        inner[rng.choice(("x", "k" * 5000, "", key.upper(), f"{key}\0"))] = inner.pop(key)
    else:
        others = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        other = rng.choice(others)
        inner[key], inner[other] = inner[other], inner[key]


def _raw(rng: random.Random, raws: list[str]) -> str:
    raws.append(rng.choice(RAW))
    return _mark(len(raws) - 1)


# --- of bytes ----------------------------------------------------------------------------------


def _at(raw: bytes, rng: random.Random) -> int:
    return rng.randrange(len(raw) + 1)


def _flip(raw: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(raw)
    for _ in range(rng.choice((1, 1, 4, 20)) if raw else 0):
        flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _insert(raw: bytes, rng: random.Random) -> bytes:
    junk = (
        b"\xff",
        b"\x00",
        b"\xed\xa0\x80",
        b"\xe2\x80\xa8",
        b"\n",
        b"[",
        b"{",
        b'"',
        b",",
        b"9" * 5000,
    )
    at = _at(raw, rng)
    return raw[:at] + rng.choice(junk) + raw[at:]


def _cut(raw: bytes, rng: random.Random) -> bytes:
    a, b = sorted((_at(raw, rng), _at(raw, rng)))
    return rng.choice((raw[:a], raw[b:], raw[:a] + raw[b:]))


def _twice(raw: bytes, rng: random.Random) -> bytes:
    a, b = sorted((_at(raw, rng), _at(raw, rng)))
    return rng.choice((raw + raw, raw[:b] + raw[a:]))


def _encoded(raw: bytes, rng: random.Random) -> bytes:
    text = raw.decode("latin-1")
    return rng.choice(
        (
            b"\xef\xbb\xbf" + raw,
            b"\xef\xbb\xbf" * 2 + raw,
            text.encode("utf-16"),
            text.encode("utf-16-be"),
            raw.replace(b"\n", b"\r\n"),
            raw.replace(b"\n", b"\r"),
            raw.replace(b" ", b"\xa0"),
        )
    )


def _another(raw: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"",
            b"\n\n",
            b"{}",
            b"[]",
            b"null",
            b"0",
            b'"x"',
            b"[null]",
            b"[[]]",
            b"PK\x03\x04",
            b"\x80\x04",
        )
        + (bytes(rng.randrange(256) for _ in range(200)), rng.choice(RAW).encode())
    )


BYTES = (_flip, _flip, _insert, _cut, _twice, _encoded, _another)
