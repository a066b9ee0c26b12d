"""What all commands share: exit codes, and errors as one line on stderr."""

from __future__ import annotations

import argparse
import sys
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

    Unusable arguments give 2, every other error of ours 1, Ctrl-C 130. Warnings become lines on stderr.
    """
    args = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            run(args)
    except InvalidArgumentError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return USAGE
    except OmniError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return FAILED
    except ModuleNotFoundError as error:
        print(f"{parser.prog}: needs the package '{error.name}': pip install 'omni[all]'", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
