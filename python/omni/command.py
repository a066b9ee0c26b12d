"""What all commands share: exit codes, and errors as one line on stderr."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from omni.errors import InvalidArgumentError, OmniError

# Exit codes of every command.
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parses `arguments` (the process's own by default), runs, and returns the exit code.

    Unusable arguments give 2, every other error 1, Ctrl-C 130. Errors are one line on stderr; with an option
    `verbose` their traceback comes first. Warnings become lines on stderr.
    """
    args = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            run(args)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has gone; what Python still holds must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if getattr(args, "verbose", False):
            traceback.print_exc()
        print(f"{parser.prog}: {_describe(error)}", file=sys.stderr)
        return USAGE if isinstance(error, InvalidArgumentError) else FAILED
    return DONE


def _describe(error: Exception) -> str:
    if isinstance(error, OmniError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"needs the package '{error.name}': pip install 'omni[all]'"
    return f"internal error, please report it: {type(error).__name__}: {error}"


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
