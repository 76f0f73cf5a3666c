"""Tables in Markdown and in a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)
) -> str:
    """The lines of a table; columns are aligned to the right, except for those at `left`."""
    rule = ["---" if k in left else "---:" for k in range(len(header))]
    # A "|" inside a cell would end it.
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def print_table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Collection[int] = (0,),
    note: str = "",
) -> None:
    """Prints a table; columns are aligned to the right, except for those at `left`.

    In a narrow terminal columns are broken at spaces, the widest first, and so numbers never are.
    """
    console = Console()
    table = Table(
        title=Text(title, "table.title"), title_justify="left",
        caption=Text(note, "table.caption") if note else None, caption_justify="left",
    )  # fmt: skip
    lines = [list(header), *map(list, rows)]
    widths = _widths(lines, console.width)
    for k, (name, width) in enumerate(zip(header, widths, strict=True)):
        justify: Literal["left", "right"] = "left" if k in left else "right"
        table.add_column(Text(name), justify=justify, overflow="fold", width=width)
    for row in lines[1:]:
        table.add_row(*map(Text, row))
    console.print(table)


def _widths(lines: Sequence[Sequence[str]], room: int) -> list[int]:
    """The width of each column, as narrow as fits, but not below its longest word."""
    columns = list(zip(*lines, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    words = [max(cell_len(word) for cell in column for word in cell.split() or [""])
             for column in columns]  # fmt: skip
    # Two spaces and a border each, and a last border.
    while sum(widths) + 3 * len(widths) + 1 > room:
        spare = [width if width > word else 0 for width, word in zip(widths, words, strict=True)]
        if not any(spare):
            break
        widths[spare.index(max(spare))] -= 1
    return widths
