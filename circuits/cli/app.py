"""`interp`: the verbs put together, and exit codes: 2 the user's mistake, 1 ours, 130 Ctrl-C."""

import errno
import os
import signal
import sys
import traceback
from typing import Annotated, Any

import typer
import typer.core

from circuits.cli import (
    ablate,
    attribute,
    bench,
    circuit,
    compare,
    datasets,
    doctor,
    edit,
    emotion,
    emotion_control,
    generate,
    lens,
    models,
    patch,
    query_value,
    recall_verbs,
    show,
    top_tokens,
    validate,
)

USAGE_ERROR: Any = typer.BadParameter.__mro__[2]
"""ClickException, of whichever click this typer uses: its own copy or the installed one."""

FIND, CHANGE = "Find components and circuits", "Change a model"
RESULTS, RESOURCES = "Results", "Models and data"
PANELS = {
    FIND: (
        "patch",
        "ablate",
        "attribute",
        "circuit",
        "query-value",
        "lens",
        "top-tokens",
        "recall-reasoning",
    ),
    CHANGE: ("generate", "edit", "emotion"),
    RESULTS: ("show", "compare"),
    RESOURCES: ("models", "datasets", "validate", "doctor", "bench"),
}
"""Group of verbs in `--help` -> its verbs, in order."""


class Verbs(typer.core.TyperGroup):
    """The verbs, in the order of `PANELS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs' names."""
        return [name for names in PANELS.values() for name in names]

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; Ctrl-C, which typer would swallow, says what a run folder keeps."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            notes: list[str] = getattr(stopped, "__notes__", [])  # the outermost folder's is last
            print(": ".join(["interrupted", *notes[-1:]]), file=sys.stderr)
            raise typer.Exit(130) from stopped


app = typer.Typer(
    name="interp",
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from interp import __version__

        print(f"interp {__version__}")
        raise typer.Exit


@app.callback()
def interp(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Find where a language model computes something, prove it causally, then change it."""


PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}
ALONE = (
    *(patch, ablate, attribute, lens, top_tokens, generate),
    *(show, compare, datasets, validate, doctor),
)
for module in ALONE:
    function = module.__name__.rpartition(".")[2]
    verb = function.replace("_", "-")
    add = app.command(verb, epilog=module.EXAMPLES, rich_help_panel=PANEL_OF[verb])
    add(getattr(module, function))
emotion.app.add_typer(emotion_control.app)
for module in (circuit, query_value, recall_verbs, edit, emotion, models, bench):
    verb = module.__name__.rpartition(".")[2].replace("_", "-")
    app.add_typer(module.app, name=verb, rich_help_panel=PANEL_OF[verb])


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; ask it to end, and it ends as on Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from interp.errors import InterpError, shown

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return typer.main.get_command(app).main(arguments, "interp", standalone_mode=False) or 0
    except InterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except typer.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except USAGE_ERROR as error:
        error.show()
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            return _told()
        print(f"error: {shown(error.filename)}: {error.strerror}", file=sys.stderr)
        return 2
    except Exception:
        return _told()


def _told() -> int:
    """Tell of the exception that is handled: a mistake of ours."""
    traceback.print_exc()
    print("this is a bug in interp, not a mistake of yours; please report it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
