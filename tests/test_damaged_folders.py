"""Damaged and altered folders of every kind: one sentence, never another exception."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny
from sample_runs import RUNS, SAMPLES

from circuits.affect.emotion_map import EmotionMap
from circuits.affect.emotion_vectors import EmotionVectors
from circuits.discovery import Circuit, Evaluation, Faithfulness
from circuits.editing import Edit, LayerSelection
from circuits.editing.evaluation import Comparison
from circuits.editing.evaluation.sequence_result import EditSequences
from circuits.editing.layer_selection import selection_for
from circuits.emotion import EmotionComparison, EmotionDiscovery
from circuits.query_value.result import QueryValue
from circuits.recall_reasoning.feasibility_result import Feasibility
from circuits.recall_reasoning.published import Replication
from circuits.recall_reasoning.result import RecallReasoning
from circuits.recall_reasoning.thought_result import Thought
from interp import Plan, Scale
from interp.ablation.result import AblationResult
from interp.attribution.scores import Scores, UnitScores
from interp.errors import RunFolderError
from interp.patching.result import PatchResult
from interp.results import folder

LOADS: dict[str, Callable[[Path], Any]] = {
    "patch": PatchResult.load,
    "attribute": Scores.load,
    "ablate": AblationResult.load,
    "circuit discover": Circuit.load,
    "edit evaluate": Comparison.load,
    "edit sequence": EditSequences.load,
    "query-value": QueryValue.load,
    "recall": RecallReasoning.load,
    "thought": Thought.load,
    "emotion circuit": EmotionDiscovery.load,
    "emotion evaluate": EmotionComparison.load,
    "emotion vectors": EmotionVectors.load,
}
MORE: dict[str, Callable[[Path], Any]] = {
    "evaluation": Evaluation.load,
    "faithfulness": Faithfulness.load,
    "unit_scores": UnitScores.load,
    "edit": Edit.load,
    "recall_replication": Replication.load,
    "feasibility": Feasibility.load,
    "emotion map": EmotionMap.load,
}
ODD: list[Any] = [
    None, True, -1, 0, 10**400, 1e308, float("nan"), float("-inf"), "", "x" * 5000,
    "b0.mlp", [], [[]], [1, "a", None], {}, {"a": {"b": []}}, json.loads("[" * 200 + "]" * 200),
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, cache: None) -> dict[str, Any]:
    """kind -> (folder, how it is loaded), one of each."""
    base = tmp_path_factory.mktemp("kinds")
    for name in LOADS:
        RUNS[name](base / name)
    loads = dict(LOADS)
    model = tiny("llama")

    def add(name: str, load: Callable[[Path], Any]) -> Path:
        loads[name] = load
        return base / name

    for kind, load in MORE.items():
        SAMPLES[kind](add(kind, load))
    chosen = LayerSelection((0,), (1,), "by hand", {1: torch.eye(56)}, separation={1: 0.6})
    whose = {"model": model.name, "weights_hash": model.hash_in(torch.bfloat16)}
    replace(chosen, **whose).save(add("layers", lambda at: selection_for(model, at, "ace")))
    Plan.of(Scale("z", 0.5)).save(add("plan", Plan.load))
    return {name: (base / name, load) for name, load in loads.items()}


def tried(load: Callable[[Path], Any], at: Path, what: str) -> bool:
    """Whether a folder is refused; anything but a short sentence fails."""
    try:
        load(at)
    except RunFolderError as error:
        said = str(error)
        assert len(said) < 500 and "\n" not in said, f"{what}: {said}"
        return True
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return False


# --- any byte of any file ------------------------------------------------------------------------


def damaged(rng: random.Random, file: Path) -> str:
    """Damage a file in one of several ways."""
    data = bytearray(file.read_bytes())
    how = rng.choice(["flip", "cut", "grow", "zero", "gone", "folder", "text"])
    if how == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        data = data[: rng.randrange(len(data))]
    elif how == "grow":
        data += bytes(rng.randrange(1, 9))
    elif how == "zero":
        first = rng.randrange(len(data))
        data[first : first + 16] = bytes(b ^ 0xFF for b in data[first : first + 16])
    elif how == "text":
        data = bytearray(rng.choice([b"[" * 100_000, b"9" * 5_000, b"\xff\xfe", b"null", b"{}"]))
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how != "gone":
        file.write_bytes(data)
    return f"{file.name}: {how}"


def damage_all(folders: dict[str, Any], tmp_path: Path, seed: int, n: int) -> None:
    rng = random.Random(seed)
    for kind, (at, load) in folders.items():
        files = ["manifest.json", *folder.read_manifest(at)["files"]]
        for _ in range(n):
            copy = Path(shutil.copytree(at, tmp_path / "copy"))
            what = damaged(rng, copy / rng.choice(files))
            assert tried(load, copy, f"{kind}, {what}"), f"{kind}, {what}: not noticed"
            shutil.rmtree(copy)


def test_any_damage_is_noticed_and_said_in_a_sentence(folders: dict[str, Any], tmp_path: Path):
    damage_all(folders, tmp_path, seed=0, n=90)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_any_damage_is_noticed_at_length(folders: dict[str, Any], tmp_path: Path, seed: int):
    damage_all(folders, tmp_path, seed, n=90)


# --- what is sealed again ------------------------------------------------------------------------


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every value inside a manifest."""
    inner = list(value.items() if isinstance(value, dict) else enumerate(value[:3]))
    found = [(*at, key) for key, _ in inner]
    for key, one in inner:
        found += places(one, (*at, key)) if isinstance(one, dict | list) else []
    return found


def altered_manifest(rng: random.Random, copy: Path) -> str:
    manifest = folder.read_manifest(copy)
    # other weights are another model's, which layers are refused for in its own words
    kept = ("files", "provenance", "weights")
    way = rng.choice([one for one in places(manifest) if one[0] not in kept])
    inside = manifest
    for key in way[:-1]:
        inside = inside[key]
    odd = rng.choice(ODD)
    if rng.random() < 0.3:
        del inside[way[-1]]
    else:
        inside[way[-1]] = odd
    folder.seal(copy, manifest)
    return f"{way} = {str(odd)[:40]}"


def altered_data(rng: random.Random, copy: Path) -> str:
    """A table without a column or rows, arrays of another shape, sealed again."""
    manifest = folder.read_manifest(copy)
    files = [f for f in sorted(copy.iterdir()) if f.suffix in (".parquet", ".safetensors")]
    if not files:
        return altered_manifest(rng, copy)
    file = rng.choice(files)
    if file.suffix == ".parquet":
        table = pd.read_parquet(file)
        if len(table.columns) and rng.random() < 0.6:
            table = table.drop(columns=rng.choice(list(table.columns)))
        else:
            table = table.iloc[:-1]
        table.to_parquet(file, index=False)
    else:
        arrays = folder.load_file(file)
        name = rng.choice(sorted(arrays))
        value = arrays.pop(name)
        if rng.random() < 0.7:
            arrays[name] = np.ascontiguousarray(value[:-1] if value.ndim else value.reshape(1))
        folder.save_file(arrays, file)
    folder.seal(copy, manifest)
    return file.name


def alter_all(folders: dict[str, Any], tmp_path: Path, seed: int, n: int) -> int:
    rng, refused = random.Random(seed), 0
    for kind, (at, load) in folders.items():
        for i in range(n):
            copy = Path(shutil.copytree(at, tmp_path / "copy"))
            what = (altered_data if i % 3 == 0 else altered_manifest)(rng, copy)
            refused += tried(load, copy, f"{kind}, {what}")
            shutil.rmtree(copy)
    return refused


def test_what_is_sealed_again_loads_or_is_refused(folders: dict[str, Any], tmp_path: Path):
    assert alter_all(folders, tmp_path, seed=2, n=40) > 150


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 11))
def test_what_is_sealed_again_loads_or_is_refused_at_length(
    folders: dict[str, Any], tmp_path: Path, seed: int
):
    assert alter_all(folders, tmp_path, seed, n=90) > 300


def test_every_kind_loads_while_it_is_whole(folders: dict[str, Any]):
    assert len(folders) == 21
    for at, load in folders.values():
        load(at)
