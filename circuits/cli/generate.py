"""`interp generate`: how a model continues a prompt, with and without some components."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from circuits.cli.grouped import Record, command
from circuits.cli.options import InChat, OnModel, PromptOption, names_in
from circuits.cli.output import stdout

if TYPE_CHECKING:
    from interp import Model, Plan

app = typer.Typer()


@command(
    app,
    "interp generate --model smollm2-135m --prompt 'The capital of France is' --ablate L23H4,m5",
    "interp generate --model smollm2-135m --prompt 'Name a fruit.' --chat --system 'Use one word.' "
    "--json",
)
def generate(
    on: OnModel,
    prompt: PromptOption,
    in_chat: InChat,
    ablate: Annotated[
        str | None,
        typer.Option(
            help="Components set to zero at every token, with commas: a3.h1 or L3H1 a head, a3 all "
            "heads of a layer, m5 an MLP, m5.n17 a neuron, m5.e2 an expert."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Largest number of tokens generated.")
    ] = 20,
) -> Record:
    """Continue a prompt by the likeliest tokens; with --ablate, also without these components."""
    import interp
    from interp.model.components import refuse_unreadable

    names = names_in(ablate or "")
    refuse_unreadable(names)
    loaded = on.load()
    given = in_chat.prompt(prompt)
    plans = {"intact": interp.Plan(), **({"ablated": _zeroed(loaded, names)} if names else {})}
    texts = {
        kind: interp.generate(loaded, given, plan, max_new_tokens, progress=False)[0].text
        for kind, plan in plans.items()
    }
    asked = {"model": on.model, "prompt": prompt, "chat": not isinstance(given, str)}
    yield lambda: asked | {"components": names, "ablated": None} | texts
    for kind, text in texts.items():
        stdout.print(f"[bold]{kind}[/bold]: {escape(repr(text))}", soft_wrap=True)


def _zeroed(model: "Model", names: list[str]) -> "Plan":
    """Zero ablation of each component, at every token of the prompt and every new one."""
    import interp
    from interp.model.components import SITE_OF, components_of

    steps: list[interp.Ablate] = []
    for one in components_of(model, names):
        units = None if one.kind == "mlp" else one.unit
        steps.append(interp.Ablate(SITE_OF[one.kind], layers=one.layer, units=units))
    return interp.Plan.of(*steps)
