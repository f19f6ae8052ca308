"""`interp jacobian-lens`: fit the Jacobian lens of a model."""

from typing import Annotated

import typer

from circuits.cli.grouped import Record, command
from circuits.cli.options import IntoFolder, LayersOption, OnModel
from circuits.cli.options import numbers as numbers_in
from circuits.cli.output import neutral_text, print_run, print_table

app = typer.Typer()


@command(app, "interp jacobian-lens --model smollm2-135m --tokens 400 --out runs/lens")
def jacobian_lens(
    on: OnModel,
    into: IntoFolder,
    text: Annotated[
        str, typer.Option(help="Text to fit on: neutral_text, or a text file.")
    ] = "neutral_text",
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Use only the first N tokens of the text.")
    ] = None,
    passage: Annotated[
        int, typer.Option(min=1, help="Largest number of tokens per passage.")
    ] = 128,
    skip: Annotated[
        int, typer.Option(min=0, help="Number of first positions of each passage left out.")
    ] = 16,
    layers: LayersOption = None,
) -> Record:
    """Fit the Jacobian lens on text: as many backward passes per passage as the model is wide."""
    import interp

    chosen, source = numbers_in("--layers", layers), str(neutral_text(text))
    model = on.load()
    if tokens is not None:
        ends = [end for _, end in model.offsets(source)[: tokens + len(model.encode(""))]]
        source = source[: max(ends, default=0)]
    found = interp.jacobian_lens(
        model, source, chosen, n_tokens=passage, skip=skip, out=into.out, force=into.force
    )
    yield lambda: {"run": str(into.out), **found.summary()}
    print_table(found.table, str(found))
    print_run(into.out)
