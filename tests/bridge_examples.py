"""Two-hop facts that a tiny model answers: landmarks grouped by what it says of them."""

import itertools
import json
from pathlib import Path

import interp
from interp.model.model import Model

TEMPLATE = "w40 w41 {} w42 w43"
NEUTRAL = " ".join(f"w{i * i % 39}" for i in range(60))


def written_facts(model: Model, folder: Path) -> Path:
    """A folder with facts, countries as groups of landmarks of one answer, and a neutral text."""
    words = [f"w{i}" for i in range(50, 69)]
    landmarks = [f"{a} {b}" for a, b in itertools.permutations(words, 2)][::7]
    logits = interp.forward(model, [TEMPLATE.format(one) for one in landmarks]).logits
    groups: dict[str, list[str]] = {}
    for landmark, token in zip(landmarks, logits.argmax(-1).tolist(), strict=True):
        capital = model.token(token)
        if capital not in landmark and capital.startswith("w"):
            groups.setdefault(capital, []).append(landmark)
    rows = [
        {"country": f"w{70 + i}", "capital": capital, "language": "x", "landmarks": own[:4]}
        for i, (capital, own) in enumerate(list(groups.items())[:10])
    ]
    folder.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(map(json.dumps, rows))
    (folder / "recall_facts.jsonl").write_text(lines, encoding="utf-8")
    (folder / "neutral_text.txt").write_text(NEUTRAL, encoding="utf-8")
    return folder
