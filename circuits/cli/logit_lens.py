"""`interp lens`: what the residual stream would predict after each layer."""

from typing import Annotated

import typer
from rich.markup import escape

from circuits.cli.grouped import command
from circuits.cli.options import InChat, JacobianOption, JsonOption, OnModel, PromptOption
from circuits.cli.output import print_json, print_table

app = typer.Typer()


@command(app, "interp lens --model smollm2-135m --prompt 'The capital of France is' --top 3")
def lens(
    on: OnModel,
    prompt: PromptOption,
    in_chat: InChat,
    top: Annotated[int, typer.Option(min=1, help="Number of tokens shown per depth.")] = 5,
    jacobian: JacobianOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a lens at the last token: the likeliest next tokens at every depth."""
    import pandas as pd

    import interp

    fitted = None if jacobian is None else interp.JacobianLens.load(jacobian)
    wrapped = in_chat.prompt(prompt)
    found = interp.logit_lens(on.load(), wrapped, top, at="last", jacobian=fitted)
    top_tokens = found.top.isel(prompt=0, pos=0).transpose("depth", "rank")
    read = (top_tokens[name].values for name in ("depth", "token", "probability"))
    depths = {
        int(depth): [{"token": token, "probability": p} for token, p in zip(*row, strict=True)]
        for depth, *row in zip(*read, strict=True)
    }
    last = found.tokens[0][-1]
    if as_json:
        listed = [{"depth": depth, "predicted": rows} for depth, rows in depths.items()]
        print_json({"model": on.model, "prompt": prompt, "token": last, "depths": listed})
        return
    table = [
        {"depth": depth}
        | {str(i): f"{one['token']!r} {one['probability']:.2f}" for i, one in enumerate(rows, 1)}
        for depth, rows in depths.items()
    ]
    title = (
        f"{found.lens}: next token after {escape(repr(last))}, by depth (0: the embedding) and rank"
    )
    print_table(pd.DataFrame(table), title)
