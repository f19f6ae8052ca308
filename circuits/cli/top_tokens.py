"""`interp top-tokens`: which tokens a neuron writes for and against."""

from typing import Annotated

import pandas as pd
import typer
from rich.markup import escape

from circuits.cli.grouped import Record, command
from circuits.cli.options import OnModel
from circuits.cli.output import print_table

app = typer.Typer()


@command(app, "interp top-tokens L28N1 --model smollm2-135m --top 5")
def top_tokens(
    neuron: Annotated[str, typer.Argument(help="A neuron: L12N345, or m12.n345.")],
    on: OnModel,
    top: Annotated[int, typer.Option(min=1, help="Number of tokens of each kind.")] = 10,
) -> Record:
    """Show the tokens that a neuron promotes and suppresses, read off its output weights."""
    import interp
    from interp.errors import PlanError
    from interp.model.components import Component

    one = Component.parse(neuron)
    if one.kind != "neuron":
        raise PlanError(f"{neuron} is not a neuron; write L12N345, or m12.n345.")
    found = interp.top_tokens(on.load(), "mlp_post", one.layer, one.unit, top)
    yield lambda: {"model": on.model, "neuron": str(one), "tokens": found.to_dict("records")}
    sides = {}
    for kind in ("promoted", "suppressed"):
        side = found[found["effect"] == kind]
        tokens = [repr(token) for token in side["token"]]
        sides |= {kind: tokens, f"{kind} logit": list(side["logit"])}
    print_table(pd.DataFrame(sides), f"{one} of {escape(on.model)}")
