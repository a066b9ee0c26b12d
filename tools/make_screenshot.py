"""Runs a command for real and draws what its terminal showed as SVG, for the README.

    python tools/make_screenshot.py                        # docs/bench.svg, from the benchmark's first stage
    python tools/make_screenshot.py OUT.svg COMMAND...     # another picture

Run it on a quiet machine: the picture shows real times. Needs rich, which the package's `cli` extra brings.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

OUT = Path(__file__).parents[1] / "docs" / "bench.svg"
COMMAND = ["python", "-m", "omni.bench", "--synthetic", "minicpm-o-4.5", "--layers", "4", "llm"]


def draw(command: list[str], output: str) -> str:
    """The SVG of a terminal with `output`, titled by the command line, as wide as its longest line."""
    lines = output.rstrip().splitlines()
    # Output is text of the command's own: never markup, never wrapped.
    title = shlex.join(command)
    width = max(map(len, [title, *lines]))
    console = Console(record=True, file=StringIO(), width=width, legacy_windows=False)
    console.print(Text("\n".join(lines)), soft_wrap=True)
    return console.export_svg(title=title)


def run(command: list[str]) -> str:
    """What the command shows on a terminal: stdout and stderr, in their order."""
    # The interpreter that runs this has the package; the title keeps the plain name.
    program = sys.executable if command[0] == "python" else command[0]
    result = subprocess.run(
        [program, *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed ({result.returncode}):\n{result.stdout}")
    return result.stdout


def main() -> None:
    """Run and draw."""
    if len(sys.argv) == 2:
        sys.exit(__doc__)
    out, command = (Path(sys.argv[1]), sys.argv[2:]) if len(sys.argv) > 2 else (OUT, COMMAND)
    picture = draw(command, run(command))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
