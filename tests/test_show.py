"""`interp show` on a folder of every kind: what its page says, and what no page may hold."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ROOT
from sample_runs import EVIL, SAMPLES

from circuits.cli.app import run
from circuits.kinds import KINDS
from interp.results import folder
from interp.results.report import PLOTLY
from interp.results.style import AGAINST, FOR, SCHEMES

pytestmark = pytest.mark.usefixtures("cache")
COMMAND = ["/usr/bin/interp", "patch", "--model", "x y"]
MADE_BY = "interp patch --model 'x y'"
UNSHOWN = (
    "jacobian lens",
    "query_value_validation",
    "steering vector",
    "edit",
    "edit ledger",
    "recall_replication",
    "emotion vectors",
    "emotion choices",
    "emotion run",
)


class Page(HTMLParser):
    """The visible text of a page, its tags, and the texts of some of them."""

    def __init__(self, text: str):
        super().__init__()
        self.inside: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "hr"):
            self.inside.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data: str):
        if {"style", "script"} & {*self.inside}:
            return
        for tag in {*self.inside}:
            self.texts[tag][-1] += data


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, Path]:
    """A folder of each kind, written when first asked for."""
    root = tmp_path_factory.mktemp("samples")

    class Written(dict):
        def __missing__(self, kind: str) -> Path:
            with pytest.MonkeyPatch.context() as patch:  # pytest's workers have other arguments
                patch.setattr(sys, "argv", COMMAND)
                self[kind] = SAMPLES[kind](root / kind.replace(" ", "-"))
            return self[kind]

    return Written()


def show(out: Path, *options: str) -> str:
    assert run(["show", str(out), *options]) == 0
    return (out / "index.html").read_text("utf-8")


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    capsys.readouterr()
    assert run(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_every_kind_has_a_sample():
    assert set(SAMPLES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_shown(kind: str, samples: dict[str, Path], capsys):
    out = samples[kind]
    text = show(out, "--json")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["page"] == str(out / "index.html")
    assert len(text.encode()) < 1_500_000
    page = Page(text)
    visible = page.texts["body"][0]
    # what is there
    (title,) = page.texts["h1"]
    assert title and page.texts["title"] == [title]
    assert {"header", "main", "footer", "nav"} <= set(page.texts)
    for heading in ("Method", "Excluded", "Provenance"):
        assert heading in page.texts["h2"]
    assert "Made" in page.texts["dt"] and "Versions" in page.texts["dt"]
    assert "To reproduce:" in visible and page.texts["code"][0] == MADE_BY
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        page.tags
    )
    assert len(page.texts["caption"]) == len(page.texts["table"]) > 0
    heads = [attrs for tag, attrs in page.tags if tag == "th"]
    assert heads and all(attrs["scope"] in ("col", "row") for attrs in heads)
    assert [len(caption) > 60 for caption in page.texts.get("figcaption", [])] == [True] * len(
        page.texts.get("figure", [])
    )
    assert ("figure" in page.texts) == (kind not in UNSHOWN or kind == "emotion run")
    # what is not
    assert EVIL not in text and (EVIL in visible or kind == "emotion discovery")
    assert not re.search(r"\b(inf|nan|None|True|False)\b", visible)
    for heading in [*page.texts["th"], *page.texts["caption"], *page.texts["h2"]]:
        if EVIL not in heading:
            assert not re.search(r"\w_\w", re.sub("logit_diff|mlp_post", "", heading))
    assert not re.search(r"\b[A-Z]\w+\([^)]*[=;]", title)  # no Python repr
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)


def test_plotly_lies_once_beside_the_page_or_in_it(samples: dict[str, Path], tmp_path: Path):
    out = samples["patch"]
    text = show(out)
    assert f'<script src="{PLOTLY}"></script>' in text
    library = (out / PLOTLY).read_text("utf-8")
    assert library.lstrip("/*\n ").startswith("plotly.js v")
    alone = tmp_path / "deep" / "alone.html"
    assert run(["show", str(out), "--standalone", "--out", str(alone)]) == 0
    assert library in alone.read_text("utf-8")
    assert [file.name for file in alone.parent.iterdir()] == ["alone.html"]


def test_figures_are_drawn_in_the_scheme_of_the_reader(samples: dict[str, Path]):
    text = show(samples["patch"])
    specs = re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)
    (spec,) = map(json.loads, specs)
    assert not {"template", "width", "title"} & set(spec["layout"])
    assert "colorscale" not in spec["data"][0]
    (held,) = re.findall(r'<script type="application/json" id="templates">(.*?)</script>', text)
    held = json.loads(held)
    for name, scheme in SCHEMES.items():
        assert held[name]["layout"]["paper_bgcolor"] == scheme.paper
        assert held[name]["data"]["heatmap"][0]["colorscale"][-1] == [1.0, scheme.support]


def test_towards_the_clean_answer_is_one_colour_everywhere(samples: dict[str, Path]):
    from circuits.discovery.drawing import SIGNS
    from circuits.kinds import read

    assert (SIGNS["supports"], SIGNS["opposes"]) == (FOR, AGAINST)
    for kind in ("patch", "unit_scores", "query_value", "recall_reasoning", "emotion discovery"):
        figures = [
            part.plot
            for section in read(samples[kind]).report.sections
            for part in section.parts
            if hasattr(part, "plot")
        ]
        maps = [trace for figure in figures for trace in figure.data if trace.type == "heatmap"]
        assert maps and all(trace.colorscale is None for trace in maps)  # the template's


def test_an_emotion_discovery_is_shown_without_its_model(samples: dict[str, Path], monkeypatch):
    import interp

    monkeypatch.setattr(interp, "load_model", lambda *a, **k: pytest.fail("loaded a model"))
    assert "Emotions found in" in show(samples["emotion discovery"])


def test_the_shipped_layers_are_shown(tmp_path: Path):
    at = ROOT / "circuits/editing/layer_selections/gemma-3-270m"
    page = tmp_path / "layers.html"
    assert run(["show", str(at), "--out", str(page)]) == 0
    assert "Why these layers" in page.read_text("utf-8")


def test_a_folder_of_no_known_kind_is_refused(samples: dict[str, Path], tmp_path: Path, capsys):
    out = tmp_path / "other"
    shutil.copytree(samples["patch"], out)
    folder.seal(out, {"kind": "thesis"})
    line = refused(capsys, "show", str(out))
    assert "is of kind 'thesis', which has no page" in line
    assert all(kind in line for kind in KINDS)
    assert "manifest.json is missing" in refused(capsys, "show", str(tmp_path))
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot write" in refused(
        capsys, "show", str(samples["patch"]), "--out", str(file / "page.html")
    )
