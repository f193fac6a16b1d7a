"""The limits of a file, and how it keeps them: text, Markdown, JUnit, JSON."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from tflite_export.tables import Table, as_markdown, as_text

ACCELERATOR_KEY = "accelerator"
_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "Ki": 2**10, "Mi": 2**20}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(k|M|Ki|Mi)?")
_JUNIT_NAME = "tflite-export gate"


class Measure(NamedTuple):
    """A number of a file: its name, how it is shown, and which side is bad."""

    title: str
    form: str
    grows_worse: bool = True


# In the order of the rows. A baseline has all but the agreement.
MEASURES = {
    "bytes": Measure("bytes", ",d"),
    "arena_bytes": Measure("arena, bytes", ",d"),
    "cycles": Measure("cycles", ",d"),
    "sparsity": Measure("zeros", ".2%", grows_worse=False),
    "agreement": Measure("top-1 agreement", ".2%", grows_worse=False),
}
IN_BASELINE = ("bytes", "arena_bytes", "cycles", "sparsity")


class Limits(NamedTuple):
    """The limits of a file; None sets none.

    `max_bytes` is of the file, `max_arena` of the tensors of a microcontroller,
    `max_cycles` of an Ethos-U by Vela's model. `min_agreement` is the fraction
    of samples with the same largest class as the reference, `min_sparsity` the
    fraction of zeros among all weights; both are in [0, 1].
    """

    max_bytes: int | None = None
    max_arena: int | None = None
    max_cycles: int | None = None
    min_agreement: float | None = None
    min_sparsity: float | None = None

    def by_measure(self) -> dict[str, float]:
        """Returns the limits that are set, by the name of the number."""
        named = {
            "bytes": self.max_bytes,
            "arena_bytes": self.max_arena,
            "cycles": self.max_cycles,
            "sparsity": self.min_sparsity,
            "agreement": self.min_agreement,
        }
        return {
            name: limit for name, limit in named.items() if limit is not None
        }


@dataclasses.dataclass(frozen=True)
class GateCheck:
    """One number of a file and its limit.

    Attributes:
        measure: `"bytes"`, `"arena_bytes"`, `"cycles"`, `"sparsity"` or
            `"agreement"`.
        value: The number.
        limit: The largest or the least that is allowed.
        origin: `"limit"`, or `"baseline"` with the tolerance.
    """

    measure: str
    value: float
    limit: float
    origin: str

    @property
    def is_met(self) -> bool:
        """Whether the number keeps the limit; one that is equal does."""
        if MEASURES[self.measure].grows_worse:
            return self.value <= self.limit
        return self.value >= self.limit

    @property
    def title(self) -> str:
        """The name of the number and the origin of the limit."""
        return f"{MEASURES[self.measure].title} ({self.origin})"

    def cells(self) -> tuple[str, ...]:
        """Returns the row of a table."""
        _, form, grows_worse = MEASURES[self.measure]
        side = "at most" if grows_worse else "at least"
        numbers = format(self.value, form), format(self.limit, form)
        return (self.title, numbers[0], side, numbers[1], self.result)

    @property
    def result(self) -> str:
        """`"ok"` or `"FAILED"`."""
        return "ok" if self.is_met else "FAILED"


@dataclasses.dataclass(frozen=True)
class GateReport:
    """The checks of a file; `str()` is a table.

    Attributes:
        path: The file.
        checks: One `GateCheck` for each limit.
        measured: All that was measured, by name.

    Example:

    >>> check = GateCheck("bytes", 2048, 2000, "limit")
    >>> print(GateReport(Path("kws.tflite"), (check,), {"bytes": 2048}))
    kws.tflite: FAILED
    check          value           limit  result
    bytes (limit)  2,048  at most  2,000  FAILED
    """

    path: Path
    checks: tuple[GateCheck, ...]
    measured: Mapping[str, float]

    @property
    def is_ok(self) -> bool:
        """Whether all limits are kept."""
        return all(check.is_met for check in self.checks)

    def parts(self) -> list[str | Table]:
        """Returns one table."""
        title = f"{self.path}: {'ok' if self.is_ok else 'FAILED'}"
        if not self.checks:
            numbers = [
                f"{MEASURES[name].title} {value:{MEASURES[name].form}}"
                for name, value in self.measured.items()
            ]
            return [f"{self.path}: {', '.join(numbers)}"]
        columns = ("check", "value", "", "limit", "result")
        return [Table(title, columns, [c.cells() for c in self.checks])]

    def __str__(self) -> str:
        """Returns the table as text."""
        return as_text(self.parts())

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "path": str(self.path),
            "is_ok": self.is_ok,
            "measured": dict(self.measured),
            "checks": [
                {**dataclasses.asdict(check), "is_met": check.is_met}
                for check in self.checks
            ],
        }

    def to_markdown(self) -> str:
        """Returns the table in Markdown, for the summary of a CI."""
        return f"{as_markdown(self.parts())}\n"

    def to_junit(self) -> str:
        """Returns JUnit's XML, one test a check; no dates, no host."""
        failed = sum(not check.is_met for check in self.checks)
        counts = {"tests": str(len(self.checks)), "failures": str(failed)}
        top = ElementTree.Element("testsuites", counts)
        suite = ElementTree.SubElement(
            top, "testsuite", {"name": _JUNIT_NAME, **counts, "errors": "0"}
        )
        for check in self.checks:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                {"classname": str(self.path), "name": check.title},
            )
            if not check.is_met:
                text = " ".join(check.cells()[:-1])
                ElementTree.SubElement(case, "failure", {"message": text})
        ElementTree.indent(top)
        xml: str = ElementTree.tostring(top, "unicode")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}\n'

    def to_baseline(self, accelerator: str) -> str:
        """Returns the numbers as JSON, for `read_baseline`."""
        held: dict[str, Any] = {
            name: self.measured[name]
            for name in IN_BASELINE
            if name in self.measured
        }
        if "cycles" in held:
            held[ACCELERATOR_KEY] = accelerator
        return f"{json.dumps(held, indent=2)}\n"


def parse_size(text: str) -> int:
    """Returns a number of bytes or cycles; k and M are 10**3 and 10**6.

    Ki and Mi are 2**10 and 2**20. A fraction of a byte is a ValueError.

    Example:

    >>> parse_size("100k"), parse_size("1.5M"), parse_size("32Ki")
    (100000, 1500000, 32768)
    >>> parse_size("100kB")
    Traceback (most recent call last):
    ...
    ValueError: Expected a whole number such as 2048, 100k (10**3), 1.5M \
(10**6), 32Ki (2**10) or 1Mi (2**20). Received: '100kB'.
    """
    match = _SIZE.fullmatch(text)
    size = float(match[1]) * _SUFFIXES[match[2] or ""] if match else math.nan
    # `32.1k` is whole, and 32.1 * 1000 in floats is not quite.
    if not match or abs(size - round(size)) > 1e-6:
        raise ValueError(
            "Expected a whole number such as 2048, 100k (10**3), 1.5M (10**6), "
            f"32Ki (2**10) or 1Mi (2**20). Received: {text!r}."
        )
    return round(size)
