"""Pairs in two templates about numbered subjects, for tests of the stability of circuits."""

from typing import Any

import interp


def template_rows(n: int, first: int = 1, templates: tuple[str, str] = ("x", "y")) -> list[Any]:
    """`n` pairs, the templates in turn; subjects are w<first> and so on."""
    rows = []
    for i in range(n):
        one, other = f"w{first + i}", f"w{first + (i + 3) % n}"
        rest = ("w50 w51 w80", "w60 w61 w62 w80")[i % 2]
        rows.append(
            {
                "id": f"{first}-{i}",
                "clean": f"{one} {rest}",
                "corrupt": f"{other} {rest}",
                "answer": f"w{(3 * (first + i)) % 90}",
                "wrong_answer": f"w{(3 * (first + i) + 7) % 90}",
                "template": templates[i % 2],
                "spans": {"subject": [[0, len(one)], [0, len(other)]]},
            }
        )
    return rows


def template_pairs(
    n: int, first: int = 1, templates: tuple[str, str] = ("x", "y")
) -> interp.PromptPairs:
    """As prompt pairs."""
    return interp.PromptPairs.from_records(template_rows(n, first, templates))
