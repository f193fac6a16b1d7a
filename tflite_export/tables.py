"""Tables and lines of text, the parts of all reports of this package."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from codeq_keras.reports import Block

_NUMBER = re.compile(r"-|-?[\d,.]+(e[-+]\d+)?%?|inf")
_GAP = "  "


class Table(NamedTuple):
    """A title, the names of the columns, and the cells of each row."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def is_numeric(self) -> tuple[bool, ...]:
        """Returns for each column if it holds numbers: they stand at the right.

        Example:

        >>> table = Table("", ("file", "bytes"), [("a", "1,024"), ("b", "-")])
        >>> table.is_numeric()
        (False, True)
        """
        return tuple(
            all(_NUMBER.fullmatch(row[position]) for row in self.rows)
            for position in range(len(self.columns))
        )


# A report in the order of reading: lines of text and tables.
Parts = Iterable[str | Table]


def as_text(parts: Parts) -> str:
    """Returns lines as they are and tables in columns of equal width.

    Example:

    >>> sizes = Table("Size", ("file", "bytes"), [("a", "1,024"), ("bc", "96")])
    >>> print(as_text(["two files", sizes]))
    two files
    <BLANKLINE>
    Size
    file  bytes
    a     1,024
    bc       96
    """
    return _joined(parts, _text_of)


def as_markdown(parts: Parts) -> str:
    """Returns lines as items of a list and tables in Markdown.

    Example:

    >>> print(as_markdown([Table("Size", ("file", "bytes"), [("a", "1,024")])]))
    Size:
    <BLANKLINE>
    | file | bytes |
    |---|---:|
    | a | 1,024 |
    """
    marked = (p if isinstance(p, Table) else f"- {p}" for p in parts)
    return _joined(marked, _markdown_of)


def entropy_text(stored: int, bound: float) -> str:
    """Returns the bytes of weights and their ratio to the entropy bound.

    Example:

    >>> entropy_text(500, 400.0)
    '500 bytes, 1.25x their entropy bound of 400'
    >>> entropy_text(0, 0.0)
    'none'
    """
    if not stored:
        return "none"
    ratio = f"{stored / bound:.2f}x their" if bound else "the"
    return f"{stored:,} bytes, {ratio} entropy bound of {bound:,.0f}"


def _joined(parts: Parts, form: Callable[[Table], str]) -> str:
    """Sets blank lines around tables only."""
    text, was_line = "", False
    for part in parts:
        is_line = isinstance(part, str)
        if text:
            text += "\n" if is_line and was_line else "\n\n"
        text += part if isinstance(part, str) else form(part)
        was_line = is_line
    return text


def _text_of(table: Table) -> str:
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    styles = list(zip(widths, table.is_numeric(), strict=True))
    text = [table.title]
    for line in lines:
        cells = [
            cell.rjust(width) if is_numeric else cell.ljust(width)
            for cell, (width, is_numeric) in zip(line, styles, strict=True)
        ]
        text.append(_GAP.join(cells).rstrip())
    return "\n".join(text)


def _markdown_of(table: Table) -> str:
    ends = (
        "---:" if is_numeric else "---" for is_numeric in table.is_numeric()
    )
    lines = [f"| {' | '.join(row)} |" for row in (table.columns, *table.rows)]
    rule = f"|{'|'.join(ends)}|"
    return "\n".join([f"{table.title}:", "", lines[0], rule, *lines[1:]])


def as_blocks(parts: Parts) -> "list[Block]":
    """Returns lines and tables as parts of an HTML page."""
    # Imported here: a table needs no Keras.
    from codeq_keras.reports import Cell, Grid, Lines

    blocks: list[Block] = []
    for part in parts:
        if isinstance(part, Table):
            rows = [[Cell(text) for text in row] for row in part.rows]
            numeric = part.is_numeric()
            blocks.append(Grid(part.title, part.columns, numeric, rows))
        elif blocks and isinstance(blocks[-1], Lines):
            blocks[-1] = Lines("Notes", [*blocks[-1].lines, part])
        else:
            blocks.append(Lines("Notes", [part]))
    return blocks
