"""Make a page of every kind of result, and have a browser judge it: `make pages`.

One small run folder of each kind goes to build/pages/runs. Chromium then opens every page offline,
at 390 and 1280 pixels, light and dark, writes a PNG of each beside it, and fails on findings of
axe-core that are serious or critical, on sideways scrolling, on figures that are not drawn, and on
anything asked of the network. Needs Chromium and Node; what it installs lies in build/pages.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "pages"
PACKAGES = ("puppeteer-core@24", "axe-core@4")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def needed(*names: str) -> str:
    """The first program of these that is there."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    return found or sys.exit(f"{names[0]} is needed to look at pages; install it first.")


def write_pages() -> None:
    """A run folder of every kind, with its page."""
    sys.path.insert(0, str(ROOT / "tests"))
    os.chdir(ROOT)
    from sample_runs import SAMPLES

    from circuits.kinds import read

    runs = WORK / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    for kind, write in SAMPLES.items():
        at = write(runs / kind.replace(" ", "_"))
        print(read(at).report.write(at / "index.html"))


def main() -> None:
    """Write the pages and look at them."""
    browser = os.environ.get("CHROMIUM") or needed(*BROWSERS)
    node, npm = needed("node"), needed("npm")
    write_pages()
    if not (WORK / "node_modules" / "axe-core").is_dir():
        install = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(WORK), *PACKAGES]
        subprocess.run(install, check=True)
    shutil.copy(Path(__file__).with_suffix(".mjs"), WORK)  # beside the modules that it imports
    looked = subprocess.run([node, str(WORK / "look_at_pages.mjs"), str(WORK / "runs"), browser])
    sys.exit(looked.returncode)


if __name__ == "__main__":
    main()
