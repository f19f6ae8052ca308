"""`interp query-value`: find query and value neurons."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from circuits.cli.options import (
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    LayersOption,
    LimitOption,
    ModelOption,
    OutOption,
    SeedOption,
    choice,
    numbers,
)
from circuits.cli.output import load, print_json, print_table, stdout

if TYPE_CHECKING:
    from circuits.query_value.result import QueryValue

app = typer.Typer(help="Neurons that raise an answer's probability, and those that query them.")


@app.callback()
def query_value() -> None:
    """Query and value neurons of factual questions."""


@app.command(
    epilog="Examples:\n\n"
    "`interp query-value find --model gemma-3-270m --prompts capital_questions --limit 20 "
    "--out runs/qv`\n\n"
    "`interp query-value find --model smollm2-135m --prompts questions.jsonl --top 50 --json`\n\n"
    "A line of the file: "
    '`{"prompt": "The capital of the country where the Colosseum is located is", '
    '"answer": "Rome", "label": "capital", "spans": {"subject": "Colosseum"}}`'
)
def find(
    model: ModelOption,
    prompts: Annotated[
        str,
        typer.Option(
            help="Questions: capital_questions, a Hub id, or a JSONL file of prompt, answer, and "
            "optionally label, cluster, spans."
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
    out: OutOption = None,
    force: ForceOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the value neurons of each answer, and what at which token switches them on."""
    from circuits.query_value import find as found_in
    from circuits.query_value.questions import load_questions
    from circuits.query_value.result import QueryValue
    from interp.data.prompts import prompt
    from interp.results.run_folder import fingerprint, identity, in_one_piece

    rows = load_questions(prompts)[:limit]
    chosen = numbers("--layers", layers)
    loaded = load(model, device, dtype)
    named = {"top": top, "layers": chosen, "key": key, "every": every, "seed": seed}
    named |= {"prompts": len(rows), "rows": fingerprint(rows)} | identity(loaded)

    def made() -> QueryValue:
        found = found_in(
            loaded,
            [prompt(loaded, row.prompt, **row.spans) for row in rows],
            [row.answer for row in rows],
            labels=[row.label for row in rows],
            clusters=[row.cluster or str(i) for i, row in enumerate(rows)],
            key=key,
            layers=chosen,
            top=top,
            every=every,
        )
        return replace(found, provenance={"seed": seed})

    result = in_one_piece(out, "query-value find", named, made, QueryValue, force=force)
    if as_json:
        print_json({"run": str(out) if out else None, **result.summary(seed), "seed": seed})
        return
    _print(result, seed)
    if out:
        stdout.print(f"run folder: {out}   (interp show {out})", soft_wrap=True, markup=False)


def _print(result: "QueryValue", seed: int) -> None:
    stdout.print(escape(repr(result)), highlight=False)
    summary = result.summary(seed)
    stdout.print(
        f"FFN layers: query {summary['query_layers']}, value {summary['value_layers']}",
        markup=False,
        highlight=False,
    )
    print_table(result.query_neurons(10), "query neurons (mean over prompts, nats)")
    print_table(result.value_neurons(10), "value neurons (mean over prompts, nats)")
    print_table(result.by_span(seed), "query scores by span (nats; 95 % interval)")
    for row in result.excluded[:5]:
        stdout.print(
            f"[dim]excluded {escape(row.id)}: {escape(row.where)}: {escape(row.reason)}[/dim]",
            highlight=False,
        )
