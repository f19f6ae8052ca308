"""`interp edit`: write facts into a model, ask it, take them out, list and export them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli import edit_evaluation, edit_layers
from circuits.cli.options import (
    N_TOKENS,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    PlacementOption,
    TokensOption,
    choice,
)
from circuits.cli.output import load, print_json, print_table, stdout
from circuits.editing.method_names import INFORMED, METHODS
from interp.progress import bar

if TYPE_CHECKING:
    from circuits.editing import Edit, Fact

app = typer.Typer(
    name="edit", help="Write facts into a model's weights, and judge it.", no_args_is_help=True
)
app.command("evaluate", epilog=edit_evaluation.EXAMPLES)(edit_evaluation.evaluate)
app.command("place", epilog=edit_layers.EXAMPLE)(edit_layers.place)
EXAMPLES = (
    "Examples:\n\n"
    "`interp edit apply --model smollm2-135m --prompt 'The capital of {} is' --subject France "
    "--target Rome --method rome --ledger runs/edits`\n\n"
    "`interp edit ask --model smollm2-135m --ledger runs/edits --ask 'Which city is the "
    "capital of France?'`"
)
LedgerOption = Annotated[
    Path, typer.Option(help="Folder that holds the edits, in the order they were made.")
]
AskOption = Annotated[
    list[str] | None,
    typer.Option(help="A question to ask before and after the edit; may be repeated."),
]


@app.command("apply", epilog=EXAMPLES)
def apply(
    model: ModelOption,
    ledger: LedgerOption,
    facts: Annotated[
        str | None,
        typer.Option(
            help="JSON file with a list of facts: prompt with {}, subject, target, question."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="One fact: its prompt, with {} for the subject.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="One fact: its subject.")] = None,
    target: Annotated[str | None, typer.Option(help="One fact: the new answer.")] = None,
    method: Annotated[
        str,
        choice((*METHODS, *INFORMED), "Editing method; with +, it gets the prompts that ace gets."),
    ] = "ace",
    kept: Annotated[
        str | None,
        typer.Option(
            help="JSON file with a list of questions whose answers must not change: text, subject, "
            "relation, and related (true if it could be asked of the edited subject, "
            "too)."
        ),
    ] = None,
    placement: PlacementOption = None,
    ask: AskOption = None,
    n_tokens: TokensOption = N_TOKENS,
    seed: Annotated[int, typer.Option(help="Random seed for contexts and samples.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Edit the model on top of the edits in the ledger, and add the new edit to it."""
    from circuits.editing import edit
    from circuits.editing.files import edits_in, load_facts, load_kept, next_folder
    from circuits.editing.placement import placement_for
    from interp.results.run_folder import RunFolder, fingerprint, identity

    given = _facts(facts, prompt, subject, target, load_facts)
    to_stay = load_kept(kept) if kept else []
    carried = edits_in(ledger)
    loaded = load(model, device, dtype)
    for one in carried:
        one.apply(loaded)
    at = placement_for(loaded, placement, method)
    named = {"method": method, "facts": fingerprint(given), "kept": fingerprint(to_stay)}
    named |= {"n_tokens": n_tokens, "seed": seed} | identity(loaded)
    with RunFolder.open(next_folder(ledger), "edit apply", named) as run:
        questions = ask or []
        before = _asked(loaded, questions)
        with bar("second moments", "tokens") as report:
            made = edit(
                loaded,
                given,
                method,
                kept=to_stay,
                placement=at,
                n_tokens=n_tokens,
                seed=seed,
                progress=report,
            )
        made.apply(loaded)
        said = zip(questions, before, _asked(loaded, questions), strict=True)
        asked = [{"question": q, "before": b, "after": a} for q, b, a in said]
        answers = _continued(loaded, given)
        run.finish(made.save)
    _say(made, run.out, as_json, answers=answers, asked=asked)


@app.command(
    "ask",
    epilog="Example: `interp edit ask --model smollm2-135m --ledger runs/edits --ask 'Which city "
    "is the capital of France?'`",
)
def ask_edited(
    model: ModelOption,
    ledger: LedgerOption,
    ask: Annotated[
        list[str],
        typer.Option(help="A question to ask without and with the edits; may be repeated."),
    ],
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask questions of the model without and with all edits of the ledger."""
    from circuits.editing.files import edits_in

    edits = edits_in(ledger)
    loaded = load(model, device, dtype)
    before = _asked(loaded, ask)
    for one in edits:
        one.apply(loaded)
    said = zip(ask, before, _asked(loaded, ask), strict=True)
    asked = [{"question": q, "before": b, "after": a} for q, b, a in said]
    if as_json:
        edited = [one.id for one in edits]
        print_json({"model": model, "ledger": str(ledger), "edits": edited, "asked": asked})
    else:
        stdout.print(f"with {len(edits)} edits of {ledger}:", highlight=False, markup=False)
        _print_asked(asked)


def _print_asked(asked: list[dict[str, str]]) -> None:
    for one in asked:
        line = f"{one['question']} before: {one['before']!r}, after: {one['after']!r}"
        stdout.print(escape(line), highlight=False, soft_wrap=True)


@app.command("undo", epilog="Example: `interp edit undo --ledger runs/edits`")
def undo(
    ledger: LedgerOption,
    edit: Annotated[str | None, typer.Option(help="Id of the edit; by default the last.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take an edit out of the ledger."""
    from circuits.editing.files import removed
    from interp.results.folder import discard

    one, at = removed(ledger, edit)
    discard(at)
    _say(one, at, as_json, word="undone")


@app.command("list", epilog="Example: `interp edit list --ledger runs/edits --json`")
def list_edits(ledger: LedgerOption, as_json: JsonOption = False) -> None:
    """List the edits of a ledger, in order."""
    import pandas as pd

    from circuits.editing.files import edits_in

    edits = edits_in(ledger)
    if as_json:
        print_json({"ledger": str(ledger), "edits": [one.summary() for one in edits]})
        return
    rows = [
        {
            "edit": one.id,
            "model": one.model,
            "method": one.method,
            "facts": "; ".join(f.cloze + " " + f.target for f in one.facts),
        }
        for one in edits
    ]
    print_table(pd.DataFrame(rows, columns=["edit", "model", "method", "facts"]), str(ledger))


@app.command(
    "export",
    epilog="Example: `interp edit export --model smollm2-135m --ledger runs/edits --out "
    "runs/edited`",
)
def export_model(
    model: ModelOption,
    ledger: LedgerOption,
    out: Annotated[Path, typer.Option(help="New folder for the edited model.")],
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the model with all edits of the ledger as an ordinary Hugging Face folder."""
    from circuits.editing import export
    from circuits.editing.files import edits_in

    edits = edits_in(ledger)
    loaded = load(model, device, dtype)
    for one in edits:
        one.apply(loaded)
    at = export(loaded, out)
    if as_json:
        print_json({"model": str(at), "edits": [one.id for one in edits]})
    else:
        stdout.print(f"{len(edits)} edits in {escape(str(at))}", highlight=False)


def _facts(
    file: str | None, prompt: str | None, subject: str | None, target: str | None, read: Any
) -> "list[Fact]":
    from circuits.editing import Fact
    from interp.errors import DataError

    one = (prompt, subject, target)
    if (file is None) == (one == (None, None, None)):
        raise DataError("give either --facts, or --prompt, --subject and --target.")
    if file is not None:
        return read(file)
    if prompt is None or subject is None or target is None:
        raise DataError("one fact needs all three of --prompt, --subject and --target.")
    return [Fact(prompt, subject, target)]


def _continued(model: Any, facts: "list[Fact]") -> list[str]:
    """What the model makes of each fact's cloze."""
    from circuits.editing.asking import Ask, generations

    return generations(model, [Ask(0, fact.cloze, n_tokens=5) for fact in facts], [()])


def _asked(model: Any, questions: list[str]) -> list[str]:
    """The model's answers, behind the demonstrations of the evaluation."""
    from circuits.editing.asking import asking, generations
    from circuits.editing.evaluation import SHOTS

    asks = [asking(SHOTS, text) for text in questions]
    return [SHOTS.read(said) for said in generations(model, asks, [()])]


def _say(
    edit: "Edit",
    at: Path,
    as_json: bool,
    word: str = "applied",
    answers: list[str] | None = None,
    asked: list[dict[str, str]] | None = None,
) -> None:
    if as_json:
        told = {"run": str(at), "state": word, **edit.summary()}
        print_json(told | {"answers": answers, "asked": asked or []})
        return
    for i, fact in enumerate(edit.facts):
        said = f": now {answers[i]!r}" if answers else ""
        stdout.print(
            f"{word} {edit.id}: {escape(fact.cloze)} {escape(fact.target)}{escape(said)}",
            highlight=False,
        )
    _print_asked(asked or [])
    for note in edit.skipped:
        stdout.print(f"[dim]left out: {escape(note)}[/dim]", highlight=False)
    stdout.print(f"edit folder: {at}", highlight=False, soft_wrap=True, markup=False)
