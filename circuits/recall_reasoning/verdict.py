"""A study's verdict in sentences: what holds in how many split seeds, and why the rest does not."""

from typing import TYPE_CHECKING, Any

from circuits.recall_reasoning.cells import design_named

if TYPE_CHECKING:
    from circuits.recall_reasoning.result import RecallReasoning


def verdict_of(result: "RecallReasoning") -> list[str]:
    """The double dissociations first, then a sentence for each ability."""
    doubles: Any = result.tables["doubles"]
    chosen: Any = result.chosen
    design = design_named(result.settings.design)
    said = [
        _double(first, second, doubles, len(result.settings.seeds))
        for first, second in design.doubles
    ]
    for ability in design.abilities:
        rows = chosen[chosen["ability"] == ability.name]
        said.append(_single(ability.name, ability.own, ability.others, rows))
    return said


def _double(first: str, second: str, doubles: Any, seeds: int) -> str:
    rows = doubles[(doubles["first"] == first) & (doubles["second"] == second)]
    n = int(rows["holds"].sum())
    what = f"double dissociation of {first} and {second}"
    if not len(rows):
        return f"No {what}: a circuit is missing."
    dd = f"interaction {rows['dd'].mean():.2f} of the total effect"
    if n:
        return f"There is a {what} in {n} of {seeds} split seeds ({dd})."
    failed = [k for k in ("needed", "intact", "specific") if not rows[k].all()]
    return f"No {what} ({dd}): not {', not '.join(failed)} in both directions."


def _single(name: str, own: tuple[str, ...], others: tuple[str, ...], rows: Any) -> str:
    if not len(rows):
        return f"{name}: no component matters more to {', '.join(own)} than to {', '.join(others)}."
    mean = rows.mean(numeric_only=True)
    n = len(rows)
    claims = ", ".join(
        f"{claim} in {int(rows[claim].sum())} of {n}" for claim in ("needed", "intact", "specific")
    )
    return (
        f"{name} ({'+'.join(own)}): ablating its circuit costs {100 * mean['own_accuracy']:.0f} "
        f"points of accuracy and {100 * mean['own_effect']:.0f} % of the total effect, on "
        f"{'+'.join(others)} {100 * mean['other_accuracy']:.0f} points and "
        f"{100 * mean['other_effect']:.0f} %; {claims} seeds."
    )
