"""Shows the lines and tables of a report in the terminal, in color."""

import re

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from tflite_export.tables import Parts, Table

_STYLES = (
    (re.compile(r": ok$|: (\d+) of \1 tensors equal$"), "green"),
    (re.compile(r": blocked$|^blocked: |tensors equal$|^DIFFERENT: "), "red"),
    (re.compile(r"^note: |^not run on "), "yellow"),
)


def as_rich(parts: Parts) -> Group:
    """Returns the lines and tables of a report for `rich.Console.print`."""
    return Group(
        *(_rich_table(p) if isinstance(p, Table) else _line(p) for p in parts)
    )


def _line(text: str) -> Text:
    styles = (style for pattern, style in _STYLES if pattern.search(text))
    # A path in brackets is no markup.
    return Text(text, next(styles, ""))


def _rich_table(table: Table) -> RichTable:
    title = Text(table.title)
    rich = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column, is_numeric in zip(
        table.columns, table.is_numeric(), strict=True
    ):
        # Numbers stay whole on narrow terminals; names are folded.
        rich.add_column(
            column,
            justify="right" if is_numeric else "left",
            overflow="fold",
            no_wrap=is_numeric,
        )
    for row in table.rows:
        rich.add_row(*map(Text, row))
    return rich
