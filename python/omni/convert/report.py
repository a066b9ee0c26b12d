"""Tables for people, and progress bars on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TextIO

from omni.convert.plan import FilePlan
from omni.convert.writer import Progress

# Columns of a table that goes into a file or pipe.
_FILE_WIDTH = 160


def print_table(
    title: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Sequence[int] = (),
    file: TextIO | None = None,
) -> None:
    """Prints a table, with rich if it is there. `right`: columns of numbers; `file`: stderr by default."""
    rows, file = list(rows), file or sys.stderr
    if find_spec("rich") is not None:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(title), title_justify="left")
        for i, header in enumerate(headers):
            table.add_column(header, justify="right" if i in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console = Console(file=file)
        if not console.is_terminal:
            console.width = _FILE_WIDTH
        console.print(table)
        return
    widths = [max(len(cells[i]) for cells in [headers, *rows]) for i in range(len(headers))]
    print(title, file=file)
    for row in [headers, *rows]:
        cells = [
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), file=file)


def print_plan(plan: FilePlan) -> None:
    """The tensor table of a planned file."""
    rows = [
        (t.name, t.type, shape_text(t.shape[::-1]), f"{t.size:,}", ", ".join(s.name for s in t.sources))
        for t in plan.tensors
    ]
    title = f"{plan.path}: {len(plan.tensors)} tensors, {plan.file_size():,} bytes"
    print_table(title, ("tensor", "type", "shape", "bytes", "from"), rows, right=(3,))
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)


def shape_text(ne: Sequence[int]) -> str:
    """A shape for people, e.g. `4096 x 151748`."""
    return " x ".join(str(n) for n in ne)


@contextmanager
def progress_bar(total: int, title: str, quiet: bool) -> Iterator[Progress | None]:
    """A bar over bytes; nothing when quiet."""
    if quiet:
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=title, unit="B", unit_scale=True, file=sys.stderr) as bar:
        yield lambda count: _advance(bar.update, count)


def _advance(update: object, count: int) -> None:
    assert callable(update)
    update(count)
