"""`interp doctor`: what is installed here, and was it tested?"""

import platform
import shutil
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from circuits.cli.grouped import Record, command
from circuits.cli.output import stdout

app = typer.Typer()


@command(app, "interp doctor")
def doctor() -> Record:
    """Show versions (and whether they were tested), CUDA, the cache, free memory and disk."""
    report = examine()
    yield lambda: report
    table = Table("package", "version", "tested", "within")
    for row in report["versions"]:
        mark = {True: "[green]yes[/green]", False: "[red]NO[/red]", None: "–"}[row["within"]]
        table.add_row(row["name"], row["version"] or "not installed", row["tested"], mark)
    stdout.print(table)
    cache = report["cache"]
    pulled = ", ".join(cache["pulled"]) or "no model"
    lines = [
        f"platform: {report['platform']}",
        f"CUDA: {', '.join(report['cuda']) or 'none, so models run on the CPU'}",
        f"cache: {cache['folder']} (pulled: {pulled})",
        f"free: {report['free_memory_gb']:.1f} GB of memory, {report['free_disk_gb']:.1f} GB of "
        "disk at the cache",
        *report["warnings"],
    ]
    for line in lines:
        stdout.print(escape(line), soft_wrap=True)


def examine() -> dict[str, Any]:
    """All that `interp doctor` shows."""
    import psutil
    import torch

    from interp.loading import builtin

    versions, folder = _versions(), builtin.cache_dir()
    pulled = [name for name in builtin.BUILTIN if builtin.is_cached(name)]
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return {
        "versions": versions,
        "platform": platform.platform(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cache": {"folder": str(folder), "pulled": pulled},
        "free_memory_gb": psutil.virtual_memory().available / 1e9,
        "free_disk_gb": shutil.disk_usage(there).free / 1e9,
        "warnings": [_warning(row) for row in versions if row["within"] is False],
    }


def _versions() -> list[dict[str, Any]]:
    from interp.loading.tested import TESTED, installed, was_tested

    rows = []
    for name, ends in TESTED.items():
        version = platform.python_version() if name == "python" else installed(name)
        within = None if version is None else was_tested(name, version)
        tested = " to ".join(dict.fromkeys(ends))
        rows.append({"name": name, "version": version, "tested": tested, "within": within})
    return rows


def _warning(row: dict[str, Any]) -> str:
    return (
        f"{row['name']} {row['version']} was not tested with interp ({row['tested']} was): run "
        "'interp validate' on your model before you trust a number."
    )
