"""Figures and tables over a prompt's tokens: activations, attention patterns, the logit lens."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from interp.results.style import label, styled

if TYPE_CHECKING:
    from interp.attribution.lens import LogitLens

SHOWN = 10


def token_labels(tokens: Sequence[str], positions: Sequence[int]) -> list[str]:
    """Labels of an axis: no two alike, so that equal tokens stay apart."""
    return [label(f"{p} {tokens[p].strip() or repr(tokens[p])}") for p in positions]


def plot_lens(lens: "LogitLens", prompt: int = 0) -> go.Figure:
    """Draw what the logit lens reads: the likeliest token of every depth and position.

    Colour is its probability; hovering shows the others.

    Args:
        lens: from `interp.logit_lens`.
        prompt: number of the prompt.
    """
    table = lens.table(prompt)
    depths = list(dict.fromkeys(table["depth"]))
    positions = list(dict.fromkeys(table["pos"]))
    best = table[table["rank"] == 0].set_index(["depth", "pos"])
    others = {
        key: "<br>".join(
            f"{label(repr(predicted))} {probability:.3f}"
            for predicted, probability in zip(group["predicted"], group["probability"], strict=True)
        )
        for key, group in table.groupby(["depth", "pos"])
    }
    cells = [[(depth, pos) for pos in positions] for depth in depths]
    figure = go.Figure(
        go.Heatmap(
            z=[[best.loc[cell, "probability"] for cell in row] for row in cells],
            x=token_labels(lens.tokens[prompt], positions),
            y=depths,
            text=[[label(best.loc[cell, "predicted"]) for cell in row] for row in cells],
            texttemplate="%{text}",
            textfont={"size": 11},
            customdata=[[others[cell] for cell in row] for row in cells],
            hovertemplate="depth %{y}, %{x}<br>%{customdata}<extra></extra>",
            coloraxis="coloraxis",
        )
    )
    return styled(
        figure,
        f"Logit lens on {lens.model}",
        "the likeliest next token at each depth",
        coloraxis={"cmin": 0, "cmax": 1, "colorbar": {"title": "probability"}},
        xaxis={"title": "token"},
        yaxis={"title": f"layers passed (0 = embedding, {depths[-1]} = the model's prediction)"},
        height=max(360, 140 + 22 * len(depths)),
        width=max(520, 160 + 96 * len(positions)),
    )


def activations_html(
    head: str, positions: Sequence[Sequence[int]], tokens: Sequence[Sequence[str]]
) -> str:
    """What was recorded: a line about it, and of each prompt the tokens."""
    rows = "".join(
        f"<tr><td>{i}</td><td>{len(places)}</td><td>{html.escape(_joined(row, places))}</td></tr>"
        for i, (places, row) in enumerate(zip(positions[:SHOWN], tokens[:SHOWN], strict=True))
    )
    more = len(tokens) - SHOWN
    rest = f"<p>and {more} prompts more</p>" if more > 0 else ""
    return (
        f"<p>{html.escape(head)}</p><table><tr><th>prompt</th><th>tokens recorded</th>"
        f"<th>which</th></tr>{rows}</table>{rest}"
    )


def _joined(tokens: Sequence[str], places: Sequence[int]) -> str:
    text = "|".join(tokens[p] for p in places)
    return text if len(text) <= 200 else f"{text[:200]} …"


def lens_html(lens: "LogitLens") -> str:
    """The likeliest tokens at every depth of the last position of each prompt, as a table."""
    import pandas as pd

    parts: list[Any] = []
    for number in range(min(SHOWN, len(lens.tokens))):
        table = lens.table(number)
        last = table[table["pos"] == table["pos"].max()]
        cells = last.assign(
            cell=[
                f"{t!r} {p:.3f}"
                for t, p in zip(last["predicted"], last["probability"], strict=True)
            ]
        )
        wide = pd.DataFrame(cells.pivot(index="depth", columns="rank", values="cell"))
        text = html.escape("".join(lens.tokens[number]))
        parts.append(f"<p>after <code>{text}</code></p>{wide.to_html(border=0)}")
    return f"<p>{html.escape(repr(lens))}</p>{''.join(parts)}"
