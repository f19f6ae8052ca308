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
from circuits.editing.methods import INFORMED, METHODS
from interp.progress import bar

if TYPE_CHECKING:
    from circuits.editing import Edit, Fact

app = typer.Typer(
    name="edit", help="Write facts into a model's weights, and evaluate it.", no_args_is_help=True
)
app.command("evaluate", epilog=edit_evaluation.EXAMPLES)(edit_evaluation.evaluate)
app.command("place", epilog=edit_layers.EXAMPLE)(edit_layers.place)
EXAMPLE = "Example: `interp edit {} --ledger runs/edits{}`"
ON_MODEL = "{} --model smollm2-135m"
ASKED = " --ask 'Which city is the capital of France?'"
EXAMPLES = (
    "Examples:\n\n"
    "`interp edit apply --model smollm2-135m --prompt 'The capital of {} is' --subject France "
    f"--target Rome --method rome --ledger runs/edits`\n\n`interp edit {ON_MODEL.format('ask')} "
    f"--ledger runs/edits{ASKED}`"
)
LedgerOption = Annotated[
    Path, typer.Option(help="Folder that holds the edits, in the order they were made.")
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
            "relation, and related (true if it could be asked of the edited subject, too)."
        ),
    ] = None,
    placement: PlacementOption = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(help="A question to ask before and after the edit; may be repeated."),
    ] = None,
    n_tokens: TokensOption = N_TOKENS,
    seed: Annotated[int, typer.Option(help="Random seed for contexts and samples.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Edit the model on top of the edits in the ledger, and add the new edit to it."""
    from circuits.editing import edit
    from circuits.editing.fact import load_preserved
    from circuits.editing.layer_selection import selection_for
    from circuits.editing.ledger_folder import LedgerFolder
    from interp.results.run_folder import RunFolder
    from interp.results.run_key import fingerprint, identity

    given = _facts(facts, prompt, subject, target)
    preserve = load_preserved(kept) if kept else []
    before = LedgerFolder.load(ledger)
    loaded = load(model, device, dtype)
    for one in before.edits:
        one.apply(loaded)
    layers = selection_for(loaded, placement, method)
    named = {"method": method, "facts": fingerprint(given), "kept": fingerprint(preserve)}
    named |= {"n_tokens": n_tokens, "seed": seed} | identity(loaded)
    with RunFolder.open(before.next, "edit apply", named) as run:
        first = _answers(loaded, ask or [])
        with bar("second moments", "tokens") as report:
            made = edit(
                loaded,
                given,
                method,
                preserve=preserve,
                layers=layers,
                n_tokens=n_tokens,
                seed=seed,
                progress=report,
            )
        made.apply(loaded)
        asked = _compared(ask or [], first, _answers(loaded, ask or []))
        answers = _continued(loaded, given)
        run.finish(made.save)
    _print_edit(made, run.out, as_json, answers=answers, asked=asked)


@app.command("ask", epilog=EXAMPLE.format(ON_MODEL.format("ask"), ASKED))
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
    from circuits.editing.ledger_folder import LedgerFolder

    edits = LedgerFolder.load(ledger).edits
    loaded = load(model, device, dtype)
    first = _answers(loaded, ask)
    for one in edits:
        one.apply(loaded)
    asked = _compared(ask, first, _answers(loaded, ask))
    if as_json:
        edited = [one.id for one in edits]
        print_json({"model": model, "ledger": str(ledger), "edits": edited, "asked": asked})
    else:
        stdout.print(f"with {len(edits)} edits of {ledger}:", highlight=False, markup=False)
        _print_asked(asked)


@app.command("undo", epilog=EXAMPLE.format("undo", ""))
def undo(
    ledger: LedgerOption,
    edit: Annotated[str | None, typer.Option(help="Id of the edit; by default the last.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take an edit out of the ledger."""
    from circuits.editing.ledger_folder import LedgerFolder
    from interp.results.folder import discard

    one, at = LedgerFolder.load(ledger).removable(edit)
    discard(at)
    _print_edit(one, at, as_json, state="undone")


@app.command("list", epilog=EXAMPLE.format("list", " --json"))
def list_edits(ledger: LedgerOption, as_json: JsonOption = False) -> None:
    """List the edits of a ledger, in order."""
    import pandas as pd

    from circuits.editing.ledger_folder import LedgerFolder

    found = LedgerFolder.load(ledger)
    if as_json:
        print_json(found.summary())
        return
    rows = [one.summary() for one in found.edits]
    table = pd.DataFrame(rows, columns=["edit", "model", "method", "facts"])
    print_table(table.assign(facts=["; ".join(row["facts"]) for row in rows]), str(ledger))


@app.command("export", epilog=EXAMPLE.format(ON_MODEL.format("export"), " --out runs/edited"))
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
    from circuits.editing.ledger_folder import LedgerFolder

    edits = LedgerFolder.load(ledger).edits
    loaded = load(model, device, dtype)
    for one in edits:
        one.apply(loaded)
    at = export(loaded, out)
    if as_json:
        print_json({"model": str(at), "edits": [one.id for one in edits]})
    else:
        stdout.print(f"{len(edits)} edits in {escape(str(at))}", highlight=False)


def _facts(
    file: str | None, prompt: str | None, subject: str | None, target: str | None
) -> "list[Fact]":
    from circuits.editing.fact import Fact, load_facts
    from interp.errors import DataError

    one = (prompt, subject, target)
    if (file is None) == (one == (None, None, None)):
        raise DataError("give either --facts, or --prompt, --subject and --target.")
    if file is not None:
        return load_facts(file)
    if prompt is None or subject is None or target is None:
        raise DataError("one fact needs all three of --prompt, --subject and --target.")
    return [Fact(prompt, subject, target)]


def _continued(model: Any, facts: "list[Fact]") -> list[str]:
    """What the model makes of each fact's cloze."""
    from circuits.editing.evaluation.edited_models import Ask, generations

    return generations(model, [Ask(0, fact.cloze, n_tokens=5) for fact in facts], [()])


def _answers(model: Any, questions: list[str]) -> list[str]:
    """The model's answers, behind the demonstrations of the evaluation."""
    from circuits.editing.evaluation.demonstrations import SHOTS
    from circuits.editing.evaluation.edited_models import asking, generations

    asks = [asking(SHOTS, text) for text in questions]
    return [SHOTS.read(reply) for reply in generations(model, asks, [()])]


def _compared(questions: list[str], before: list[str], after: list[str]) -> list[dict[str, str]]:
    rows = zip(questions, before, after, strict=True)
    return [{"question": q, "before": b, "after": a} for q, b, a in rows]


def _print_asked(asked: list[dict[str, str]]) -> None:
    for one in asked:
        line = f"{one['question']} before: {one['before']!r}, after: {one['after']!r}"
        stdout.print(escape(line), highlight=False, soft_wrap=True)


def _print_edit(
    edit: "Edit",
    at: Path,
    as_json: bool,
    state: str = "applied",
    answers: list[str] | None = None,
    asked: list[dict[str, str]] | None = None,
) -> None:
    if as_json:
        record = {"run": str(at), "state": state, **edit.summary()}
        print_json(record | {"answers": answers, "asked": asked or []})
        return
    for i, fact in enumerate(edit.facts):
        now = f": now {answers[i]!r}" if answers else ""
        stdout.print(
            f"{state} {edit.id}: {escape(fact.cloze)} {escape(fact.target)}{escape(now)}",
            highlight=False,
        )
    _print_asked(asked or [])
    for note in edit.skipped:
        stdout.print(f"[dim]left out: {escape(note)}[/dim]", highlight=False)
    stdout.print(f"edit folder: {at}", highlight=False, soft_wrap=True, markup=False)
