"""`interp edit place`: the layers that an edit changes, chosen on cases."""

from dataclasses import replace
from typing import Annotated

import typer

from circuits.cli.options import (
    CasesOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    LimitOption,
    ModelOption,
    NeededOutOption,
    SplitOption,
)
from circuits.cli.output import load, print_json, stdout
from interp.progress import bar

EXAMPLE = (
    "Example: `interp edit place --model gemma-3-270m --cases multihop_chains "
    "--split design --out runs/gemma-layers`"
)


def place(
    model: ModelOption,
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
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the query and value layers in which the ace methods edit a model, from cases."""
    from circuits.editing.evaluation import load_cases
    from circuits.editing.methods import Placement
    from circuits.editing.placement import placement_in, save_placement
    from circuits.editing.placing import place as choose
    from interp.results.run_folder import Codec, fingerprint, identity, in_one_piece

    rows = load_cases(cases, split)
    loaded = load(model, device, dtype)
    given = {"threshold": threshold, "until": until}
    named = given | {"limit": limit, "seed": seed} | identity(loaded)
    named |= {"cases": len(rows), "rows": fingerprint(list(rows))}

    def chosen() -> Placement:
        with bar("asking", "questions") as report:
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
