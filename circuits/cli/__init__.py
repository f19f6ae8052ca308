"""The command line, one module a verb. Results go to stdout, everything else to stderr."""

from circuits.cli.app import main

__all__ = ["main"]
