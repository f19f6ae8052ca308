"""Run the notebooks and keep their outputs: each figure interactive, with a static image beside it.

    python scripts/notebooks.py [notebooks/01_first_patching.ipynb ...]

Static images need Chrome or Chromium (`apt-get install chromium`); what is written to stderr, such
as progress bars, is not kept.
"""

import os
import shutil
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


def execute(path: Path) -> None:
    """Run a notebook from top to bottom and write it back with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype+png"
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("BROWSER_PATH", shutil.which("chromium") or "")
    given = [Path(name) for name in sys.argv[1:]]
    for notebook in given or sorted((ROOT / "notebooks").glob("*.ipynb")):
        execute(notebook)
