"""`Report`: what a result has to say, as one page of text, tables and figures."""

import json
import math
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.offline
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from interp.brief import brief
from interp.data.pairs import Excluded
from interp.results.folder import write_text
from interp.results.style import SCHEMES, template

PLOTLY = "plotly.min.js"
"""Written once beside the pages of a folder."""
NONE = "–"
WIDEST = 900
"""Pixels that a figure may ask for; on a narrower screen it scrolls in its own frame."""

HEADINGS = {
    "p_adjusted": "p, adjusted",
    "n_pairs": "pairs",
    "n_edges": "edges",
    "n_random": "random sets",
    "pos": "position",
    "f": "faithfulness",
    "k": "part of edges",
}
"""Column names that are not words yet."""
PROVENANCE = {"interp": "interp", "git": "Commit", "run": "Run key"}


@brief
@dataclass(frozen=True)
class Table:
    """A table of a page.

    The first column names the row; ``x``, ``x_low``, ``x_high``, or a column followed by ``low``
    and ``high``, become one with the interval in brackets. `names` are headings, `note` explains.
    """

    caption: str
    frame: pd.DataFrame
    note: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def headings(self) -> list[str]:
        """One heading per column shown."""
        return [
            self.names.get(name)
            or HEADINGS.get(name, name.replace("_", " "))
            + " [95 % interval]" * (bounds is not None)
            for name, bounds in self._columns
        ]

    @property
    def rows(self) -> list[list[str]]:
        """The cells as texts."""
        columns = [self._texts(name, bounds) for name, bounds in self._columns]
        return [list(row) for row in zip(*columns, strict=True)]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, and are aligned on the right."""
        columns: list[list[Any]] = [self.frame[name].tolist() for name, _ in self._columns]
        return [
            all(isinstance(x, int | float | np.number) and not isinstance(x, bool) for x in values)
            for values in columns
        ]

    @property
    def _columns(self) -> list[tuple[str, tuple[str, str] | None]]:
        """Columns in order, each with the names of its bounds."""
        names = [str(name) for name in self.frame.columns]
        bounds: dict[str, tuple[str, str]] = {}
        for at, name in enumerate(names):
            own = (f"{name}_low", f"{name}_high")
            if set(own) <= set(names):
                bounds[name] = own
            elif names[at + 1 : at + 3] == ["low", "high"]:
                bounds[name] = ("low", "high")
        taken = {bound for pair in bounds.values() for bound in pair}
        return [(name, bounds.get(name)) for name in names if name not in taken]

    def _texts(self, name: str, bounds: tuple[str, str] | None) -> list[str]:
        values = [cell_text(value) for value in self.frame[name].tolist()]
        if bounds is None:
            return values
        low, high = (self.frame[bound].tolist() for bound in bounds)
        return [
            text if text == NONE else f"{text} {interval(a, b)}"
            for text, a, b in zip(values, low, high, strict=True)
        ]


@dataclass(frozen=True)
class Figure:
    """A figure of a page, whose own title is not shown; `says` is also the text alternative."""

    title: str
    says: str
    plot: go.Figure

    @property
    def spec(self) -> dict[str, Any]:
        """What plotly.js draws: data and layout, without title, template and width."""
        spec = json.loads(str(self.plot.to_json()))
        layout = spec["layout"]
        for name in ("title", "template", "width"):
            layout.pop(name, None)
        top = 40 if layout.get("annotations") else 10  # panels have titles of their own
        layout["margin"] = layout.get("margin", {}) | {"t": top, "r": 16}
        return {"data": spec["data"], "layout": layout}

    @property
    def width(self) -> int:
        """Pixels below which it is not squeezed: its own width, or so much for each panel."""
        panels = sum(name.startswith("xaxis") for name in self.plot.layout.to_plotly_json())
        return min(int(self.plot.layout.width or 320 * max(1, panels)), WIDEST)

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.plot.layout.height or 450)


@brief
@dataclass(frozen=True)
class Interactive:
    """A figure with controls, drawn by a script of its own: in pages and in notebook cells.

    `script` is a JavaScript function of the element to fill and of `data`; `style` its style
    sheet, for the class `look`. `data` is what JSON holds. `says` is also the text alternative.
    """

    title: str
    says: str
    data: Any
    script: str
    style: str
    look: str


Part = str | Table | Figure | Interactive | Sequence[str]
"""A paragraph, a table, a figure, one with controls, or a list of sentences."""


@brief
@dataclass(frozen=True)
class Section:
    """Parts of a page under one heading."""

    title: str
    parts: Sequence[Part]


@brief
@dataclass(frozen=True)
class Report:
    """A page: what was measured, the outcome in a sentence or two, figures and tables.

    `method` says how to read the numbers, `warnings`, right below the lead, what to mind.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    method: Sequence[str] = ()
    excluded: pd.DataFrame = field(default_factory=lambda: excluded_rows(()))
    provenance: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @property
    def n_excluded(self) -> int:
        """How many rows were left out."""
        return sum(map(int, self.excluded["rows"].tolist()))

    @property
    def command(self) -> str:
        """The command line that made the result; empty where none is recorded."""
        given = [str(word) for word in self.provenance.get("command") or ()]
        if not given:
            return ""
        name = Path(given[0]).name
        program = ["interp"] if name in ("interp", "interp.exe") else ["python", given[0]]
        return shlex.join([*program, *given[1:]])

    @property
    def made(self) -> list[tuple[str, str]]:
        """Provenance as names and texts, without the command."""
        return [
            (PROVENANCE.get(name, name.replace("_", " ").capitalize()), cell_text(value))
            for name, value in self.provenance.items()
            if name != "command" and value not in (None, "", {}, [])
        ]

    @property
    def needs_plotly(self) -> bool:
        """Whether a figure is drawn by plotly."""
        return any(isinstance(part, Figure) for one in self.sections for part in one.parts)

    def html(self, standalone: bool = False) -> str:
        """The page, which reads plotly from the file beside it, or holds it itself."""
        inside = standalone and self.needs_plotly
        library = Markup(plotly.offline.get_plotlyjs()) if inside else None
        return _template("page").render(report=self, plotly=library, **_SHARED)

    def fragment(self) -> str:
        """Its texts, tables and controls for a notebook cell; plotly's figures are only named."""
        return _template("fragment").render(report=self, **_SHARED)

    def write(self, page: str | Path, standalone: bool = False) -> Path:
        """Write the page and, unless it is to stand alone or needs none, plotly beside it."""
        page = Path(page)
        write_text(page, self.html(standalone))
        if not self.needs_plotly:
            return page
        library, text = page.with_name(PLOTLY), plotly.offline.get_plotlyjs()
        if not standalone and not (library.is_file() and library.read_bytes() == text.encode()):
            write_text(library, text)
        return page


def excluded_rows(rows: Sequence[Excluded]) -> pd.DataFrame:
    """Rows that were left out, by reason."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        by_reason.setdefault(row.reason, []).append(f"{row.id} ({row.where})")
    counted = [
        (reason, len(ids), ", ".join(ids[:5]) + f" and {len(ids) - 5} more" * (len(ids) > 5))
        for reason, ids in by_reason.items()
    ]
    return pd.DataFrame(counted, columns=["reason", "rows", "which"])


def excluded_counts(counts: Mapping[str, int]) -> pd.DataFrame:
    """The same where only numbers are known."""
    rows = [(reason, n) for reason, n in counts.items() if n]
    return pd.DataFrame(rows, columns=["reason", "rows"])


def cell_text(value: Any) -> str:
    """A value as a reader sees it: three decimals, two digits where that would be 0."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return "; ".join(f"{str(k).replace('_', ' ')} {cell_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(cell_text, value)) or "none"
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    if value == 0:
        return "0.000"  # of -0.0, too
    return f"{value:.3f}" if 5e-4 <= abs(value) < 1e6 else f"{value:.2g}"


def interval(low: float, high: float) -> str:
    """A 95 % interval in brackets, or that there is none."""
    known = math.isfinite(low) and math.isfinite(high)
    return f"[{_number(low)}, {_number(high)}]" if known else "(no interval)"


def _kind_of(part: Part) -> str:
    kinds: dict[type, str] = {
        str: "text",
        Table: "table",
        Figure: "figure",
        Interactive: "interactive",
    }
    return kinds.get(type(part), "list")


@cache
def _template(name: str) -> Template:
    loader = FileSystemLoader(Path(__file__).with_name("pages"))
    strict: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined}
    pages = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, **strict)
    return pages.get_template(f"{name}.html")


_SHARED: dict[str, Any] = {
    "kind_of": _kind_of,
    "left_out": lambda excluded: Table("Rows that were left out", excluded),
    # may stand inside a script element
    "as_json": lambda value: Markup(
        json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    ),
    "raw": Markup,
    "new_id": lambda: f"interp-{secrets.token_hex(4)}",
    "schemes": SCHEMES,
    "templates": {name: template(one).to_plotly_json() for name, one in SCHEMES.items()},
    "plotly_file": PLOTLY,
}
