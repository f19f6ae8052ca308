"""Everything a reader is told to run is run: README, docs and notebooks; and the tree's rules."""

import re
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

GUIDES = [
    page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if page.stem not in ("benchmarks", "glossary", "architecture")
]
RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CARDS = sorted((ROOT / "datasets").glob("*.md"))
PROSE = [*PAGES, *CARDS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

FORM = [
    "What for",
    "When not to use it",
    "Example",
    "What comes back",
    "Options that matter",
    "Pitfalls",
    "Source",
]

# Words that only we understand (the glossary has the field's), and words about how the work was
# done. Code, link targets and quoted guidance are not prose.
PRIVATE = re.compile(
    r"\b(said|told|kindred|wordless|br(?:ing|ings|ought)(?: \w+)? about|peers?|placements?|scatter"
    r"|arms?|panel|walks?|readers?|bench(?:es)?|nudges?|gains?|kept|reach(?:es|ed)?"
    r"|was lent|today's|wrote the code|no GPU|commit [0-9a-f]{7}|20\d\d-\d\d-\d\d|of then|session"
    r"|is no (?:proof|oracle|check|intervention|promise))\b",
    re.I,
)
COUNTED = (
    "pairs?|rows?|prompts?|tokens?|sets?|pass(?:es)?|repl(?:y|ies)|seconds?|cases?|facts?|nats"
)
COUNTED += "|neurons?|heads?|cells|runs?|objects?|labels?|circuits?|words?|draws?|values?|lines?"
PER = "pair|row|prompt|token|set|layer|head|cell|case|fact|edit|split|seed|model|method|relation"
PER += "|emotion|theme|kind|plan|file|scenario|group|control|ability|country|step|key|neuron|edge"
DISTRIBUTIVE = re.compile(rf"\b(?:{COUNTED}) an? (?:{PER})\b", re.I)
NOT_PROSE = re.compile(r"```.*?```|<details>.*?</details>|`[^`\n]*`|\]\([^)]*\)", re.DOTALL)


def snippets(page: Path) -> str:
    """A page's Python blocks, run as one program from top to bottom."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


STUDIES = ("circuits", "edit_card", "emotion_circuits", "emotion_map")
"""Guides whose example is a small study of a real model, half a minute and more each."""
EXAMPLES = [
    pytest.param(p, marks=pytest.mark.slow if p.stem in STUDIES else ())
    for p in PAGES
    if snippets(p)
]


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_snippets_run(page: Path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(compile(snippets(page), page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_pages_exist_with_their_options_and_data(page: Path, capsys):
    from circuits.cli.app import run
    from interp.data.datasets import files

    commands = re.findall(r"^(?:\.venv/bin/)?interp (.+?)(?: *#.*)?$", page.read_text(), re.M)
    for line in commands:
        words = line.replace("\\", " ").split()
        verb = [w for w in words[:2] if re.fullmatch("[a-z]+(-[a-z]+)*", w)]
        assert run([*verb, "--help"]) == 0, line
        shown = capsys.readouterr().out
        for option in (w for w in words if w.startswith("--")):
            assert option in shown, (page.name, line, option)
        for name in re.findall(r"--(?:pairs|cases|prompts|neutral) ([a-z_]+)(?![\w./-])", line):
            assert name in files(), (page.name, line, name)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_readme_has_five_limits():
    section = (ROOT / "README.md").read_text().partition("## Limits\n")[2].partition("\n## ")[0]
    assert len(re.findall(r"^- ", section, re.M)) == 5


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: str(p.relative_to(ROOT)))
def test_guides_begin_with_when_one_needs_them(page: Path):
    first = page.read_text().partition("## What for\n\n")[2].partition("\n\n")[0]
    assert first.startswith("You ")
    assert 2 <= len(re.findall(r"[.?](?:\s|$)", first)) <= 3


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: str(p.relative_to(ROOT)))
def test_guides_have_one_form(page: Path):
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.M) == FORM
    written = re.sub(r"<!-- conformance.*<!-- end of conformance -->", "", text, flags=re.S)
    assert 60 <= len(written.splitlines()) <= 110


@pytest.mark.parametrize("page", RESULTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_results_are_short_and_have_their_commands(page: Path):
    text = page.read_text()
    assert len(text.splitlines()) <= 100
    assert re.search(r"^```\n(?:python|interp) ", text, re.M)
    assert "## Limits" in text


def test_every_figure_of_the_three_results_is_on_the_page_it_links_to():
    section = (
        (ROOT / "README.md").read_text().partition("## Three results")[2].partition("\n## ")[0]
    )
    entries = [line for line in section.splitlines() if line.startswith("- ")]
    assert len(entries) == 3
    for entry in entries:
        (page,) = re.findall(r"\]\((docs/results/\w+\.md)\)", entry)
        text = (ROOT / page).read_text()
        assert len(re.findall(r"\*\*[\d.×]+\*\*", entry)) == 1, "one number to remember"
        figures = re.findall(r"(?<![\w.])[+−]?\d*\.\d+|n = \d+|\d+e-\d|\d+×", entry)
        assert figures
        assert not [figure for figure in figures if figure not in text], entry


@pytest.mark.parametrize("page", PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_use_the_words_of_the_field(page: Path):
    text = NOT_PROSE.sub(lambda code: "\n" * code[0].count("\n"), page.read_text())
    found = [
        f"line {number}: {match[0]}"
        for number, line in enumerate(text.splitlines(), 1)
        for match in (*PRIVATE.finditer(line), *DISTRIBUTIVE.finditer(line))
    ]
    assert not found


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings have, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[\s]", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_resolve(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not fragment or fragment in anchors(target), link


@pytest.mark.parametrize("page", PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_pages_name_exist(page: Path):
    named = r"`((?:interp|circuits|datasets|docs|notebooks|benchmarks|tests)/[\w./*-]*)`"
    for path in re.findall(named, page.read_text()):
        assert list(ROOT.glob(path.rstrip("/").replace("NAME", "*"))), path


def test_the_version_is_the_same_everywhere():
    from interp import __version__

    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


LONG = ("02", "03", "04", "05", "06", "07", "08")
"""Notebooks that take the longest, up to minutes each."""
RUN = [
    pytest.param(path, marks=pytest.mark.slow if path.name.startswith(LONG) else ())
    for path in NOTEBOOKS
]


@pytest.mark.parametrize("path", RUN, ids=lambda p: str(p.relative_to(ROOT)))
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
    assert {output.output_type for output in outputs} <= {
        "display_data",
        "execute_result",
        "stream",
    }
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
        ("transformer_lens", "interp/model/adapters.py"),
        ("nnsight", "interp/interventions/nnsight.py"),
    ):
        pattern = re.compile(rf"^\s*(?:from|import) {library}\b", re.M)
        files = [*(ROOT / "interp").rglob("*.py"), *(ROOT / "circuits").rglob("*.py")]
        found = [str(f.relative_to(ROOT)) for f in files if pattern.search(f.read_text())]
        assert found == [home]


def test_interp_never_imports_circuits():
    for file in (ROOT / "interp").rglob("*.py"):
        assert not re.search(r"^\s*(?:from|import) circuits\b", file.read_text(), re.M), file.name
