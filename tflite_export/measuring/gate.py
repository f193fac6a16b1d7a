"""Holds a file to limits and to the numbers of before, for a CI."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.kinds import as_path, read_tflite
from tflite_export.inspection import tensor_rows
from tflite_export.tables import Table, as_markdown, as_text

ACCELERATOR = "ethos-u55-128"
TOLERANCE = 0.01
_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "Ki": 2**10, "Mi": 2**20}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(k|M|Ki|Mi)?")
_JUNIT_NAME = "tflite-export gate"
_ACCELERATOR_KEY = "accelerator"


class _Measure(NamedTuple):
    """A number of a file: its name, how it is shown, and which side is bad."""

    title: str
    form: str
    grows_worse: bool = True


# In the order of the rows. A baseline has all but the agreement.
_MEASURES = {
    "bytes": _Measure("bytes", ",d"),
    "arena_bytes": _Measure("arena, bytes", ",d"),
    "cycles": _Measure("cycles", ",d"),
    "sparsity": _Measure("zeros", ".2%", grows_worse=False),
    "agreement": _Measure("top-1 agreement", ".2%", grows_worse=False),
}
_IN_BASELINE = ("bytes", "arena_bytes", "cycles", "sparsity")


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
        if _MEASURES[self.measure].grows_worse:
            return self.value <= self.limit
        return self.value >= self.limit

    @property
    def title(self) -> str:
        """The name of the number and the origin of the limit."""
        return f"{_MEASURES[self.measure].title} ({self.origin})"

    def cells(self) -> tuple[str, ...]:
        """Returns the row of a table."""
        _, form, grows_worse = _MEASURES[self.measure]
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
                f"{_MEASURES[name].title} {value:{_MEASURES[name].form}}"
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
            for name in _IN_BASELINE
            if name in self.measured
        }
        if "cycles" in held:
            held[_ACCELERATOR_KEY] = accelerator
        return f"{json.dumps(held, indent=2)}\n"


def gate(
    path: str | os.PathLike[str],
    limits: Limits,
    *,
    baseline: Mapping[str, Any] | None = None,
    tolerance: float = TOLERANCE,
    reference: str | os.PathLike[str] | None = None,
    samples: Any = None,
    accelerator: str = ACCELERATOR,
) -> GateReport:
    """Measures what the limits and the baseline name, and compares.

    `baseline` has the numbers of before, as of `read_baseline`: bytes, arena
    and cycles may be larger by the fraction `tolerance` of them, and zeros
    fewer. The agreement is with the file `reference` on `samples`. What is
    asked and cannot be measured is a ValueError.
    """
    path = as_path(path)
    data = read_tflite(path)
    before = {n: v for n, v in (baseline or {}).items() if n in _MEASURES}
    _require_accelerator(baseline or {}, accelerator)
    asked = limits.by_measure()
    measured = _measured(path, data, {*asked, *before}, accelerator)
    if "agreement" in asked:
        measured["agreement"] = _agreement(path, reference, samples)
    checks = []
    for name, measure in _MEASURES.items():
        if name in asked:
            checks.append(_check(name, measured, asked[name], "limit"))
        if name in before:
            change = tolerance if measure.grows_worse else -tolerance
            allowed = before[name] * (1 + change)
            if isinstance(before[name], int):
                allowed = math.floor(allowed)
            origin = f"baseline, {tolerance:.2%}"
            checks.append(_check(name, measured, allowed, origin))
    return GateReport(path, tuple(checks), measured)


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


def read_baseline(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what `--write-baseline` wrote; another file is an error."""
    try:
        held = json.loads(Path(path).read_text())
        unknown = set(held) - {*_IN_BASELINE, _ACCELERATOR_KEY}
        numbers = [v for k, v in held.items() if k != _ACCELERATOR_KEY]
        if unknown or not numbers:
            raise ValueError(f"the entries {sorted(held)}")
        if not all(type(v) in (int, float) and v >= 0 for v in numbers):
            raise ValueError(f"the numbers {numbers}")
        return dict(held)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            "Expected a baseline that `tflite-export gate --write-baseline` "
            f"wrote. Received: {str(path)!r}, {error}. Write it again."
        ) from error


def _check(
    name: str, measured: Mapping[str, float], limit: float, origin: str
) -> GateCheck:
    return GateCheck(name, measured[name], limit, origin)


def _measured(
    path: Path, data: bytes, needed: set[str], accelerator: str
) -> dict[str, float]:
    measured: dict[str, float] = {"bytes": len(data)}
    if needed & {"arena_bytes", "cycles"}:
        measured |= _on_devices(path, data, needed, accelerator)
    sparsity = _sparsity(data)
    if sparsity is not None:
        measured["sparsity"] = sparsity
    elif "sparsity" in needed:
        raise ValueError(
            "Expected weights whose zeros can be counted. Received: "
            f"{str(path)!r}, which has none: a device's compiler packed them, "
            "or there are none. Leave out `--min-sparsity`, or give the file "
            "from before it."
        )
    return measured


def _on_devices(
    path: Path, data: bytes, needed: set[str], accelerator: str
) -> dict[str, float]:
    # Imported here: bytes and zeros need no tool, and no target.
    from tflite_export.measuring.devices import ethos_u, microcontroller
    from tflite_export.measuring.devices.records import Candidate
    from tflite_export.runtime.interpreter import zero_inputs

    candidate = Candidate(path, data, zero_inputs(Flatbuffer(data)))
    measured: dict[str, float] = {}
    if "arena_bytes" in needed:
        values = _values(microcontroller.measure(candidate), "the arena")
        measured["arena_bytes"] = int(values["arena_bytes"])
    if "cycles" in needed:
        found = ethos_u.measure(candidate, accelerator=accelerator)
        values = _values(found, "cycles")
        if values["num_cpu_operators"]:
            raise ValueError(
                "Expected a file that runs on the NPU alone: Vela counts no "
                f"cycles of a CPU. Received: {values['num_cpu_operators']} "
                "operators on the CPU. `tflite-export check --target "
                f"{accelerator}` names them."
            )
        measured["cycles"] = int(values["cycles"])
    return measured


def _values(found: Any, what: str) -> Mapping[str, Any]:
    """The results of a measure; what was not run is an error here."""
    reason = getattr(found, "reason", None)
    if reason is not None:
        raise ValueError(
            f"Expected a file and a tool that tell {what}. Received, on "
            f"{found.device}: {reason}"
        )
    values: Mapping[str, Any] = found.values
    return values


def _sparsity(data: bytes) -> float | None:
    """The fraction of zeros among all weights whose values are known."""
    rows = [row for row in tensor_rows(data) if row.is_weight]
    known = [
        (row.num_zeros, math.prod(row.shape))
        for row in rows
        if row.num_zeros is not None
    ]
    size = sum(n for _, n in known)
    return sum(zeros for zeros, _ in known) / size if size else None


def _agreement(
    path: Path, reference: str | os.PathLike[str] | None, samples: Any
) -> float:
    if reference is None or samples is None:
        raise ValueError(
            "`--min-agreement` needs a file to agree with, and samples. "
            "Received: none. Add `--reference other.tflite --samples x.npy`."
        )
    from tflite_export.runtime.predicting import predict

    outputs = [predict(file, samples) for file in (path, reference)]
    first, second = (
        held if isinstance(held, dict) else {"": held} for held in outputs
    )
    pairs = list(zip(first.values(), second.values(), strict=False))
    shapes = [
        [values.shape for values in held.values()] for held in (first, second)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Expected outputs of the shapes {shapes[1]}, as of "
            f"{str(reference)!r}. Received: {shapes[0]} of {str(path)!r}. Is "
            "it the file of another model?"
        )
    if any(a.ndim < 2 or a.shape[-1] < 2 for a, _ in pairs):
        raise ValueError(
            "`--min-agreement` needs outputs of several classes. Received: "
            f"outputs of shape {shapes[0]}. Leave it out."
        )
    same = [a.argmax(axis=-1) == b.argmax(axis=-1) for a, b in pairs]
    return float(min(np.mean(each) for each in same))


def _require_accelerator(baseline: Mapping[str, Any], accelerator: str) -> None:
    held = baseline.get(_ACCELERATOR_KEY, accelerator)
    if held != accelerator:
        raise ValueError(
            f"Expected cycles of {accelerator!r} in the baseline. Received: "
            f"those of {held!r}. Add `--accelerator {held}`."
        )
