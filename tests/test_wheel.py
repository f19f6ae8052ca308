"""The wheel is the whole product: what is in it, and that it works without the repository."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

IN_AN_EMPTY_FOLDER = """
import datasets, interp
from pathlib import Path
assert Path(interp.__file__).is_relative_to({site!r}), interp.__file__
assert datasets.load_dataset.__module__ == "datasets.load"

from circuits.editing.evaluation import load_cases
from circuits.editing.layer_selection import SHIPPED
from circuits.affect.emotion_choices import load_choices
from circuits.affect.emotion_words import load_norms, load_words
from circuits.emotion import EmotionRecipe, load_frames, load_replies, load_scenarios
from circuits.emotion.texts import load_labelled, load_vignettes
from circuits.emotion.emotion_settings import RECIPES
from circuits.query_value.questions import load_questions
from circuits.recall_reasoning import settings
from circuits.recall_reasoning.sources.countries import load_facts
from interp.loading import organisms, programs
from interp.data import datasets as shipped
from interp.interventions.contrast_pairs import load_contrast_pairs

readers = {{
    "prompt pairs": interp.load_pairs, "questions": load_questions, "edit cases": load_cases,
    "events": load_scenarios, "vignettes": load_vignettes, "replies": load_replies,
    "frames": lambda name: load_frames(name).frames, "facts": lambda name: load_facts(name),
    "contrast pairs": load_contrast_pairs,
    "labelled replies": lambda name: load_labelled(name, "test"),
    "emotions": lambda name: load_words("goemotions"),
    "word norms": load_norms, "choices": load_choices,
    "text": lambda name: shipped.locate(name).read_text("utf-8"),
}}
for row in interp.datasets().itertuples():
    assert Path(row.path).is_relative_to({site!r}), row.path
    if row.name != "multihop_facts":  # made into multihop_chains, read by no verb
        assert len(readers[row.kind](row.name)) > 5, row.name
for name in programs.PROGRAMS:
    assert interp.load_model(name).name == name
for name in organisms.ORGANISMS:
    assert organisms.folder_of(name).is_relative_to({site!r})
for name in RECIPES:
    assert EmotionRecipe.load(name).model
for name in settings.RECIPES:
    assert settings.load_recipe(name).model
three = ["gemma-3-270m", "qwen2.5-coder-0.5b", "smollm2-135m"]
assert sorted(at.name for at in SHIPPED.iterdir()) == three
assert not list(Path().iterdir())
print("ok")
"""


def hatch(source: Path, target: str, out: Path) -> Path:
    """Build a ``wheel`` or ``sdist`` from a source tree, offline."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return hatch(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def tracked(*folders: str) -> set[str]:
    """Files of these folders that are neither code nor leavings of Python."""
    found = (file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file())
    return {str(f.relative_to(ROOT)) for f in found if f.suffix not in (".py", ".pyc")}


def test_every_data_file_is_in_the_wheel_unchanged(wheel: Path):
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
        for file in (f for f in (ROOT / "datasets").iterdir() if f.is_file()):
            assert held.read(f"interp/data/shipped/{file.name}") == file.read_bytes(), file.name
    assert tracked("interp", "circuits") <= names
    for part in (
        "interp/py.typed",
        "circuits/py.typed",
        "interp/loading/programs/hist.npz",
        "interp/loading/organisms/two_hop_organism/model.safetensors",
        "circuits/editing/layer_selections/gemma-3-270m/arrays.safetensors",
        "circuits/emotion/recipes/smollm2-135m.json",
        "circuits/recall_reasoning/recipes/smollm2-135m.json",
    ):
        assert part in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"interp", "circuits"}
    assert not [name for name in names if "/build/" in name or "__pycache__" in name]


def test_the_wheel_works_in_an_empty_folder(wheel: Path, tmp_path: Path):
    site, cwd = tmp_path / "site", tmp_path / "empty"
    cwd.mkdir()
    with zipfile.ZipFile(wheel) as held:
        held.extractall(site)
    done = subprocess.run(
        [sys.executable, "-c", IN_AN_EMPTY_FOLDER.format(site=str(site))],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["ok"], done.stderr


def test_the_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path):
    packed = hatch(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(packed) as held:
        held.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert (source / "datasets/build/compile_programs.py").is_file()
    again = hatch(source, "wheel", tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert first.namelist() == second.namelist()


def test_an_editable_installation_reads_the_repository(tmp_path: Path):
    code = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (made,) = tmp_path.iterdir()
    with zipfile.ZipFile(made) as held:
        (pth,) = (name for name in held.namelist() if name.endswith(".pth"))
        assert held.read(pth).decode().split() == [str(ROOT)]
        assert not [name for name in held.namelist() if name.startswith("interp/")]
