"""Pages of the site made from other files: the home page, the changes, the API reference."""

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "interp",
    "circuits.discovery",
    "circuits.query_value",
    "circuits.editing",
    "circuits.recall_reasoning",
    "circuits.emotion",
)


def on_config(config: Any) -> None:
    """Add the reference to the navigation."""
    config.nav.append({"Reference": [{name: f"reference/{name}.md"} for name in PACKAGES]})


def on_files(files: Files, config: Any) -> None:
    """Add the generated pages to the files of the site."""
    pages = {
        "index.md": (ROOT / "README.md").read_text("utf-8").replace("](docs/", "]("),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text("utf-8"),
    } | {f"reference/{name}.md": reference(name) for name in PACKAGES}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))


def reference(package: str) -> str:
    """A page with the documentation of every public name of a package."""
    tree = _tree(package)
    introduction = (ast.get_docstring(tree) or "").partition("\n\n")[0]
    block = next(node for node in tree.body if isinstance(node, ast.If))
    names = {one.name for line in block.body for one in getattr(line, "names", ())}
    entries = (f"::: {home(package, name)}.{name}\n" for name in sorted(names))
    return "\n".join([f"# {package}", introduction, *entries])


def home(package: str, name: str) -> str:
    """The module that defines what a package offers under a name, also behind `TYPE_CHECKING`."""
    for node in ast.walk(_tree(package)):
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            return home(str(node.module), name)
    return package


def _tree(module: str) -> ast.Module:
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text("utf-8"))
