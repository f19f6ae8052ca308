"""`interp lens`: what the residual stream would predict after each layer."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.grouped import Record, command
from circuits.cli.options import InChat, JacobianOption, OnModel, PromptOption
from circuits.cli.output import print_table

app = typer.Typer()


@command(app, "interp lens --model smollm2-135m --prompt 'The capital of France is' --top 3")
def lens(
    on: OnModel,
    prompt: PromptOption,
    in_chat: InChat,
    top: Annotated[int, typer.Option(min=1, help="Number of tokens shown per depth.")] = 5,
    jacobian: JacobianOption = None,
) -> Record:
    """Show a lens at the last token: the likeliest next tokens at every depth."""
    import interp

    fitted = None if jacobian is None else interp.JacobianLens.load(jacobian)
    given = in_chat.prompt(prompt)
    found = interp.logit_lens(on.load(), given, top, at="last", jacobian=fitted)
    rows: Any = found.table().rename(columns={"predicted": "token"})
    listed = [
        {"depth": depth, "predicted": own[["token", "probability"]].to_dict("records")}
        for depth, own in rows.groupby("depth")
    ]
    last = found.tokens[0][-1]
    yield lambda: {"model": on.model, "prompt": prompt, "token": last, "depths": listed}
    both = zip(rows["token"], rows["probability"], strict=True)
    rows = rows.assign(rank=rows["rank"] + 1, shown=[f"{token!r} {p:.2f}" for token, p in both])
    table = rows.pivot(index="depth", columns="rank", values="shown").reset_index()
    title = f"next token after {escape(repr(last))}, by depth (0: the embedding) and rank"
    print_table(table, f"{found.lens}: {title}")
