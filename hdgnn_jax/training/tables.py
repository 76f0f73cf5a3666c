"""Tables in Markdown and in a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

SHORT = 8
"""Characters to which a column of words can be narrowed."""


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

    In a narrow terminal headings and columns at `left` are broken at spaces, then the other columns
    too, and then words at `left`. No number is broken: what is still too wide leaves the terminal.
    """
    room = Console().width
    table = Table(
        title=Text(title, "table.title"), title_justify="left",
        caption=Text(note, "table.caption") if note else None, caption_justify="left",
    )  # fmt: skip
    lines = [list(header), *map(list, rows)]
    widths = _widths(lines, left, room)
    for k, (name, width) in enumerate(zip(header, widths, strict=True)):
        justify: Literal["left", "right"] = "left" if k in left else "right"
        table.add_column(Text(name), justify=justify, overflow="fold", width=width)
    for row in lines[1:]:
        table.add_row(*map(Text, row))
    Console(width=max(_whole(widths), room)).print(table)


def print_text(text: str) -> None:
    """Prints a text, broken into lines at spaces."""
    Console(highlight=False).print(text, markup=False)


def _widths(lines: Sequence[Sequence[str]], left: Collection[int], room: int) -> list[int]:
    """The width of each column, as narrow as fits."""
    columns = list(zip(*lines, strict=True))
    cells = [max(map(cell_len, column[1:]), default=0) for column in columns]
    words = [_longest(*column) for column in columns]
    headings = [_longest(column[0]) for column in columns]
    numbers = [k not in left for k in range(len(columns))]
    widths = [max(map(cell_len, column)) for column in columns]
    for least in (
        [max(c, h) if n else w for c, h, n, w in zip(cells, headings, numbers, words, strict=True)],
        words,
        [w if n else min(w, SHORT) for n, w in zip(numbers, words, strict=True)],
    ):
        while _whole(widths) > room:
            spare = [w if w > l else 0 for w, l in zip(widths, least, strict=True)]
            if not any(spare):
                break
            widths[spare.index(max(spare))] -= 1
    return widths


def _longest(*cells: str) -> int:
    """The length of the longest word."""
    return max((cell_len(word) for cell in cells for word in cell.split()), default=0)


def _whole(widths: Sequence[int]) -> int:
    """The width of a table: of each column two spaces and a border more, and a last border."""
    return sum(widths) + 3 * len(widths) + 1
