"""The conformance table: a tiny random model of every causal language model class, checked.

    python scripts/conformance.py                     # all, about six minutes on one core
    python scripts/conformance.py llama mixtral       # some
    python scripts/conformance.py --write             # the table in docs/models.md, from the rows

Each class runs in a process of its own with a time limit. Rows go to a file of JSON lines; a run
goes on where it was stopped, and `--again` starts over.
"""

import argparse
import json
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the tiny models and their checks are the tests' own
PAGE = ROOT / "docs" / "models.md"
MARKS = ("<!-- conformance: written by scripts/conformance.py -->", "<!-- end of conformance -->")
ROWS = ROOT / "runs" / "conformance.jsonl"
SECONDS = 60
"""Time limit of one class."""


def row_of(model_type: str) -> dict[str, Any]:
    """Everything the table says of a model type."""
    from conformance.checks import conformance
    from conformance.tiny_models import CLASSES, tiny_model, word_tokenizer

    import interp
    from interp.errors import InterpError, first_line

    row: dict[str, Any] = {"type": model_type, "class": CLASSES[model_type]}
    try:
        hf = tiny_model(model_type)
    except Exception as error:
        return row | {"state": "not built", "reason": first_line(error)}
    row["parameters"] = sum(parameter.numel() for parameter in hf.parameters())
    try:
        model = interp.load_model(hf, tokenizer=word_tokenizer())
    except InterpError as error:
        return row | {"state": "refused", "reason": str(error)}
    except Exception as error:
        return row | {"state": "fails", "reason": first_line(error)}
    arch = model.arch
    sites = {name: list(arch.layers_with(name)) for name in interp.SITES}
    reasons = {
        name: dict.fromkeys(block.missing[name] for block in arch.layers if name in block.missing)
        for name in interp.SITES
    }
    return row | {
        "state": "loads",
        "layers": arch.n_layers,
        "sites": {name: layers for name, layers in sites.items() if layers},
        "missing": {name: "; ".join(whys) for name, whys in reasons.items() if whys},
        "checks": [asdict(outcome) for outcome in conformance(model)],
    }


def in_own_process(model_type: str, seconds: int) -> dict[str, Any]:
    """`row_of` in a fork with a time limit; a crash or a hang is a row, too."""
    started = time.monotonic()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(read)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        with os.fdopen(write, "w") as out, Path(os.devnull).open("w") as devnull:
            os.dup2(devnull.fileno(), 1)
            os.dup2(devnull.fileno(), 2)
            out.write(json.dumps(row_of(model_type)))
            out.flush()
        os._exit(0)
    os.close(write)

    def stop(*_: Any) -> None:
        os.killpg(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(2 * seconds)
    with os.fdopen(read) as result:
        text = result.read()
    signal.alarm(0)
    _, status = os.waitpid(child, 0)
    took = {"seconds": round(time.monotonic() - started, 2)}
    if text:
        return json.loads(text) | took
    from conformance.tiny_models import CLASSES

    code = os.waitstatus_to_exitcode(status)
    why = f"took more than {seconds} s" if -code in (signal.SIGXCPU, signal.SIGKILL) else "crashed"
    return {
        "type": model_type,
        "class": CLASSES[model_type],
        "state": "fails",
        "reason": why,
    } | took


def said(row: dict[str, Any]) -> str:
    """A row in a line."""
    checks = "  ".join(
        f"{one['check']} {one['state']}"
        + (f" {one['difference']:.1e}" if one["difference"] is not None else f" ({one['detail']})")
        for one in row.get("checks", [])
    )
    return f"{row['type']} [{row['seconds']} s] {row['state']} {row.get('reason', '')}{checks}"


# --- the table ---------------------------------------------------------------------------------


CHECKS = ("patch", "heads", "mlp", "neurons", "attribution", "edges", "generation", "experts")
RARE = ("expert", "router", "shared", "q_latent", "kv_latent", "mixer_gate")
"""Sites of mixtures of experts, latent attention and gated mixers, which other models lack."""
TAIL = re.compile(r"(; TransformerLens has no adapter for it either|; interp works with).*")
LONGEST = 400
ALWAYS = ("patch", "attribution", "generation")
"""Checks that no model that loads may refuse, to pass."""


def passes(row: dict[str, Any]) -> bool:
    """Whether everything that applies to a model type is equal."""
    states = {one["check"]: one["state"] for one in row.get("checks", [])}
    right = all(state in ("equal", "refused") for state in states.values())
    return bool(states) and right and all(states[name] == "equal" for name in ALWAYS)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: what was found in all, and a line per model type."""
    states = Counter(row["state"] for row in rows)
    classes = {row["class"] for row in rows}
    good = {row["class"] for row in rows if passes(row)}
    worst = max(
        (one["difference"] or 0 for row in rows if passes(row) for one in row["checks"]), default=0
    )
    head = (
        f"{len(rows)} model types, {len(classes)} classes (transformers {version('transformers')},"
        f" torch {version('torch').partition('+')[0]}): {len(good)} classes pass everything that "
        f"applies to them, with a largest difference of {worst:.0e}; {states['refused']} model "
        f"types are refused with a reason, {states['not built']} transformers does not build from "
        f"its own default settings, and {sum(map(fails, rows))} fail."
    )
    lines = [
        head,
        "",
        f"| model type | {' | '.join(CHECKS)} | missing sites, and what else does not apply |",
        f"|---{'|---' * len(CHECKS)}|---|",
    ]
    return "\n".join(lines + [line(row) for row in sorted(rows, key=lambda row: row["type"])])


def fails(row: dict[str, Any]) -> bool:
    """Whether a number is wrong or a foreign error came."""
    wrong = any(one["state"] in ("differs", "fails") for one in row.get("checks", []))
    return wrong or row["state"] == "fails"


def line(row: dict[str, Any]) -> str:
    """A model type's line."""
    checks = {one["check"]: one for one in row.get("checks", [])}
    cells = [cell(checks.get(name)) for name in CHECKS]
    if row["state"] != "loads":
        why = f"{row['state']}: {TAIL.sub('', row['reason']).removeprefix(row['class'] + ': ')}"
    else:
        why = "; ".join(missing(row)) or "–"
    text = why.replace("|", "/").replace("\n", " ")
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return f"| `{row['type']}` | {' | '.join(cells)} | {text} |"


def cell(one: dict[str, Any] | None) -> str:
    """A check's outcome: the largest difference, or a dash where it does not apply."""
    if one is None or one["state"] == "refused":
        return "–"
    if one["state"] == "fails":
        return "**fails**"
    text = f"{one['difference']:.0e}" if one["difference"] else "0"
    return text if one["state"] == "equal" else f"**{text}**"


def missing(row: dict[str, Any]) -> list[str]:
    """Sites that no or only some layers have, those of one reason together; edges' reason."""
    by_reason: dict[str, list[str]] = {}
    for name, why in row["missing"].items():
        if name.startswith(RARE) and (name not in row["sites"] or "no mixture" in why):
            continue
        layers = row["sites"].get(name, [])
        there = f" (in {len(layers)} of {row['layers']} layers)" if layers else ""
        by_reason.setdefault(why, []).append(f"`{name}`{there}")
    found = [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]
    for one in row["checks"]:
        if one["check"] in ("edges", *ALWAYS) and one["state"] == "refused":
            found.append(f"{one['check']}: {one['detail']}")
        if one["state"] in ("differs", "fails"):
            found.append(f"**{one['check']}**: {one['detail']}")
    return found


def write(rows: list[dict[str, Any]]) -> None:
    """Put the table between its marks in the page."""
    before, mark, rest = PAGE.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        sys.exit(f"{PAGE} has no marks {MARKS[0]} … {MARKS[1]}")
    PAGE.write_text(f"{before}{mark}\n{table(rows)}\n{end}{after}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", help="Model types; by default all of the mapping.")
    parser.add_argument("--rows", type=Path, default=ROWS, help="File of JSON lines.")
    parser.add_argument("--again", action="store_true", help="Start over.")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="Time limit of one class.")
    parser.add_argument("--write", action="store_true", help="Write the table to docs/models.md.")
    options = parser.parse_args()
    if options.again:
        options.rows.unlink(missing_ok=True)
    lines = options.rows.read_text().splitlines() if options.rows.exists() else []
    done = {row["type"]: row for row in map(json.loads, lines)}
    if options.write:
        write(list(done.values()))
        return
    import transformers
    from conformance.tiny_models import CLASSES, tiny_model, word_tokenizer

    import interp.loading.load

    transformers.logging.set_verbosity_error()
    interp.load_model(tiny_model("llama"), tokenizer=word_tokenizer())  # what forks shall share
    wanted = options.types or list(CLASSES)
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    with options.rows.open("a") as out:
        for model_type in wanted:
            if model_type in done and not options.types:
                continue
            row = in_own_process(model_type, options.seconds)
            out.write(json.dumps(row) + "\n")
            out.flush()
            print(said(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
