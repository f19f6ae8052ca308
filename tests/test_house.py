"""The house: floors, no circle of imports, one meaning per name, short files and functions."""

import ast
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(f for top in ("interp", "circuits") for f in (ROOT / top).rglob("*.py"))
MODULES = {
    ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES
}
OFTEN = {"__init__", "result", "figures"}
"""Module names that every room may have, for the same role."""


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """Modules that a module imports: at its head, for type checkers, or inside a function.

    A package's own ``__init__`` only hands names on and is no stop of its own.
    """
    found: set[str] = set()
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found.add(inner if inner in MODULES else origin(node.module, name.name))
    return {one for one in found if one in MODULES and one != module}


def origin(package: str, name: str) -> str:
    """The module that a package's ``__init__`` takes a name from."""
    file = MODULES.get(package)
    if file is None or file.name != "__init__.py":
        return package
    for node in ast.walk(tree(file)):
        names = node.names if isinstance(node, ast.ImportFrom) and node.module in MODULES else ()
        if name in {one.asname or one.name for one in names}:
            return origin(node.module, name)
    return package


def test_no_circle_of_imports():
    inner = {m: imports(m) for m, f in MODULES.items() if f.name != "__init__.py"}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


@pytest.mark.parametrize("top", ["interp", "circuits"])
def test_a_module_name_stands_once_in_a_package(top: str):
    where: dict[str, list[str]] = defaultdict(list)
    for file in FILES:
        if file.is_relative_to(ROOT / top) and file.stem not in OFTEN:
            where[file.stem].append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_a_class_name_has_one_meaning():
    where: dict[str, list[str]] = defaultdict(list)
    for file in FILES:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_files_and_functions_are_short():
    long: list[str] = []
    for file in FILES:
        name = str(file.relative_to(ROOT))
        if len(file.read_text(encoding="utf-8").splitlines()) > 400:
            long.append(name)
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body and node.body[-1].end_lineno - body[0].lineno + 1 > 60:
                    long.append(f"{name}:{node.name}")
    assert long == []


def test_the_source_is_small():
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    emotion = [file for file in FILES if file.is_relative_to(ROOT / "circuits" / "emotion")]
    assert sum(lines.values()) <= 55_680
    assert len(emotion) <= 20
    assert sum(lines[file] for file in emotion) <= 4_800
    benchmarks = (ROOT / "benchmarks").rglob("*.py")
    assert sum(len(f.read_text(encoding="utf-8").splitlines()) for f in benchmarks) <= 2_200
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
