"""The data sets that come with the package, and what a path or the name of one means.

In a wheel they lie in this folder, in a checkout in ``datasets/``.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import DataError, did_you_mean, shown

if TYPE_CHECKING:
    import pandas as pd

SETS = {
    "country_capitals": "prompt pairs",
    "country_facts": "prompt pairs",
    "country_facts_chat": "prompt pairs",
    "ioi": "prompt pairs",
    "landmark_countries": "prompt pairs",
    "linguistic_puzzles": "prompt pairs",
    "capital_questions": "questions",
    "mood_contrasts": "contrast pairs",
    "multihop_chains": "edit cases",
    "multihop_facts": "facts",
    "recall_facts": "facts",
    "emotion_scenarios_discovery": "events",
    "emotion_scenarios_tuning": "events",
    "emotion_scenarios_test": "events",
    "emotion_vignettes": "vignettes",
    "emotion_frames": "frames",
    "emotion_replies": "replies",
    "emotion_blind_labels": "labelled replies",
    "emotion_words": "emotions",
    "emotion_norms": "word norms",
    "emotion_choices": "choices",
    "neutral_text": "text",
}
"""Name -> what its rows are."""


def folder() -> Path:
    """Where the shipped files lie: beside this module, or in the checkout that it is part of."""
    here = Path(__file__).with_name("shipped")
    return here if (here / "neutral_text.txt").is_file() else here.parents[2] / "datasets"


def files() -> dict[str, Path]:
    """The file of every shipped data set, by name; `DataError` where one is not installed."""
    return {name: _file(name) for name in SETS}


def _file(name: str) -> Path:
    for suffix in (".jsonl", ".json", ".txt"):
        file = folder() / f"{name}{suffix}"
        if file.is_file():
            return file
    raise DataError(f"{name} is not in {folder()}; install interp again.")


def locate(
    source: str | Path, expected: str = "a data file", among: Mapping[str, Path] | None = None
) -> Path:
    """The file that a path or a shipped name means.

    A shipped name means the shipped file whatever lies in the current folder (``./name`` is a file
    of that name there). The shipped files are the data sets, unless others are given as `among`.
    `DataError` where it is neither a file nor a name (the message suggests names and what is
    `expected`), or that data set is not in this installation.
    """
    named = SETS if among is None else among
    if str(source) in named:
        return _file(str(source)) if among is None else among[str(source)]
    if os.path.exists(source):  # noqa: PTH110 (Path.exists raises for some texts)
        return Path(source)
    raise DataError(
        f"no such file: {shown(str(source), 200)[1:-1]}; give {expected}, or a shipped name. "
        f"{did_you_mean(Path(source).stem[:80], named)}"
    )


def datasets() -> "pd.DataFrame":
    """The data sets that come with the package, one row per set.

    Columns: ``name`` (which `interp.load_pairs` and every option that takes data accept), ``kind``
    of its rows, ``rows`` (how many; missing for a set that is not a list), ``licence``, ``summary``
    and ``path``, beside which its card lies.
    """
    import pandas as pd

    rows = [_described(name, SETS[name], path) for name, path in files().items()]
    return pd.DataFrame(rows).astype({"rows": "Int64"})


def _described(name: str, kind: str, path: Path) -> dict[str, Any]:
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    summary = card.split("\n\n")[1].replace("\n", " ")
    licence = card.partition("## Licence\n\n")[2].split("\n\n")[0].replace("\n", " ").strip()
    return {
        "name": name,
        "kind": kind,
        "rows": _n_rows(path, path.read_text(encoding="utf-8")),
        "licence": licence,
        "summary": re.split(r"(?<=\.) |: ", summary)[0].rstrip("."),
        "path": str(path),
    }


def _n_rows(path: Path, text: str) -> int | None:
    """Lines of a text, objects of a list."""
    if path.suffix != ".json":
        return sum(1 for line in text.splitlines() if line.strip())
    read = json.loads(text)
    return len(read) if isinstance(read, list) else None
