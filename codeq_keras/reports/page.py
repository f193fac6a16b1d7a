"""write_page: a report as one HTML file that needs nothing else.

The parts of a page are `Facts`, `Grid`, `Figures` and `Lines`. Names of layers
are text of the user: the template escapes all but charts, which escape theirs.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from codeq_keras.extras import missing_extra
from codeq_keras.reports.files import write_whole

_TEMPLATES = pathlib.Path(__file__).with_name("templates")
_PACKAGES = ("codeq-keras", "keras", "tensorflow", "jax", "ai-edge-litert")


class Fact(NamedTuple):
    """A headline number: its name, its value and a word on it."""

    name: str
    value: str
    detail: str = ""


class Cell(NamedTuple):
    """A cell of a table; `part` in [0, 1] draws a bar behind the text."""

    text: str
    part: float | None = None


class Figure(NamedTuple):
    """A picture of `charts`, and the sentence below it."""

    svg: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """Headline numbers beside each other."""

    items: Sequence[Fact]
    title: str = ""
    kind: str = "facts"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table; the first cell of a row is its name."""

    title: str
    columns: Sequence[str]
    is_numeric: Sequence[bool]
    rows: Sequence[Sequence[Cell]]
    kind: str = "table"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Pictures beside each other."""

    title: str
    figures: Sequence[Figure]
    kind: str = "figures"


@dataclasses.dataclass(frozen=True)
class Lines:
    """Sentences, one a line."""

    title: str
    lines: Sequence[str]
    kind: str = "lines"


Block = Facts | Grid | Figures | Lines


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Sequence[str],
    blocks: Sequence[Block],
) -> None:
    """Writes a page, whole or not at all; blocks without content are left out.

    `summary` has the sentences below the title.
    """
    checked = html_path(path)
    try:
        import jinja2
    except ImportError as error:
        raise missing_extra("`to_html`", "jinja2", "plot") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("page.html").render(
        title=title,
        summary=summary,
        blocks=[block for block in blocks if _has_content(block)],
        footer=f"Written by {_versions()}.",
    )
    write_whole(checked, lambda partial: partial.write_text(text, "utf-8"))


def html_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of an HTML file that can be written.

    Example:

    >>> html_path("report.png")
    Traceback (most recent call last):
    ...
    ValueError: `path` must end in '.html', in an existing folder. Received: \
'report.png'.
    """
    is_path = isinstance(path, str | os.PathLike)
    checked = pathlib.Path(path if is_path else "")
    if checked.suffix == ".html" and checked.parent.is_dir():
        return checked
    raise ValueError(
        "`path` must end in '.html', in an existing folder. Received: "
        f"{str(path) if is_path else path!r}."
    )


def _has_content(block: Block) -> bool:
    if isinstance(block, Facts):
        return bool(block.items)
    if isinstance(block, Grid):
        return bool(block.rows)
    if isinstance(block, Figures):
        return bool(block.figures)
    return bool(block.lines)


def _versions() -> str:
    """The installed packages that a result depends on."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
