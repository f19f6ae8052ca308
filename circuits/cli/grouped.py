"""Options that go together: a parameter that is a dataclass becomes an option for each field.

@command(app, "interp patch --model smollm2-135m --pairs ioi")
def patch(on: OnModel, pairs: PairsOption, into: Into) -> None: ...
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import typer


def command(app: typer.Typer, *examples: str, name: str | None = None) -> Callable[[Any], Any]:
    """Register a function as a verb.

    Args:
        app: the verb's own typer, or the group that it belongs to.
        examples: command lines for the end of its help.
        name: by default the function's.
    """
    listed = "\n\n".join(f"`{example}`" for example in examples)
    epilog = f"Example{'s' * (len(examples) > 1)}:\n\n{listed}"

    def register(function: Any) -> Any:
        app.command(name, epilog=epilog)(spread(function))
        return function

    return register


def spread(function: Any) -> Any:
    """The function with the fields of its grouped parameters as parameters of its own."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        group = hints[name]
        if not dataclasses.is_dataclass(group):
            parameters.append(_parameter(name, group, parameter.default))
            continue
        groups[name] = group
        inner = get_type_hints(group, include_extras=True)
        for field in dataclasses.fields(group):
            missing = field.default is dataclasses.MISSING
            default = inspect.Parameter.empty if missing else field.default
            parameters.append(_parameter(field.name, inner[field.name], default))

    @functools.wraps(function)
    def called(**given: Any) -> Any:
        for name, group in groups.items():
            own = {field.name: given.pop(field.name) for field in dataclasses.fields(group)}
            given[name] = group(**own)
        return function(**given)

    vars(called)["__signature__"] = inspect.Signature(parameters)
    return called


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=hint)
