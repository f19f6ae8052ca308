"""`interp explain`: one prompt as an attribution graph; check it, export and import it."""

import shlex
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from rich.markup import escape

from circuits.cli.grouped import Record, command, spread
from circuits.cli.options import AnswersOption, InChat, Into, IntoFolder, Loading, choice
from circuits.cli.output import neutral_text, print_run, print_table, stdout
from interp.errors import DataError, PlanError, did_you_mean, shown

if TYPE_CHECKING:
    from circuits.explanation import AttributionGraph
    from interp.data.pairs import Pair


class PromptOrVerb(typer.core.TyperGroup):
    """`explain` and its verbs, which says where a prompt goes that was given as a verb."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb; `PlanError` where it is none and like none."""
        if args[0] in self.commands or get_close_matches(args[0], self.commands):
            return super().resolve_command(ctx, args)
        raise PlanError(
            f"{shown(args[0])} is no command of `interp explain`; a prompt is given by its option: "
            f"interp explain --model NAME --prompt {shlex.quote(args[0])}"
        )


app = typer.Typer(
    cls=PromptOrVerb,
    help="Explain one prompt as an attribution graph; check, export and import graphs.",
)
EXAMPLES = (
    "interp explain --model smollm2-135m --prompt 'The capital of France is' --target ' Paris' "
    "--corrupt 'The capital of Italy is' --out runs/france",
    "interp explain --model smollm2-135m --pairs country_capitals --row capital-0001 --nodes 100 "
    "--out runs/france-pair",
    "interp explain export runs/france --out france.json",
)
FORMS = ("circuit-tracer", "html")
RunArgument = Annotated[Path, typer.Argument(help="A run folder of `interp explain`.")]


@app.callback(
    invoke_without_command=True, epilog="Examples:\n\n" + "\n\n".join(f"`{e}`" for e in EXAMPLES)
)
@spread
def explain(
    *,
    ctx: typer.Context,
    into: Into,
    in_chat: InChat,
    model: Annotated[
        str | None, typer.Option(help="Built-in name, Hub id, local folder or .gguf file.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Text of the prompt.")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Text that follows it, which is explained; by default the likeliest."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Text whose logits are subtracted from the target's.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Instead of a target: so many likeliest tokens.")
    ] = None,
    corrupt: Annotated[
        str | None, typer.Option(help="Prompt to compare with; chords lead from it to the prompt.")
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="Instead of a prompt: prompt pairs, as in `interp patch`, and --row."),
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="Id of the pair; by default the first one's.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Number of heads and neurons shown. By default 200.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Instead: as few as have this share of all attribution, 0 to 1."),
    ] = None,
    edges: Annotated[
        float, typer.Option(help="Share of each node's in-flow that its edges shown have, 0 to 1.")
    ] = 0.8,
    answers: AnswersOption = "whole",
    names: Annotated[
        bool, typer.Option("--names", help="Name neurons after their tokens, heads by pattern.")
    ] = False,
    contexts: Annotated[
        str | None,
        typer.Option(help="Text file (or neutral_text) for neurons' contexts; implies --names."),
    ] = None,
    groups: Annotated[
        int | None,
        typer.Option(min=1, help="Cluster nodes that read and are read alike into so many groups."),
    ] = None,
    how: Loading,
) -> Record:
    """Show which tokens, heads and neurons lead to what the model predicts after a prompt."""
    if ctx.invoked_subcommand is not None:
        return
    from circuits.explanation import AttributionGraph
    from circuits.explanation import explain as explained
    from circuits.explanation.explain import node_budget
    from interp.results.run_folder import fingerprint, identity, in_one_piece

    if model is None or (prompt is None) == (pairs is None):
        raise PlanError("give --model, and either --prompt or --pairs.")
    if top is not None and (target or against):
        raise PlanError("--top replaces --target and --against; leave one of them out.")
    if against is not None and target is None:
        raise PlanError("--against is subtracted from a --target; give one.")
    if corrupt is not None and pairs is not None:
        raise PlanError("--pairs have corrupt prompts of their own; leave --corrupt out.")
    if row is not None and pairs is None:
        raise PlanError("--row chooses one of --pairs; give them, or leave --row out.")
    node_budget(nodes, share, edges)  # refused now, before a model is loaded
    chosen: Any = top if target is None else target if against is None else (target, against)
    given: Any = _pair(pairs or "", row, in_chat) if prompt is None else in_chat.prompt(prompt)
    other = None if corrupt is None else in_chat.prompt(corrupt)
    text = neutral_text(contexts)
    loaded = how.load(model)
    options: dict[str, Any] = {"nodes": nodes, "share": share, "edges": edges, "answers": answers}
    named = options | {"target": chosen, "groups": groups, "names": names or text is not None}
    named |= {"prompt": fingerprint([given, other, text])} | identity(loaded)

    def made() -> AttributionGraph:
        graph = explained(loaded, given, chosen, other, **options)
        if names or text is not None:
            from circuits.explanation import named as with_names

            graph = with_names(loaded, graph, None if text is None else [text])
        if groups is not None:
            from circuits.explanation import activity, clustered

            graph = clustered(graph, groups, activity=activity(loaded, graph))
        return graph

    graph = in_one_piece(into.out, "explain", named, made, AttributionGraph, into.force)
    yield from _shown(graph, into)


def _pair(pairs: str, row: str | None, in_chat: InChat) -> "Pair":
    from interp.data.pairs import load_pairs

    rows = {pair.id: pair for pair in in_chat.rows(load_pairs(pairs))}
    if row is not None and row not in rows:
        raise DataError(f"{pairs} has no pair {row!r}. {did_you_mean(row, rows)}")
    return rows[row if row is not None else next(iter(rows))]


def _shown(graph: "AttributionGraph", into: Into) -> Record:
    yield lambda: {"run": into.run, **graph.summary()}
    stdout.print(escape(repr(graph)))
    strongest = graph.top(10).loc[:, ["id", "label", "attribution"]]
    print_table(strongest, f"strongest nodes ({graph.unit})")
    scores = ", ".join(f"{name} {value:.3f}" for name, value in graph.scores.items())
    stdout.print(scores, markup=False)
    print_run(into.out)


@command(
    app,
    "interp explain check runs/france",
    "interp explain check runs/alone --means-over country_capitals --out runs/alone-checked",
)
def check(
    *,
    run: RunArgument,
    into: Into,
    model: Annotated[
        str | None, typer.Option(help="The model it was made with; by default found by its name.")
    ] = None,
    means_over: Annotated[
        str | None,
        typer.Option(
            help="Prompt pairs over which nodes are averaged; for graphs without a corrupt prompt."
        ),
    ] = None,
    n_random: Annotated[
        int, typer.Option("--random", min=1, help="Number of random sets of nodes per size.")
    ] = 3,
    n_ablated: Annotated[
        int, typer.Option("--ablated", min=1, help="Number of nodes ablated one by one.")
    ] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for the random sets.")] = 0,
    how: Loading,
) -> Record:
    """Test a graph by interventions: faithfulness beside random nodes, ablations, scaling."""
    from circuits.explanation import AttributionGraph
    from circuits.explanation import check as checked
    from interp.data.pairs import load_pairs
    from interp.results.folder import read_manifest
    from interp.results.run_folder import fingerprint, identity, in_one_piece

    graph = AttributionGraph.load(run)
    rows = None if means_over is None else load_pairs(means_over)
    loaded = how.load(model or graph.model)
    options: dict[str, Any] = {"n_random": n_random, "n_ablated": n_ablated, "seed": seed}
    named = options | {"graph": fingerprint(read_manifest(run)["files"])} | identity(loaded)
    named |= {"means_over": None if rows is None else fingerprint(rows)}

    made = partial(checked, loaded, graph, means_over=rows, **options)
    found = in_one_piece(into.out, "explain check", named, made, AttributionGraph, into.force)
    yield from _shown(found, into)
    print_table(found.checks.head(20), f"predicted and actual effects ({graph.unit})")


@command(
    app,
    "interp explain export runs/france --out france.json",
    "interp explain export runs/france --out france.html --format html",
)
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    form: Annotated[
        str, choice(FORMS, "circuit-tracer's JSON, or a page in one file.", "--format")
    ] = "circuit-tracer",
) -> Record:
    """Write a graph as JSON that circuit-tracer's front end opens, or as a page."""
    from circuits.explanation import AttributionGraph, write_circuit_tracer

    if out.is_dir():
        raise PlanError(f"--out {out} is a folder; name the file to write.")
    graph = AttributionGraph.load(run)
    if form == "html":
        graph.report().write(out, standalone=True)
    else:
        write_circuit_tracer(graph, out)
    yield lambda: {"file": str(out), "format": form, "n_nodes": len(graph.nodes)}
    stdout.print(f"wrote {out}", soft_wrap=True)


@command(app, "interp explain import edited.json --out runs/france-edited", name="import")
def import_graph(
    file: Annotated[Path, typer.Argument(help="JSON of circuit-tracer, or saved by our page.")],
    into: IntoFolder,
) -> Record:
    """Make a run folder of a graph in a file, such as one that was edited in the page."""
    from circuits.explanation import AttributionGraph, read_circuit_tracer
    from interp.results.run_folder import fingerprint, in_one_piece

    read = read_circuit_tracer(file)  # a damaged file is refused before there is a folder
    named = {"file": fingerprint([read.nodes.to_dict("records"), read.edges.to_dict("records")])}
    verb = "explain import"
    graph = in_one_piece(into.out, verb, named, lambda: read, AttributionGraph, into.force)
    yield from _shown(graph, Into(into.out))
