"""What is not imported until it is used: torch by the command line, everything by the packages."""

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

HEAVY = {"torch", "transformers", "pandas", "scipy", "sklearn", "xarray", "plotly"}
LAZY = [
    "interp",
    "interp.statistics",
    "circuits.discovery",
    "circuits.editing",
    "circuits.editing.evaluation",
    "circuits.emotion",
    "circuits.query_value",
    "circuits.recall_reasoning",
]


def imported_by(code: str) -> set[str]:
    """The heavy libraries that a fresh process has imported after some code."""
    script = f"import sys\n{code}\nprint(*{HEAVY!r} & sys.modules.keys(), file=sys.__stdout__)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["patch", "--help"], 0),
        (["edit", "evaluate", "--help"], 0),
        (["pach"], 2),
        (["patch", "--modle", "smollm2-135m"], 2),
        (["models"], 0),
    ],
)
def test_help_typos_and_lists_import_nothing_heavy(arguments: list[str], code: int):
    script = f"from circuits.cli.app import run\nassert run({arguments}) == {code}"
    assert imported_by(script) == set()


def test_a_package_imports_a_name_when_it_is_used():
    assert imported_by("import interp, circuits.editing, circuits.emotion") == set()
    assert "torch" in imported_by("from interp import load_model")


@pytest.mark.parametrize("package", LAZY)
def test_every_exported_name_is_there(package: str):
    module = importlib.import_module(package)
    assert module.__all__
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert not isinstance(getattr(module, name), ModuleType), name


def test_a_submodule_does_not_hide_the_name_that_equals_its_own():
    script = (
        "import circuits.emotion.circuit_effects, circuits.editing.edit\n"
        "import circuits\n"
        "assert callable(circuits.emotion.circuit_effects)\n"
        "assert callable(circuits.editing.edit)"
    )
    assert "torch" in imported_by(script)


def test_submodules_are_found_and_other_names_are_not():
    assert imported_by("import interp\nassert interp.errors.InterpError") == set()
    import interp

    with pytest.raises(AttributeError, match="module 'interp' has no attribute 'pach'"):
        getattr(interp, "pach")  # noqa: B009
    with pytest.raises(ImportError, match="cannot import name 'pach'"):
        exec("from interp import pach")
