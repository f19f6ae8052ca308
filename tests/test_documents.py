"""Everything a reader is told to run is run: README, docs and notebooks; and the tree's rules."""

import re
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def snippets(page: Path) -> str:
    """A page's Python blocks, run as one program from top to bottom."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p)], ids=lambda p: p.name)
def test_python_snippets_run(page: Path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets").symlink_to(ROOT / "datasets")
    exec(compile(snippets(page), page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_pages_exist_with_their_options(page: Path, capsys):
    from circuits.cli.app import run

    commands = re.findall(r"^(?:\.venv/bin/)?interp (.+?)(?: *#.*)?$", page.read_text(), re.M)
    for line in commands:
        words = line.replace("\\", " ").split()
        verb = [w for w in words[:2] if re.fullmatch("[a-z]+(-[a-z]+)*", w)]
        assert run([*verb, "--help"]) == 0, line
        shown = capsys.readouterr().out
        for option in (w for w in words if w.startswith("--")):
            assert option in shown, (page.name, line, option)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_run_from_top_to_bottom(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(
        notebook, timeout=240, resources={"metadata": {"path": str(path.parent)}}
    ).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_are_kept_with_outputs(path: Path):
    """As scripts/notebooks.py leaves them: run in order, figures with a static image, no paths."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"display_data", "execute_result", "stream"}
    figures = [o.data for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert all("image/png" in figure for figure in figures)
    assert figures, "a reader sees no figure"
    text = path.read_text()
    assert str(ROOT) not in text
    assert len(text) < 2_000_000


def test_datasets_is_no_package():
    assert {f.parent.name for f in (ROOT / "datasets").rglob("*.py")} == {"build"}
    assert not list((ROOT / "datasets").rglob("__init__.py"))


def test_only_one_module_imports_each_heavy_library():
    for library, home in (
        ("transformer_lens", "interp/architecture.py"),
        ("nnsight", "interp/nnsight_engine.py"),
    ):
        pattern = re.compile(rf"^\s*(?:from|import) {library}\b", re.M)
        files = [*(ROOT / "interp").rglob("*.py"), *(ROOT / "circuits").rglob("*.py")]
        found = [str(f.relative_to(ROOT)) for f in files if pattern.search(f.read_text())]
        assert found == [home]


def test_interp_never_imports_circuits():
    for file in (ROOT / "interp").rglob("*.py"):
        assert not re.search(r"^\s*(?:from|import) circuits\b", file.read_text(), re.M), file.name
