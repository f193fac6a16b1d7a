"""The report of a check: where operators run, and the faults of a file."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.tables import as_text


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault of a file on a target, or a note on it.

    Attributes:
        subject: The operator or the tensor, with its name.
        text: The fault.
        remedy: The change of the model that removes it.
        is_blocking: Whether the file must not be used on the target.
    """

    subject: str
    text: str
    remedy: str
    is_blocking: bool = True

    def __str__(self) -> str:
        """Returns one line."""
        kind = "blocked" if self.is_blocking else "note"
        return f"{kind}: {self.subject}: {self.text} {self.remedy}"


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """The report of `check`; `str()` is a summary.

    Attributes:
        target: The target.
        placement: The number of operators by place ("NPU", "CPU", ...) and by
            name.
        findings: The faults and notes.
        facts: The measured numbers: cycles, bytes of memory, ...

    Example:

    >>> finding = Finding("SIN", "runs on the CPU.", "Replace it.")
    >>> report = CheckReport("ethos-u", {"NPU": {"ADD": 2}}, (finding,), {})
    >>> report.is_ok
    False
    >>> print(report)
    ethos-u: blocked
    NPU: 2 ADD
    blocked: SIN: runs on the CPU. Replace it.
    """

    target: str
    placement: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]
    facts: Mapping[str, float]

    @property
    def is_ok(self) -> bool:
        """Whether nothing blocks the target."""
        return not any(finding.is_blocking for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return dataclasses.asdict(self) | {"is_ok": self.is_ok}

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        return as_text(self.parts())

    def parts(self) -> list[str]:
        """Returns the lines of the summary."""
        lines = [f"{self.target}: {'ok' if self.is_ok else 'blocked'}"]
        for place, counts in self.placement.items():
            names = ", ".join(f"{n} {name}" for name, n in counts.items())
            lines.append(f"{place}: {names}")
        lines += [f"{name}: {value:,g}" for name, value in self.facts.items()]
        return [*lines, *map(str, self.findings)]


def operator_counts(file: Flatbuffer) -> dict[str, int]:
    """Counts the operators of a file by name, in order of execution."""
    return dict(Counter(operator.name for operator in file.operators))


def storage_findings(file: Flatbuffer, target: str) -> list[Finding]:
    """Finds weights that only LiteRT reads; `target` is the name in texts."""
    readers = {
        (operator.subgraph, index): operator.name
        for operator in file.operators
        for index in operator.inputs
    }
    findings = []
    for subgraph in range(file.num_subgraphs):
        for tensor in file.tensors(subgraph):
            if not tensor.size_bytes:
                continue
            reader = readers.get((subgraph, tensor.index), "constant")
            subject = f"{reader} {tensor.name!r}"
            if tensor.sparse is not None:
                text = f"{target} would read a sparse tensor as a dense one."
            elif tensor.dtype in ("int2", "int4"):
                text = f"{target} cannot run {tensor.dtype} weights."
            else:
                continue
            remedy = "Export with `weight_storage='int8'`."
            findings.append(Finding(subject, text, remedy))
    return findings


def require_dense_storage(file: Flatbuffer, target: str) -> None:
    """Raises an error if the file has weights that only LiteRT can read."""
    findings = storage_findings(file, target)
    if findings:
        raise ValueError(
            f"A file for {target} must hold dense int8 weights. Received: "
            f"{findings[0].subject}. {findings[0].text} {findings[0].remedy}"
        )
