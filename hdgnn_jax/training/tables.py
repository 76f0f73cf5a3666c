"""Tables in Markdown and in a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

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

    Where the terminal is too narrow, headings and the columns at `left` are broken into lines, and
    where that is not enough, the other cells at their spaces.
    """
    console, cells = Console(), list(rows)
    table = Table(
        title=Text(title, "table.title"), title_justify="left",
        caption=Text(note, "table.caption") if note else None, caption_justify="left",
    )  # fmt: skip
    for k, name in enumerate(header):
        table.add_column(Text(name), justify="left" if k in left else "right", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    wide = console.options.update(max_width=1_000)
    if console.measure(table, options=wide).maximum > console.width:
        for k, name in enumerate(header):
            if k not in left:
                pieces = [*name.split(), *(row[k] for row in cells)]
                table.columns[k].width = max(map(cell_len, pieces), default=0)
        if console.measure(table, options=wide).minimum > console.width:
            for column in table.columns:
                column.width = None
    console.print(table)
