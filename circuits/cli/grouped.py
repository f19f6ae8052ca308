"""Options that go together: a parameter that is a dataclass becomes an option for each field.

@command(app, "interp patch --model smollm2-135m --pairs ioi")
def patch(on: OnModel, pairs: PairsOption, into: Into) -> None: ...

A verb that yields has ``--json`` as its last option: what it yields first makes its record, and
what it prints behind that is the text for people.

``changes: Annotated[dict[str, Any], Settings]``, of a pydantic model, becomes an option for each
field but dataclasses, none of them needed; the function gets the fields that were given.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel

from circuits.cli.options import GAP_METRICS, JsonOption, choice, metric_choice, names_in, numbers
from circuits.cli.output import print_json

Record = Iterator[Callable[[], dict[str, Any]]]
"""Of a verb: what makes the record that is printed as JSON; made only if it is asked for."""


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
    own = inspect.signature(function).parameters
    parameters = [one for name in own for one in _options(name, hints[name], own[name].default)]
    if inspect.isgeneratorfunction(function):
        parameters += _options("as_json", JsonOption, False)

    @functools.wraps(function)
    def called(**given: Any) -> Any:
        done = function(**{name: _argument(name, hints[name], given) for name in own})
        for record in done or ():  # to the end, which prints the text
            if given["as_json"]:
                return print_json(record())
        return None

    vars(called)["__signature__"] = inspect.Signature(parameters)
    return called


def _options(name: str, hint: Any, default: Any) -> Iterator[inspect.Parameter]:
    """The options of a parameter: one, or those of every field of a group."""
    kind = inspect.Parameter.KEYWORD_ONLY
    if model := _settings(hint):
        for field in _fields(model):
            option = _field_option(model, field)
            yield inspect.Parameter(field, kind, default=None, annotation=option)
    elif dataclasses.is_dataclass(hint):
        inner = get_type_hints(hint, include_extras=True)
        for field in dataclasses.fields(hint):
            missing = field.default is dataclasses.MISSING
            own = inspect.Parameter.empty if missing else field.default
            yield from _options(field.name, inner[field.name], own)
    else:
        yield inspect.Parameter(name, kind, default=default, annotation=hint)


def _fields(model: type[BaseModel]) -> list[str]:
    """The fields that are options; those that hold a dataclass have a group of their own."""
    every = model.model_fields.items()
    return [k for k, f in every if not any(map(dataclasses.is_dataclass, get_args(f.annotation)))]


def _argument(name: str, hint: Any, given: Mapping[str, Any]) -> Any:
    """What a parameter gets of the options' values."""
    if model := _settings(hint):
        fields = {field: given[field] for field in _fields(model)}
        return {k: _read(model, k, v) for k, v in fields.items() if v is not None}
    if not dataclasses.is_dataclass(hint):
        return given[name]
    group: Any = hint
    inner = get_type_hints(hint, include_extras=True)
    names = [field.name for field in dataclasses.fields(hint)]
    return group(**{name: _argument(name, inner[name], given) for name in names})


def _settings(hint: Any) -> type[BaseModel] | None:
    """The settings model that a parameter names."""
    named = (one for one in get_args(hint)[1:] if isinstance(one, type))
    return next((one for one in named if issubclass(one, BaseModel)), None)


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
    if name == "metric":
        return Annotated[str | None, metric_choice(GAP_METRICS, help)]
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
