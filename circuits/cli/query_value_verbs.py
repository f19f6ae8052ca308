"""`interp query-value`: find query and value neurons."""

from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.markup import escape

from circuits.cli.grouped import Record, command
from circuits.cli.options import (
    InChat,
    Into,
    LayersOption,
    LimitOption,
    OnModel,
    SeedOption,
    choice,
    numbers,
)
from circuits.cli.output import print_run, print_table, stdout

app = typer.Typer(help="Neurons that raise an answer's probability, and those that query them.")


@command(
    app,
    "interp query-value find --model gemma-3-270m --prompts capital_questions --limit 20 "
    "--out runs/qv",
    "interp query-value find --model smollm2-135m --prompts questions.jsonl --top 50 --json",
)
def find(
    on: OnModel,
    into: Into,
    in_chat: InChat,
    prompts: Annotated[
        str,
        typer.Option(
            help="Questions: capital_questions, a Hub id, or a JSONL file of prompt, answer, and "
            'optionally label, cluster, spans, such as {"prompt": "The capital of France is", '
            '"answer": "Paris", "spans": {"subject": "France"}}.'
        ),
    ],
    limit: LimitOption = None,
    top: Annotated[
        int,
        typer.Option(min=1, help="Number of value neurons per prompt, of FFNs and of heads each."),
    ] = 30,
    layers: LayersOption = None,
    key: Annotated[
        str, choice(("gate", "up"), "Projection that queries FFN value neurons (gated FFNs).")
    ] = "gate",
    every: Annotated[
        bool, typer.Option("--every", help="Score every FFN neuron, for sums over layers (slow).")
    ] = False,
    answers: Annotated[
        str,
        choice(
            ("single", "first"),
            "single: an answer of several tokens is refused, as scores are of one token; first: "
            "the first token of each answer is read.",
        ),
    ] = "single",
    seed: SeedOption = 0,
) -> Record:
    """Find the value neurons of each answer, and what at which token switches them on."""
    from circuits.query_value import QueryValue
    from circuits.query_value import find as found_in
    from circuits.query_value.questions import load_questions
    from interp.data.prompts import prompt
    from interp.results.run_folder import fingerprint, identity, in_one_piece

    rows = load_questions(prompts)[:limit]
    options: dict[str, Any] = {"top": top, "layers": numbers("--layers", layers), "key": key}
    options |= {"every": every, "answers_read": answers}
    model = on.load()
    asked = [prompt(model, in_chat.prompt(row.prompt), **row.spans) for row in rows]
    data = fingerprint([rows, [one.text for one in asked]])
    named = options | {"seed": seed, "prompts": len(rows), "rows": data}

    def made() -> QueryValue:
        labels, texts = [row.label for row in rows], [row.answer for row in rows]
        clusters = [row.cluster or str(i) for i, row in enumerate(rows)]
        found = found_in(model, asked, texts, labels=labels, clusters=clusters, **options)
        return replace(found, provenance={"seed": seed})

    named |= identity(model)
    result = in_one_piece(into.out, "query-value find", named, made, QueryValue, into.force)
    summary = result.summary(seed)
    yield lambda: {"run": into.run, **summary, "seed": seed}
    stdout.print(escape(repr(result)))
    text = f"FFN layers: query {summary['query_layers']}, value {summary['value_layers']}"
    stdout.print(text, markup=False)
    print_table(result.query_neurons(10), "query neurons (mean over prompts, nats)")
    print_table(result.value_neurons(10), "value neurons (mean over prompts, nats)")
    print_table(result.by_span(seed), "query scores by span (nats; 95 % interval)")
    print_run(into.out, result.excluded)
