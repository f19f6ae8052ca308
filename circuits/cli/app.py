"""`interp`: the verbs put together, and exit codes: 2 the user's mistake, 1 ours, 130 Ctrl-C."""

import os
import sys
import traceback
from typing import Any

import typer

from circuits.cli import (
    ablate,
    attribute,
    bench,
    circuit,
    datasets,
    edit,
    emotion,
    emotion_control,
    models,
    patch,
    query_value,
    recall_reasoning,
    show,
    validate,
)

USAGE_ERROR: Any = typer.BadParameter.__mro__[2]
"""ClickException, of whichever click this typer uses: its own copy or the installed one."""

app = typer.Typer(
    name="interp",
    help="Find where a language model computes something, prove it causally, then change it.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")
app.add_typer(circuit.app, name="circuit")
app.add_typer(edit.app, name="edit")
emotion.app.add_typer(emotion_control.app)
app.add_typer(emotion.app, name="emotion")
app.add_typer(query_value.app, name="query-value")
app.add_typer(recall_reasoning.app, name="recall-reasoning")
app.command("attribute", epilog=attribute.EXAMPLES)(attribute.attribute)
app.command("ablate", epilog=ablate.EXAMPLES)(ablate.ablate)
app.command("datasets", epilog=datasets.EXAMPLES)(datasets.datasets)
app.command("patch", epilog=patch.EXAMPLES)(patch.patch)
app.command("show", epilog=show.EXAMPLES)(show.show)
app.command("validate", epilog=validate.EXAMPLES)(validate.validate)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from interp.errors import InterpError

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
    except Exception:
        traceback.print_exc()
        print("this is a bug in interp, not a mistake of yours; please report it", file=sys.stderr)
        return 1


if __name__ == "__main__":
    main()
