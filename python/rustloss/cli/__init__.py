"""The command line: ``python -m rustloss``, or the script ``rustloss``.

Exit codes: 0 if all is well, 1 if the data are wrong, 2 if the command is.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rustloss import __version__
from rustloss.cli import _align, _bench, _doctor, _eval, _show
from rustloss.cli._text import UsageError
from rustloss.errors import ArgumentError, ParameterError

__all__ = ["main"]

#: What `main` returns.
FINE, WRONG_DATA, WRONG_USE = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    whole = argparse.ArgumentParser(
        prog="rustloss", description="Training losses: look at them, compute them, measure them."
    )
    whole.add_argument("--version", action="version", version=f"rustloss {__version__}")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    for module in (_show, _eval, _align, _bench, _doctor):
        module.add(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words of the command; by default those that the process was started with.

    Returns
    -------
    int
        The exit code.

    Examples
    --------
    >>> from rustloss.cli import main
    >>> main(["show", "L3Loss"])
    2
    """
    try:
        given = parser().parse_args(arguments)
    except SystemExit as stop:  # --help, or what argparse has refused and explained
        return int(stop.code or FINE)
    try:
        code = given.run(given)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough; nor must the flush at the end complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except KeyboardInterrupt:
        return 128 + 2  # as a shell has it
    except (UsageError, ParameterError) as error:
        return _complain(error, WRONG_USE)
    except (ArgumentError, OSError, MemoryError) as error:
        return _complain(error, WRONG_DATA)
    return int(code)


def _complain(error: Exception, code: int) -> int:
    sys.stderr.write(f"rustloss: error: {str(error) or type(error).__name__}\n")
    return code
