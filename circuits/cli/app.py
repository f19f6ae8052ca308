"""`interp`: the verbs put together, and exit codes: 2 the user's mistake, 1 ours, 130 Ctrl-C."""

import errno
import os
import signal
import sys
import traceback
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core

USAGE_ERROR: Any = typer.BadParameter.__mro__[2]
"""ClickException, of whichever click this typer uses: its own copy or the installed one."""

VERBS: dict[str, dict[str, tuple[str, str]]] = {
    "Find components and circuits": {
        "patch": ("patch", "Patch a site at every cell of a sweep and show where the effect is."),
        "ablate": ("ablate", "Ablate components and show what is lost, against random sets."),
        "attribute": ("attribute", "Score what the metric owes to edges, nodes or units."),
        "explain": ("explain_verbs", "Explain one prompt: an attribution graph of its tokens."),
        "circuit": ("circuit_verbs", "Discover circuits, evaluate, compare, show and export them."),
        "query-value": ("query_value_verbs", "Find query and value neurons of questions."),
        "lens": ("logit_lens", "Show what the residual stream would predict after each layer."),
        "jacobian-lens": ("jacobian_lens", "Fit the Jacobian lens of a model on text."),
        "top-tokens": ("top_tokens", "Show the tokens that a neuron promotes and suppresses."),
        "recall-reasoning": ("recall_verbs", "Are recall and reasoning separate circuits?"),
    },
    "Change a model": {
        "generate": ("generate", "Continue a prompt, with and without some components."),
        "steer": ("steer_verbs", "Make steering vectors, write text with them, export them."),
        "edit": ("edit_verbs", "Write facts into a model, ask it, undo, evaluate."),
        "emotion": ("emotion", "Find emotion circuits, test them, control text with them."),
    },
    "Results": {
        "show": ("show", "Write the figures, tables and provenance of a run as a page."),
        "compare": ("compare_runs", "Compare two patching runs, cell by cell."),
    },
    "Models and data": {
        "models": ("models", "List and fetch the built-in models."),
        "datasets": ("datasets", "List the shipped data sets."),
        "validate": ("validate_model", "Run the conformance checks on a model."),
        "doctor": ("doctor", "Show versions, CUDA, the cache, free memory and disk."),
        "bench": ("bench", "Time interp's sweeps beside other libraries'."),
    },
}
"""Group in `--help` -> verb -> its module, imported when the verb is called, and what it does."""


class Verbs(typer.core.TyperGroup):
    """The verbs, in the order of `VERBS`; each is loaded when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs' names."""
        return [name for verbs in VERBS.values() for name in verbs]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A verb: the whole one where it was loaded, else its name and help."""
        for group, verbs in VERBS.items():
            if cmd_name in verbs and cmd_name not in self.commands:
                says = verbs[cmd_name][1]
                return typer.core.TyperCommand(cmd_name, help=says, rich_help_panel=group)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the verb that is called."""
        self.load(args[0])
        return super().resolve_command(ctx, args)

    def load(self, verb: str) -> None:
        """Import a verb's module; another name is left to typer, which suggests one."""
        for verbs in VERBS.values():
            if verb in verbs and verb not in self.commands:
                own: typer.Typer = import_module(f"circuits.cli.{verbs[verb][0]}").app
                host = typer.Typer(rich_markup_mode="markdown")
                if own.info.help or own.registered_callback:
                    host.add_typer(own, name=verb)
                else:
                    host.registered_commands = own.registered_commands
                (self.commands[verb],) = typer.main.get_group(host).commands.values()

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
    """Find where a language model computes something, test it causally, then change it."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; ask it to end, and it ends as on Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from interp.errors import InterpError, shown

    warnings.formatwarning = lambda said, *_: f"warning: {said}\n"
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
        if error.errno not in (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM):
            return _bug()
        print(f"error: {shown(error.filename)}: {error.strerror}", file=sys.stderr)
        return 2
    except Exception:
        return _bug()


def _bug() -> int:
    """Show the exception that is being handled: a mistake of ours."""
    traceback.print_exc()
    print("this is a bug in interp, not a mistake of yours; please report it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
