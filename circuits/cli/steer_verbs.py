"""`interp steer`: vectors from contrast pairs, text steered with them, and GGUF control vectors."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.grouped import Record, command
from circuits.cli.options import InChat, Into, LayersOption, OnModel, PromptOption, choice, numbers
from circuits.cli.output import print_run, print_table, stdout
from interp.errors import PlanError, shown

if TYPE_CHECKING:
    from interp import SteeringVector

app = typer.Typer(help="Make steering vectors, write text with them, export them.")

METHODS = ("mean", "pca_diff", "pca_center")
VectorArgument = Annotated[
    Path, typer.Argument(help="Folder of `interp steer make`, or a GGUF control vector.")
]


@command(app, "interp steer make --model smollm2-135m --pairs mood_contrasts --out runs/mood")
def make(
    on: OnModel,
    pairs: Annotated[
        str,
        typer.Option(help="Contrast pairs: mood_contrasts, or a JSONL file of positive, negative."),
    ],
    into: Into,
    layers: LayersOption = None,
    method: Annotated[str, choice(METHODS, "How the direction of a layer is found.")] = "mean",
    at: Annotated[
        str, choice(("last", "prompt"), "Read the last token, or the mean over all but the first.")
    ] = "last",
) -> Record:
    """Make a steering vector from contrast pairs, for each layer."""
    import interp
    from interp.results.run_folder import fingerprint, identity, in_one_piece

    rows = interp.load_contrast_pairs(pairs)
    chosen: dict[str, Any] = {"layers": numbers("--layers", layers), "method": method, "at": at}
    loaded = on.load()

    named = chosen | {"pairs": fingerprint([list(pair) for pair in rows])} | identity(loaded)
    made = partial(interp.steering_vector, loaded, rows, **chosen)
    found = in_one_piece(into.out, "steer make", named, made, interp.SteeringVector, into.force)
    yield lambda: {"run": into.run} | found.summary()
    print_table(found.table(), f"{found.n_pairs} contrast pairs on {escape(on.model)}")
    print_run(into.out)


@command(
    app,
    "interp steer generate runs/mood --model smollm2-135m --prompt 'This morning I' --dose 0.15 "
    "--norm --layers 10-20 --hold 12 --half-life 4",
)
def generate(
    vector: VectorArgument,
    on: OnModel,
    prompt: PromptOption,
    in_chat: InChat,
    dose: Annotated[
        float, typer.Option(help="Times the vector; below 0 for the other side.")
    ] = 1.0,
    layers: LayersOption = None,
    norm: Annotated[
        bool, typer.Option("--norm", help="The dose is in units of the norm of the stream.")
    ] = False,
    arrive: Annotated[
        bool, typer.Option("--arrive", help="Add only what is missing until the dose is there.")
    ] = False,
    hold: Annotated[
        str | None,
        typer.Option(help="New tokens at the full dose: a number, or 'sentence' for the first."),
    ] = None,
    half_life: Annotated[
        float | None,
        typer.Option(help="Tokens after which the dose halves behind --hold; by default it ends."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Largest number of tokens generated.")
    ] = 30,
) -> Record:
    """Continue a prompt by the likeliest tokens, as it is and steered from its last token on."""
    import interp

    if hold is not None and hold != "sentence" and not hold.isdecimal():
        raise PlanError(f"--hold {shown(hold)}: give a number of tokens, or 'sentence'.")
    own = read_vector(vector) if dose >= 0 else -read_vector(vector)
    options: dict[str, Any] = {
        "relative": "norm" if norm else None,
        "arrive": arrive,
        "hold": int(hold) if hold is not None and hold.isdecimal() else hold,
        "half_life": half_life,
        "positions": "generating",
    }
    plan = own.plan(abs(dose), numbers("--layers", layers), **options)
    loaded = on.load()
    given = in_chat.prompt(prompt)
    texts = {
        kind: interp.generate(loaded, given, steps, max_new_tokens, progress=False)[0].text
        for kind, steps in {"plain": (), "steered": plan}.items()
    }
    yield lambda: {"model": on.model, "vector": str(vector), "prompt": prompt} | texts
    for kind, text in texts.items():
        stdout.print(f"[bold]{kind}[/bold]: {escape(repr(text))}", soft_wrap=True)


@command(app, "interp steer export runs/mood --out happy.gguf --layers 10-20 --dose 0.5")
def export(
    vector: VectorArgument,
    out: Annotated[Path, typer.Option(help="GGUF file to write.")],
    layers: Annotated[
        str | None, typer.Option(help="Layers to write, such as 4,8-11; by default all but 0.")
    ] = None,
    dose: Annotated[float, typer.Option(help="Factor that the file's vectors are times.")] = 1.0,
) -> Record:
    """Write a steering vector as a control vector of llama.cpp, which adds it at every token."""
    own, some = read_vector(vector), numbers("--layers", layers)
    written = own.only(some or [layer for layer in own.layers if layer] or own.layers)
    left_out = [0] if some is None and written.layers != own.layers else []
    path = written.export_gguf(out, dose)
    yield lambda: {"file": str(path), "layers": list(written.layers), "left_out": left_out}
    stdout.print(f"wrote {path}", soft_wrap=True, markup=False)
    if left_out:
        stdout.print("layer 0 is left out: llama.cpp's format has no place for it", soft_wrap=True)


def read_vector(path: Path) -> "SteeringVector":
    """A steering vector from a folder or a GGUF file; errors as of its readers."""
    from interp import SteeringVector

    return SteeringVector.import_gguf(path) if path.is_file() else SteeringVector.load(path)
