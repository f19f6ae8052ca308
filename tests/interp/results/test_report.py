"""The parts of a page: values, intervals, tables, left-out rows, the command, colours."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from interp.data.pairs import Excluded
from interp.results.report import Figure, Report, Section, Table, cell_text, excluded_rows, interval
from interp.results.style import AGAINST, FOR, GREY, PALETTE, SCHEMES, add_band, styled, whiskers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-3.0, "-3.000"),
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (0.00012, "0.00012"),
        (2.5e9, "2.5e+09"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (None, "–"),
        (True, "yes"),
        (7, "7"),
        ([1, 2], "1, 2"),
        ([], "none"),
        ({"n_pairs": 3, "at": "all"}, "n pairs 3; at all"),
        ("text", "text"),
    ],
)
def test_values_are_shown_alike(value, text: str):
    assert cell_text(value) == text


def test_an_interval_without_bounds_is_none():
    assert interval(0.1, 0.25) == "[0.100, 0.250]"
    assert interval(float("-inf"), float("inf")) == interval(float("nan"), 1) == "(no interval)"


def test_bounds_go_into_the_column_that_they_bound():
    frame = pd.DataFrame(
        {
            "set": ["a", "b"],
            "effect": [0.5, -1.0],
            "low": [0.25, -np.inf],
            "high": [0.75, np.inf],
            "random_draw": [0.1, np.nan],
            "random_draw_low": [0.0, np.nan],
            "random_draw_high": [0.2, np.nan],
            "n_pairs": [3, 4],
            "holds": [True, False],
        }
    )
    table = Table("c", frame, names={"set": "components"})
    assert table.headings == [
        "components",
        "effect [95 % interval]",
        "random draw [95 % interval]",
        "pairs",
        "holds",
    ]
    assert table.rows == [
        ["a", "0.500 [0.250, 0.750]", "0.100 [0.000, 0.200]", "3", "yes"],
        ["b", "-1.000 (no interval)", "–", "4", "no"],
    ]
    assert table.numeric == [False, True, True, True, False]


def test_left_out_rows_are_counted_by_reason():
    rows = [Excluded(f"p{i}", f"f.jsonl, row {i}", "too long") for i in range(7)]
    table = excluded_rows([*rows, Excluded("q", "f.jsonl, row 9", "no answer")])
    assert table["reason"].tolist() == ["too long", "no answer"]
    assert table["rows"].tolist() == [7, 1]
    assert table["which"][0].endswith("p4 (f.jsonl, row 4) and 2 more")
    assert Report("t", "l", (), excluded=table).n_excluded == 8
    assert Report("t", "l", ()).n_excluded == 0


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/usr/bin/interp", "show", "a b"], "interp show 'a b'"),
        (["study.py", "--n", "3"], "python study.py --n 3"),
        ([], ""),
    ],
)
def test_the_command_can_be_pasted_into_a_shell(argv: list[str], command: str):
    assert Report("t", "l", (), provenance={"command": argv}).command == command


def test_warnings_stand_before_the_sections():
    report = Report("t", "the lead", [Section("s", ["text"])], warnings=["lengths <differ>"])
    for text in (report.html(), report.fragment()):
        warning = text.index("<b>Mind:</b> lengths &lt;differ&gt;")
        assert text.index("the lead") < warning < text.index("<p>text</p>")


def test_a_figure_keeps_its_width_only_as_the_least():
    wide = Figure("t", "s", styled(go.Figure(), "t", width=2000, height=300))
    assert (wide.width, wide.height) == (900, 300)
    assert Figure("t", "s", go.Figure()).width == 320
    panels = make_subplots(1, 2)
    assert Figure("t", "s", panels).width == 640
    assert not {"title", "width", "template"} & set(wide.spec["layout"])


def test_data_cannot_end_the_script_that_holds_them():
    figure = go.Figure(go.Scatter(x=[1], y=[1], name="</script><script>alert(1)</script>"))
    page = Report("t", "l", [Section("s", [Figure("f", "says", figure)])]).html()
    assert page.count("</script>") == page.count("<script") and "alert(1)</" not in page


def test_unbounded_intervals_are_not_drawn():
    figure = go.Figure()
    add_band(figure, [0, 1], [0, -np.inf], [1, np.inf], GREY)
    assert not figure.data
    add_band(figure, [0, 1], [0, 1], [2, 3], GREY)
    assert list(figure.data[0].y) == [2, 3, 1, 0]
    bars = whiskers([1.0, 1.0], [0.5, -np.inf], [2.0, np.inf])
    assert bars["array"].tolist() == [1, 0] and bars["arrayminus"].tolist() == [0.5, 0]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_colours_read_in_both_schemes(scheme):
    assert contrast(scheme.ink, scheme.paper) > 7
    for colour in (*PALETTE, FOR, AGAINST, GREY):
        assert contrast(colour, scheme.paper) >= 3, colour


def test_a_notebook_cell_fetches_nothing_and_says_where_its_figures_are():
    figure = Figure("Effect <of> each cell", "says", go.Figure(go.Scatter(x=[1], y=[1])))
    table = Table("rows", pd.DataFrame({"set": ["a"], "n": [3]}))
    cell = Report("t", "l", [Section("s", [figure, table])]).fragment()
    assert "Figure: Effect &lt;of&gt; each cell. It is drawn by <code>.plot()</code>" in cell
    assert '<td class="number">3</td>' in cell
    for foreign in ("<script", "http:", "https:", "src=", "url("):
        assert foreign not in cell
