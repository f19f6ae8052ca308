"""Options that go together: a parameter that is a dataclass becomes an option for each field.

@command(app, "interp patch --model smollm2-135m --pairs ioi")
def patch(on: OnModel, pairs: PairsOption, into: Into) -> None: ...

``changes: Annotated[dict[str, Any], Settings]``, of a pydantic model, becomes an option for each
field but dataclasses, none of them needed; the function gets the fields that were given.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel

from circuits.cli.options import choice, names_in, numbers


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
    models: dict[str, type[BaseModel]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        group = hints[name]
        model = next((one for one in get_args(group)[1:] if _is_model(one)), None)
        if model is not None:
            models[name] = model
            for field in _fields(model):
                parameters.append(_parameter(field, _field_option(model, field), None))
            continue
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
        for name, model in models.items():
            own = {field: given.pop(field) for field in _fields(model)}
            given[name] = {k: _read(model, k, v) for k, v in own.items() if v is not None}
        for name, group in groups.items():
            own = {field.name: given.pop(field.name) for field in dataclasses.fields(group)}
            given[name] = group(**own)
        return function(**given)

    vars(called)["__signature__"] = inspect.Signature(parameters)
    return called


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=hint)


def _fields(model: type[BaseModel]) -> list[str]:
    """The fields that are options; those that hold a dataclass have a group of their own."""
    every = model.model_fields.items()
    return [k for k, f in every if not any(map(dataclasses.is_dataclass, get_args(f.annotation)))]


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _field_option(model: type[BaseModel], name: str) -> Any:
    """The option for a field of a settings model."""
    field = model.model_fields[name]
    kind, help = field.annotation, field.description or name
    many = get_origin(kind) is tuple
    inner = get_args(kind)[0] if many else kind
    text = ",".join(map(str, field.default)) if many else str(field.default)
    silent = field.is_required() or any(field.default is one for one in (None, False, ()))
    if not silent and "by default" not in help:
        help = f"{help} By default {text}."
    if get_origin(inner) is Literal:
        return Annotated[str | None, choice(get_args(inner), help, many=many)]
    plain: Any = str if many else kind
    flag = [f"--{name.replace('_', '-')}"] if kind is bool else []  # and no --no-NAME beside it
    return Annotated[plain | None, typer.Option(*flag, help=help)]


def _read(model: type[BaseModel], name: str, value: Any) -> Any:
    """What an option's text says: of a list, its numbers or names."""
    kind = model.model_fields[name].annotation
    if get_origin(kind) is not tuple:
        return value
    if get_origin(get_args(kind)[0]) is Literal:
        return names_in(value)
    return numbers(f"--{name}", value)
