"""Results: rows of JSON that a run resumes from, and pages of Markdown."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file, one JSON object a line; none without it."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def append(path: Path, row: dict[str, Any]) -> None:
    """Adds a row in one write, and prints it."""
    line = json.dumps(row)
    with path.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def mean_and_deviation(values: Sequence[float], digits: int = 2) -> str:
    """Returns the mean, with the standard deviation of two values or more."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def median_and_range(
    values: Sequence[float], digits: int, outer: tuple[float, float] = (0, 100)
) -> str:
    """Returns the median with two percentiles, the extremes by default."""
    low, median, high = np.percentile(values, [outer[0], 50, outer[1]])
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def write_page(path: Path, title: str, *parts: str) -> None:
    """Writes a page of Markdown; whole, so that an old one never stays half."""
    text = "\n\n".join([f"# {title}", *(part for part in parts if part)])
    part = path.with_suffix(".part")
    part.write_text(text.rstrip("\n") + "\n")
    part.replace(path)
