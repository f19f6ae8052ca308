"""`interp edit place`: the layers that an edit changes, chosen on cases."""

from dataclasses import replace
from typing import Annotated

import typer

from circuits.cli.options import (
    CasesOption,
    ForceOption,
    JsonOption,
    LimitOption,
    NeededOutOption,
    OnModel,
    SplitOption,
)
from circuits.cli.output import print_json, stdout
from interp.progress import bar


def place(
    on: OnModel,
    cases: CasesOption,
    out: NeededOutOption,
    force: ForceOption = False,
    split: SplitOption = None,
    limit: LimitOption = 120,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=1,
            help="Match score above which value neurons are active; by default as chosen.",
        ),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Mean loss (nats) at which the search for query neurons ends; by default 0.3.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for the questions drawn.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Choose the query and value layers in which the ace methods edit a model, from cases."""
    from circuits.editing import layer_search
    from circuits.editing.evaluation.formats import load_cases
    from circuits.editing.layer_selection import LayerSelection
    from interp.results.run_folder import fingerprint, identity, in_one_piece

    rows = load_cases(cases, split)
    model = on.load()
    given = {"threshold": threshold, "until": until}
    named = given | {"limit": limit, "seed": seed} | identity(model)
    named |= {"cases": len(rows), "rows": fingerprint(list(rows))}

    def chosen() -> LayerSelection:
        with bar("asking", "questions") as report:
            found = layer_search.select_layers(model, rows, limit, seed=seed, progress=report)
        return replace(found, **{k: value for k, value in given.items() if value is not None})

    found = in_one_piece(out, "edit place", named, chosen, LayerSelection, force=force)
    if as_json:
        print_json({"model": on.model, "placement": found.summary(), "run": str(out)})
    else:
        stdout.print(f"query layers {found.query}, value layers {found.value}: {out}", markup=False)
