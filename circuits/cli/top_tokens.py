"""`interp top-tokens`: which tokens a neuron writes for and against."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from circuits.cli.options import DeviceOption, DtypeOption, JsonOption, ModelOption
from circuits.cli.output import load, print_json, stdout

EXAMPLES = "Example: `interp top-tokens L28N1 --model smollm2-135m --top 5`"


def top_tokens(
    neuron: Annotated[str, typer.Argument(help="A neuron: L12N345, or m12.n345.")],
    model: ModelOption,
    top: Annotated[int, typer.Option(min=1, help="Number of tokens of each kind.")] = 10,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the tokens that a neuron promotes and suppresses, read off its output weights."""
    import interp
    from interp.errors import PlanError
    from interp.model.components import Component

    one = Component.parse(neuron)
    if one.kind != "neuron":
        raise PlanError(f"{neuron} is not a neuron; write L12N345, or m12.n345.")
    found = interp.top_tokens(load(model, device, dtype), "mlp_post", one.layer, one.unit, top)
    if as_json:
        print_json({"model": model, "neuron": str(one), "tokens": found.to_dict("records")})
        return
    table = Table("promoted", "logit", "suppressed", "logit", title=f"{one} of {escape(model)}")
    kinds = [found[found["effect"] == kind] for kind in ("promoted", "suppressed")]
    for pair in zip(*(kind.itertuples() for kind in kinds), strict=True):
        cells = [(escape(repr(row.token)), f"{row.logit:.2f}") for row in pair]
        table.add_row(*cells[0], *cells[1])
    stdout.print(table)
