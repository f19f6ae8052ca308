"""Write ``capital_questions.jsonl``: one question per country of ``country_capitals``.

python datasets/build/capital_questions.py
"""

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent
TEMPLATE = "The capital of {} is the city of"


def questions() -> list[dict[str, object]]:
    """The countries in the order in which ``country_capitals`` first asks for their capital."""
    capitals: dict[str, str] = {}
    for line in (FOLDER / "country_capitals.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        for prompt, country, answer in zip(
            (row["clean"], row["corrupt"]),
            row["spans"]["subject"],
            (row["answer"], row["wrong_answer"]),
            strict=True,
        ):
            capitals.setdefault(f"the {country}" if f"the {country}" in prompt else country, answer)
    return [
        {
            "id": f"capital-of-{country.removeprefix('the ').replace(' ', '-').lower()}",
            "prompt": TEMPLATE.format(country),
            "answer": capital,
            "label": "capital",
            "cluster": country.removeprefix("the "),
            "spans": {"subject": country.removeprefix("the ")},
        }
        for country, capital in capitals.items()
    ]


if __name__ == "__main__":
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in questions())
    (FOLDER / "capital_questions.jsonl").write_text("".join(lines), encoding="utf-8")
