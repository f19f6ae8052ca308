"""`interp edit`: write facts into a model, ask it, take them out, list and export them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli import edit_evaluation, edit_sequence
from circuits.cli.grouped import Record, command
from circuits.cli.options import N_TOKENS, InChat, OnModel, PlacementOption, TokensOption, choice
from circuits.cli.output import print_table, stdout
from circuits.editing.methods import INFORMED, METHODS, NAMES

if TYPE_CHECKING:
    from circuits.editing import Edit, Fact
    from circuits.editing.ledger_folder import LedgerFolder
    from interp import Chat, Model

app = typer.Typer(help="Write facts into a model's weights, and evaluate it.", no_args_is_help=True)
command(app, *edit_evaluation.EXAMPLES)(edit_evaluation.evaluate)
command(app, *edit_sequence.EXAMPLES)(edit_sequence.sequence)
command(
    app,
    "interp edit place --model gemma-3-270m --cases multihop_chains --split design --out "
    "runs/gemma-layers",
)(edit_evaluation.place)
command(app, edit_evaluation.CARD)(edit_evaluation.card)
ASK = (
    "interp edit ask --model smollm2-135m --ledger runs/edits --ask 'Which city is the capital of "
    "France?'"
)
LEDGER = "Folder that holds the edits, in the order they were made"
LedgerOption = Annotated[Path, typer.Option(exists=True, help=f"{LEDGER}.")]


@dataclass(frozen=True)
class FactOptions:
    """The options that give the facts to write: a file, one sentence, or one in three parts."""

    facts: Annotated[
        str | None,
        typer.Option(
            help="JSON file with a list of facts: prompt with {}, subject, target, question."
        ),
    ] = None
    fact: Annotated[
        str | None,
        typer.Option(
            help="One fact in plain words, its subject and new object in square brackets: "
            "'The capital of [France] is [Rome]'."
        ),
    ] = None
    prompt: Annotated[
        str | None, typer.Option(help="One fact: its prompt, with {} for the subject.")
    ] = None
    subject: Annotated[str | None, typer.Option(help="One fact: its subject.")] = None
    target: Annotated[str | None, typer.Option(help="One fact: the new answer.")] = None

    def load(self, chat: "Chat | None") -> "list[Fact]":
        """The facts, checked; in a chat, if one is given."""
        from circuits.editing.fact import Fact, load_facts
        from interp.errors import DataError

        one = (self.prompt, self.subject, self.target)
        ways = (self.facts is not None, self.fact is not None, one != (None, None, None))
        if sum(ways) != 1:
            raise DataError("give one of --fact, --facts, or --prompt, --subject and --target.")
        if self.fact is not None:
            return [Fact.in_words(self.fact, chat)]
        if self.facts is not None:
            return [replace(fact, chat=chat or fact.chat) for fact in load_facts(self.facts)]
        if self.prompt is None or self.subject is None or self.target is None:
            raise DataError("one fact needs all three of --prompt, --subject and --target.")
        return [Fact(self.prompt, self.subject, self.target, chat=chat)]


@command(
    app,
    "interp edit apply --model smollm2-135m --fact 'The capital of [France] is [Rome]' --method "
    "rome --ledger runs/edits",
    ASK,
)
def apply(
    on: OnModel,
    ledger: Annotated[Path, typer.Option(help=f"{LEDGER}; a new one is begun.")],
    facts: FactOptions,
    in_chat: InChat,
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
    implicit: Annotated[
        str,
        choice(
            NAMES,
            "Implicit names of the subjects, for methods that learn from them: given (those of the "
            "facts), missing (found by asking the model where a fact has none; some seconds "
            "per fact), found (found for all), none.",
        ),
    ] = "given",
    placement: PlacementOption = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(help="A question to ask before and after the edit; may be repeated."),
    ] = None,
    n_tokens: TokensOption = N_TOKENS,
    seed: Annotated[int, typer.Option(help="Random seed for contexts and samples.")] = 0,
) -> Record:
    """Edit the model on top of the edits in the ledger, and add the new edit to it."""
    from circuits.editing import edit
    from circuits.editing.evaluation import Ask, generations
    from circuits.editing.fact import load_preserved
    from circuits.editing.layer_selection import selection_for
    from interp.results.run_folder import RunFolder, fingerprint, identity

    chat = in_chat.options()
    given = facts.load(chat)
    preserve = load_preserved(kept) if kept else []
    before = _ledger(ledger)
    model = _edited(on, before)
    layers = selection_for(model, placement, method)
    named = {"method": method, "facts": fingerprint(given), "kept": fingerprint(preserve)}
    named |= {"implicit": implicit, "n_tokens": n_tokens, "seed": seed} | identity(model)
    with RunFolder.open(before.next, "edit apply", named) as run:
        options: dict[str, Any] = {"n_tokens": n_tokens, "seed": seed, "implicit": implicit}
        made = edit(model, given, method, preserve=preserve, layers=layers, **options)
        unedited = _answers(model, ask or [], chat)
        made.apply(model)
        asked = _asked(ask or [], unedited, _answers(model, ask or [], chat))
        clozes = [Ask(0, fact.written(model), n_tokens=5) for fact in given]
        continued = generations(model, clozes, [()])
        run.finish(made.save)
    yield from _shown(made, run.out, "applied", continued, asked)


@command(app, ASK)
def ask(
    on: OnModel,
    in_chat: InChat,
    ledger: LedgerOption,
    ask: Annotated[
        list[str],
        typer.Option(help="A question to ask without and with the edits; may be repeated."),
    ],
) -> Record:
    """Ask questions of the model without and with all edits of the ledger."""
    edits, chat, model = _ledger(ledger).edits, in_chat.options(), on.load()
    unedited = _answers(model, ask, chat)
    for one in edits:
        one.apply(model)
    asked = _asked(ask, unedited, _answers(model, ask, chat))
    edited = [one.id for one in edits]
    yield lambda: {"model": on.model, "ledger": str(ledger), "edits": edited, "asked": asked}
    stdout.print(f"with {len(edits)} edits of {ledger}:", markup=False)
    _print_asked(asked)


@command(app, "interp edit undo --ledger runs/edits")
def undo(
    ledger: LedgerOption,
    edit: Annotated[str | None, typer.Option(help="Id of the edit; by default the last.")] = None,
) -> Record:
    """Take an edit out of the ledger: the last, or one that no later edit was made on top of."""
    from interp.results.folder import discard

    one, at = _ledger(ledger).removable(edit)
    discard(at)
    yield from _shown(one, at, "undone")


@command(app, "interp edit list --ledger runs/edits --json", name="list")
def list_edits(ledger: LedgerOption) -> Record:
    """List the edits of a ledger, in order."""
    import pandas as pd

    found = _ledger(ledger).summary()
    yield lambda: found
    rows = [one | {"facts": "; ".join(one["facts"])} for one in found["edits"]]
    print_table(pd.DataFrame(rows, columns=["edit", "model", "method", "facts"]), str(ledger))


@command(app, "interp edit export --model smollm2-135m --ledger runs/edits --out runs/edited")
def export(
    on: OnModel,
    ledger: LedgerOption,
    out: Annotated[Path, typer.Option(help="New folder for the edited model.")],
) -> Record:
    """Write the model with all edits of the ledger as an ordinary Hugging Face folder."""
    from circuits.editing.edit import export as write

    found = _ledger(ledger)
    at = write(_edited(on, found), out)
    yield lambda: {"model": str(at), "edits": [one.id for one in found.edits]}
    stdout.print(f"{len(found.edits)} edits in {escape(str(at))}")


def _ledger(path: Path) -> "LedgerFolder":
    from circuits.editing.ledger_folder import LedgerFolder

    return LedgerFolder.load(path)


def _edited(on: OnModel, ledger: "LedgerFolder") -> "Model":
    """The model with all edits of a ledger."""
    model = on.load()
    for one in ledger.edits:
        one.apply(model)
    return model


def _answers(model: "Model", questions: list[str], chat: "Chat | None") -> list[str]:
    """Answers of the model as it is, behind the evaluation's demonstrations or in a chat."""
    from circuits.editing.evaluation.demonstrations import SHOTS
    from circuits.editing.evaluation.edited_models import Ask, asking, generations

    asks = [
        Ask(0, text, n_tokens=SHOTS.n_tokens, chat=chat) if chat else asking(SHOTS, text)
        for text in questions
    ]
    return [SHOTS.read(text) for text in generations(model, asks, [()])]


def _asked(questions: list[str], before: list[str], after: list[str]) -> list[dict[str, str]]:
    rows = zip(questions, before, after, strict=True)
    return [{"question": q, "before": b, "after": a} for q, b, a in rows]


def _print_asked(asked: list[dict[str, str]]) -> None:
    for one in asked:
        line = f"{one['question']} before: {one['before']!r}, after: {one['after']!r}"
        stdout.print(escape(line), soft_wrap=True)


def _shown(
    edit: "Edit",
    at: Path,
    state: str,
    continued: list[str] | None = None,
    asked: list[dict[str, str]] | None = None,
) -> Record:
    record: dict[str, Any] = {"run": str(at), "state": state, **edit.summary()}
    yield lambda: record | {"answers": continued, "asked": asked or []}
    for i, fact in enumerate(edit.facts):
        now = f": now {continued[i]!r}" if continued else ""
        stdout.print(f"{state} {edit.id}: {escape(f'{fact.cloze} {fact.target}{now}')}")
    _print_asked(asked or [])
    for note in edit.searched:
        stdout.print(f"[dim]{escape(note)}[/dim]")
    for note in edit.skipped:
        stdout.print(f"[dim]left out: {escape(note)}[/dim]")
    stdout.print(f"edit folder: {at}", soft_wrap=True, markup=False)
