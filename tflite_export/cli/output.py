"""Exit codes, progress and reports in the terminal."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from tflite_export.tables import Parts, as_text

EXIT_OK = 0
# The file is readable, and the answer of the command is no.
EXIT_NO = 1
# argparse ends with 2 on wrong arguments.
EXIT_ERROR = 3


class _Report(Protocol):
    def parts(self) -> Parts: ...

    def to_dict(self) -> dict[str, Any]: ...


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Shows on a terminal that work goes on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    # On stderr, so that the table or the JSON can be piped.
    with Console(stderr=True).status(f"{text} ..."):
        yield


def show(
    options: argparse.Namespace, report: _Report, *, notes: Sequence[str] = ()
) -> None:
    """Prints a report and notes, as JSON or in color."""
    if options.json:
        plain = report.to_dict() | ({"notes": list(notes)} if notes else {})
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    parts = [*report.parts(), *(f"note: {text}" for text in notes)]
    # A pipe has no width and no color, and needs no second to load them.
    if not sys.stdout.isatty():
        sys.stdout.write(f"{as_text(parts)}\n")
        return
    from rich.console import Console

    from tflite_export.cli.render import as_rich

    Console().print(as_rich(parts), highlight=False)
