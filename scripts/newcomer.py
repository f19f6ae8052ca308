"""Do what the README says as a newcomer would: a wheel, a fresh environment, an empty folder.

    python scripts/newcomer.py

Builds the wheel, installs it with the newest versions that pyproject.toml allows (of torch, the
build in constraints.txt), and in an empty folder runs the README's Python blocks as one program and
every `interp` command with small limits. Exits with 1 if anything fails or prints something else
than it should.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "--limit": "2",
    "--n": "2",
    "--n-tokens": "2048",
    "--random": "5",
    "--n-test": "6",
    "--n-random": "3",
    "--seeds": "0",
    "--sizes": "4",
}
"""Options appended where a verb has them."""
LARGER = {"emotion run": {"--limit": "8"}}
"""What a verb cannot do with less."""
TIMEOUT = 1200  # seconds for one command


@dataclass(frozen=True)
class Done:
    """A command that was run, and what is wrong with it."""

    line: str
    seconds: float
    faults: tuple[str, ...]


def blocks(readme: str, language: str) -> list[str]:
    """The README's code blocks of a language; ``""`` for those that name none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == language]


def commands(readme: str) -> list[list[str]]:
    """Every `interp` command, in words without ``interp``."""
    lines = "\n".join(blocks(readme, "")).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("interp ")]


def run(arguments: Sequence[str | Path], cwd: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; 124 where it took too long."""
    keep = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = list(map(str, arguments))
    try:
        done = subprocess.run(
            words, cwd=cwd, env=keep, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"took longer than {TIMEOUT} s"
    return done.returncode, done.stdout, done.stderr


def installed(folder: Path) -> Path:
    """The bin folder of a fresh environment with this checkout's wheel.

    Raises:
        SystemExit: something could not be built or installed.
    """
    (torch,) = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    here = folder / "env" / "bin"
    steps: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", folder / "env"],
        [here / "python", "-m", "pip", "install", "--quiet", torch, "uv"],
        [here / "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT],
    ]
    for step in steps:
        _must(step, folder)
    (wheel,) = folder.glob("interp_circuits-*.whl")
    _must([here / "uv", "pip", "install", "--python", here / "python", wheel], folder)
    return here


def _must(step: Sequence[str | Path], cwd: Path) -> None:
    print("$", *step, flush=True)
    code, out, error = run(step, cwd)
    if code:
        sys.exit(f"{out}{error}\nexit code {code}")


def snippets_run(here: Path, cwd: Path, readme: str) -> Done:
    """The Python blocks as one program; texts quoted in their comments must be printed."""
    program = "\n".join(blocks(readme, "python"))
    started = time.perf_counter()
    code, out, error = run([here / "python", "-c", program], cwd)
    faults = [f"exit code {code}: {error[-600:]}"] if code else []
    comments = re.findall(r"#(.*)$", program, re.MULTILINE)
    promised = [text for comment in comments for text in re.findall(r'"(.+?)"', comment)]
    faults += [f"{text!r} is not printed" for text in promised if text not in out]
    return Done("the Python blocks", time.perf_counter() - started, tuple(faults))


def command_run(here: Path, cwd: Path, words: list[str]) -> Done:
    """One command with small limits and --json, and what it must leave behind."""
    named = " ".join(word for word in words[:2] if re.fullmatch("[a-z]+(-[a-z]+)*", word))
    code, shown, error = run([here / "interp", *named.split(), "--help"], cwd)
    if code:
        return Done(shlex.join(["interp", *words]), 0, (f"no help for {named!r}: {error}",))
    small = SMALL | LARGER.get(named, {})
    offered = set(re.findall(r"--[a-z-]+", shown))
    added = [word for name, value in small.items() if name in offered for word in (name, value)]
    added += ["--json"] if "--json" in offered else []
    started = time.perf_counter()
    code, out, error = run([here / "interp", *words, *added], cwd)
    faults = [f"exit code {code}: {error[-600:]}"] if code else []
    if not code:
        faults += _faults(words, out, error, cwd, "--json" in offered)
    line = shlex.join(["interp", *words, *added])
    return Done(line, time.perf_counter() - started, tuple(faults))


def _faults(words: list[str], out: str, error: str, cwd: Path, as_json: bool) -> list[str]:
    faults: list[str] = []
    for name, path in zip(words, words[1:], strict=False):
        if name in ("--out", "--ledger") and not (cwd / path).exists():
            faults.append(f"{path} was not written")
    if "Traceback" in error:
        faults.append(f"a traceback on stderr: {error[-600:]}")
    if not as_json:
        return faults if out.strip() else [*faults, "nothing is printed"]
    try:
        said = json.loads(out.splitlines()[-1])
    except (IndexError, json.JSONDecodeError) as wrong:
        return [*faults, f"the last line is not JSON ({wrong}): {out[-200:]!r}"]
    if not isinstance(said, dict) or not said:
        return [*faults, f"the last line is no JSON object with fields: {out[-200:]!r}"]
    page = said.get("page")
    if page and not (cwd / page).read_text("utf-8").lstrip().lower().startswith("<!doctype html"):
        faults.append(f"{page} is not a page")
    return faults


def strays(cwd: Path, asked: list[list[str]]) -> Done:
    """Everything in the folder is where a command was told to write, and finished."""
    told = {
        Path(path).parts[0]
        for words in asked
        for name, path in zip(words, words[1:], strict=False)
        if name in ("--out", "--ledger")
    }
    odd = sorted({entry.name for entry in cwd.iterdir()} - told)
    odd += [
        str(f.relative_to(cwd)) for f in cwd.rglob("*") if f.name.endswith((".partial", ".tmp"))
    ]
    return Done("nothing else lies in the folder", 0, tuple(f"{name} lies there" for name in odd))


def main() -> int:
    """Run everything and say what failed."""
    readme = (ROOT / "README.md").read_text("utf-8")
    asked = commands(readme)
    with tempfile.TemporaryDirectory(prefix="newcomer-") as made:
        folder, cwd = Path(made), Path(made) / "empty"
        cwd.mkdir()
        here = installed(folder)
        print(run([here / "uv", "pip", "list", "--python", here / "python"], cwd)[1])
        done: list[Done] = []
        for step in (
            lambda: snippets_run(here, cwd, readme),
            *(lambda words=words: command_run(here, cwd, words) for words in asked),
            lambda: strays(cwd, asked),
        ):
            done.append(step())
            mark = "FAILED" if done[-1].faults else "ok    "
            print(mark, f"{done[-1].seconds:6.1f} s", done[-1].line, flush=True)
            for fault in done[-1].faults:
                print(f"    {fault}", flush=True)
    failed = [one for one in done if one.faults]
    print(f"\n{len(done) - len(failed)} of {len(done)} as the README says")
    return 1 if failed or not asked else 0


if __name__ == "__main__":
    sys.exit(main())
