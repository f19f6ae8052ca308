"""The viewer: what its page holds, and every control in a browser, where Chromium is installed."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from graph_samples import hand_made, large
from sample_runs import EVIL

from circuits.explanation.circuit_tracer import read_circuit_tracer
from circuits.explanation.viewer import viewer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def payload(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="[^"]+-data">(.*?)</script>', page)
    return json.loads(text)


def test_the_page_holds_the_graph_and_no_library():
    graph = large(500, p=0.3)
    page = graph.report().html(standalone=True)
    assert len(page.encode()) < 2_000_000 and "plotly.js v" not in page
    data = payload(page)
    assert len(data["file"]["nodes"]) == len(graph.nodes) and len(data["links"]) == 15_022
    assert not re.search(r"src\s*=|href\s*=\s*.(?!#)|@import|fetch\(|innerHTML|insertAdj", page)


def test_no_plotly_lies_beside_a_page_without_its_figures(tmp_path: Path):
    hand_made().report().write(tmp_path / "index.html")
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]


def test_what_a_user_wrote_is_text(tmp_path: Path):
    graph = hand_made(EVIL).relabelled({"logits": EVIL}).grouped({EVIL: ["logits"]})
    for page in (graph.report().html(), graph._repr_html_()):
        assert EVIL not in page
        assert payload(page)["file"]["qParams"] is not None


def test_edges_that_do_not_fit_are_counted():
    graph = large(60)
    figure = viewer(graph.of_edges(50), len(graph.edges))
    assert len(figure.data["links"]) == 50
    assert f"Of {len(graph.edges)} edges it holds the largest 50." in figure.says


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_every_control_in_a_browser(tmp_path: Path):
    graph = hand_made()
    script = Path(__file__).with_name("viewer_controls.js").read_text("utf-8")
    page = graph.report().html()
    watch = "<script>window.faults = []; addEventListener('error', e => faults.push(e.message));"
    page = page.replace("<head>", f"<head>{watch}</script>")
    page = page.replace("</body>", f"{graph._repr_html_()}<script>{script}</script></body>")
    path = tmp_path / "page.html"
    path.write_text(page, "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000"]
    done = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-500:]
    result = json.loads(html.unescape(found[1]))
    assert result["faults"] == []
    file = tmp_path / "saved.json"
    file.write_text(result["saved"], "utf-8")
    read = read_circuit_tracer(file)
    labels, groups = (read.nodes.set_index("id")[name] for name in ("label", "supernode"))
    assert labels["m0.n5@2"] == "capitals </script><b>"
    assert groups[groups != ""].to_dict() == {
        "embedding@0": "who",
        "embedding@1": "who",
        "a0.rest@2": "group",
        "m1.n7@2": "group",
    }
    pd.testing.assert_frame_equal(read.edges, graph.edges)
    own = graph.nodes.drop(columns=["label", "supernode"])
    pd.testing.assert_frame_equal(read.nodes[own.columns.tolist()], own)
