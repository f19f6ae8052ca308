"""`interp edit`: write facts into a model, take them out, list and export them, judge methods."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.options import (
    CasesOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    LimitOption,
    ModelOption,
    OutOption,
    SplitOption,
    names_in,
    numbers,
)
from circuits.cli.output import load, neutral_text, print_json, print_table, progress, stdout

if TYPE_CHECKING:
    import pandas as pd

    from circuits.editing import Edit, Fact

app = typer.Typer(
    name="edit", help="Write facts into a model's weights, and judge it.", no_args_is_help=True
)
EXAMPLES = (
    "Examples:\n\n"
    "`interp edit apply --model smollm2-135m --prompt 'The capital of {} is' --subject France "
    "--target Rome --method rome --ledger runs/edits`\n\n"
    "`interp edit ask --model smollm2-135m --ledger runs/edits --ask 'Which city is the "
    "capital of France?'`"
)
EVALUATE_EXAMPLES = (
    "Examples:\n\n"
    "`interp edit evaluate --model gemma-3-270m --cases multihop_chains --split "
    "design --methods rome,ace,none --limit 12 --out runs/edits-compared --json`\n\n"
    "`interp edit evaluate --model gemma-3-270m --cases MQuAKE-CF-3k-v2.json --methods "
    "rome+,memit+,ace --limit 100 --seeds 0,1,2 --out runs/mquake`"
)
PLACE_EXAMPLE = (
    "Example: `interp edit place --model gemma-3-270m --cases multihop_chains "
    "--split design --out runs/gemma-layers`"
)
LedgerOption = Annotated[
    Path, typer.Option(help="Folder that holds the edits, in the order they were made.")
]
PlacementOption = Annotated[
    Path | None,
    typer.Option(help="Folder of `interp edit place`; built-in language models come with one."),
]
AskOption = Annotated[
    list[str] | None,
    typer.Option(help="A question to ask before and after the edit; may be repeated."),
]
N_TOKENS = 20_000  # of `circuits.editing.moments`, which would load torch
TokensOption = Annotated[
    int,
    typer.Option(
        min=1, help="Number of the model's own tokens that second moments are taken over."
    ),
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
        str, typer.Option(help="Editing method, as in `interp edit evaluate --methods`.")
    ] = "ace",
    kept: Annotated[
        str | None,
        typer.Option(
            help="JSON file with a list of questions whose answers must not change: text, subject, "
            "relation, and kindred if it could be asked of the edited subject, too."
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
    """Make an edit on top of those in the ledger, and add it to them."""
    from circuits.editing import edit
    from circuits.editing.files import edits_in, load_facts, load_kept, next_folder
    from circuits.editing.methods import refuse_unknown
    from circuits.editing.placement import placement_for
    from interp.run_folder import RunFolder
    from interp.run_key import fingerprint, identity

    refuse_unknown(method)
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
        with progress("second moments", "tokens") as report:
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
    from interp.folder import discard

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


@app.command("evaluate", epilog=EVALUATE_EXAMPLES)
def evaluate(
    model: ModelOption,
    cases: CasesOption,
    methods: Annotated[
        str,
        typer.Option(
            help="Editing methods, with commas: ft, rome, memit, pmet, alphaedit, ifmet, ace, "
            "ace-query-first, ace-paper, ace-released; + after a name gives it the two-hop prompts "
            "and preserved questions that ace gets. Baselines: none (unedited), told (the edit in "
            "the prompt), ike (in the prompt, with demonstrations)."
        ),
    ] = "ace,pmet,memit,rome,alphaedit,ifmet,ft,none",
    split: SplitOption = None,
    placement: PlacementOption = None,
    shots: Annotated[
        str,
        typer.Option(
            help="Demonstrations before every question: direct, reasoned (chain of thought), or a "
            "file with MQuAKE's prompts."
        ),
    ] = "direct",
    neutral: Annotated[
        str | None,
        typer.Option(help="Text for divergence and perplexity: neutral_text, or a text file."),
    ] = None,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential", help="Make the edits one on top of the other; ask after the last one."
        ),
    ] = False,
    seeds: Annotated[
        str, typer.Option(help="Random seeds for contexts and controls, such as 0,1,2.")
    ] = "0",
    limit: LimitOption = None,
    n_tokens: TokensOption = N_TOKENS,
    out: OutOption = None,
    force: ForceOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Edit each case by each method, and ask what became of the model."""
    from circuits.editing.comparing import REFERENCES, compare_into
    from circuits.editing.evaluation import load_cases, shots_named
    from circuits.editing.methods import refuse_unknown
    from circuits.editing.placement import placement_for

    names = names_in(methods)
    for name in names:
        refuse_unknown(name, REFERENCES)
    draws, demonstrations = numbers("--seeds", seeds) or [], shots_named(shots)
    rows = load_cases(cases, split)
    text = neutral_text(neutral)
    loaded = load(model, device, dtype)
    at = placement_for(loaded, placement, *names)
    with progress("editing", "") as report:
        result = compare_into(
            out,
            loaded,
            rows,
            names,
            at,
            seeds=draws,
            limit=limit,
            shots=demonstrations,
            neutral=text,
            sequential=sequential,
            n_tokens=n_tokens,
            force=force,
            progress=lambda what, done, total: report(done, total, what),
        )
    found = result.summary()
    if as_json:
        print_json({"run": str(out) if out else None, **found})
        return
    print_table(
        _by_metric(found["methods"]),
        f"{found['n_filtered']} of {found['n_cases']} cases ({found['n_asked']} asked), "
        f"{found['model']}",
    )
    for reason, n in found["excluded"].items():
        stdout.print(f"[dim]{n} left out: {escape(reason)}[/dim]", highlight=False)
    if out:
        stdout.print(f"run folder: {out}", highlight=False, soft_wrap=True, markup=False)


@app.command("place", epilog=PLACE_EXAMPLE)
def place(
    model: ModelOption,
    cases: CasesOption,
    out: Annotated[Path, typer.Option(help="Folder to write the choice of layers to.")],
    force: ForceOption = False,
    split: SplitOption = None,
    limit: LimitOption = 120,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=1, help="Match score at which value neurons fire, if not as chosen."
        ),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(min=0, help="Mean loss (nats) at which the search for query neurons ends."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for the questions drawn.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the layers of the ACE presets by where an edit would reach what it should."""
    from circuits.editing.evaluation import load_cases
    from circuits.editing.methods import Placement
    from circuits.editing.placement import placement_in, save_placement
    from circuits.editing.placing import place as choose
    from interp.run_folder import in_one_piece
    from interp.run_key import fingerprint, identity
    from interp.steps import Codec

    rows = load_cases(cases, split)
    loaded = load(model, device, dtype)
    given = {"threshold": threshold, "until": until}
    named = given | {"limit": limit, "seed": seed} | identity(loaded)
    named |= {"cases": len(rows), "rows": fingerprint(list(rows))}

    def chosen() -> Placement:
        with progress("asking", "questions") as report:
            found = choose(loaded, rows, limit=limit, seed=seed, progress=report)
        return replace(found, **{k: value for k, value in given.items() if value is not None})

    kept: Codec[Placement] = Codec(
        lambda one, at: save_placement(at, loaded, one),
        lambda at: placement_in(loaded, at),
    )
    found = in_one_piece(out, "edit place", named, chosen, kept, force=force)
    if as_json:
        print_json({"model": model, "placement": found.summary(), "run": str(out)})
    else:
        stdout.print(f"query layers {found.query}, value layers {found.value}: {out}", markup=False)


def _facts(
    file: str | None, prompt: str | None, subject: str | None, target: str | None, read: Any
) -> "list[Fact]":
    from circuits.editing import Fact, FactError

    one = (prompt, subject, target)
    if (file is None) == (one == (None, None, None)):
        raise FactError("give either --facts, or --prompt, --subject and --target.")
    if file is not None:
        return read(file)
    if prompt is None or subject is None or target is None:
        raise FactError("one fact needs all three of --prompt, --subject and --target.")
    return [Fact(prompt, subject, target)]


def _by_metric(methods: dict[str, dict[str, Any]]) -> "pd.DataFrame":
    """A line a figure and a column a method, which fits a terminal; without the intervals."""
    import pandas as pd

    first = next(iter(methods.values()))
    figures = [name for name, value in first.items() if not isinstance(value, list)]
    columns = {
        method: ["–" if line[name] is None else f"{line[name]:.3g}" for name in figures]
        for method, line in methods.items()
    }
    return pd.DataFrame({"figure": figures} | columns)


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
