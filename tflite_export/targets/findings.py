"""The report of a check: where operators run, and the faults of a file."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.tensors import is_number
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


def run_failure(
    subject: str,
    file: Flatbuffer,
    error: Exception,
    *,
    is_blocking: bool = True,
) -> Finding:
    """Returns the finding of a run that failed, with advice where it fits."""
    text = str(error)
    if any(tensor.is_open for tensor in file.inputs().values()):
        return Finding(
            subject,
            f"was tried with 1 for each open size, which failed. {text}",
            "Convert the model with a fixed input shape, and check again.",
            is_blocking=False,
        )
    names = {operator.name for operator in file.operators} - {""}
    custom = {
        operator.name for operator in file.operators if operator.is_custom
    }
    if any(re.search(rf"\b{re.escape(name)}\b", text) for name in names):
        remedy = "Replace the layer whose operator it names."
    elif custom:
        remedy = f"It may lack the custom operators {sorted(custom)}."
    else:
        remedy = "It names no operator: convert the model again."
    text = f"does not run the file. {text}"
    return Finding(subject, text, remedy, is_blocking=is_blocking)


def compiled_report(
    target: str, file: Flatbuffer, operator: str, place: str
) -> CheckReport | None:
    """Returns the report on a file that was compiled for the device, or None.

    `operator` is the one that the device's compiler writes.
    """
    counts = operator_counts(file)
    if operator not in counts:
        return None
    others = {name: n for name, n in counts.items() if name != operator}
    placement = {place: {operator: counts[operator]}}
    note = Finding(
        f"{counts[operator]} {operator}",
        "were compiled for the device, so nothing is compiled here.",
        "Check the file from before its compiler to see cycles and faults.",
        is_blocking=False,
    )
    return CheckReport(
        target, placement | ({"CPU": others} if others else {}), (note,), {}
    )


def untried(file: Flatbuffer) -> list[Finding]:
    """Returns a note for each input that no sample can be made for."""
    return [
        Finding(
            f"input {tensor.name!r}",
            f"takes {tensor.dtype}, so the file was not run.",
            "Run it with inputs of your own.",
            is_blocking=False,
        )
        for tensor in file.inputs().values()
        if not is_number(tensor.dtype)
    ]


def operator_counts(file: Flatbuffer) -> dict[str, int]:
    """Counts the operators of a file by name, in order of execution."""
    return dict(Counter(operator.name for operator in file.operators))


def storage_findings(
    file: Flatbuffer, target: str, *, reads_int4: bool = False
) -> list[Finding]:
    """Finds weights that only LiteRT reads; `target` is the name in texts.

    `reads_int4`: the target reads int4 weights, with one scale a tensor.
    """
    readers = {
        (operator.subgraph, index): operator.name
        for operator in file.operators
        for index in operator.inputs
    }
    findings = []
    for subgraph in range(file.num_subgraphs):
        for tensor in file.tensors(subgraph):
            reader = readers.get((subgraph, tensor.index))
            if reader is None or not tensor.size_bytes:
                continue
            subject = f"{reader} {tensor.name!r}"
            if tensor.sparse is not None:
                text = f"{target} would read a sparse tensor as a dense one."
            elif tensor.dtype == "int4" and reads_int4:
                if tensor.scales.size <= 1:
                    continue
                text = f"{target} cannot run int4 weights of several scales."
            elif tensor.dtype in ("int2", "int4", "uint4"):
                text = f"{target} cannot run {tensor.dtype} weights."
            else:
                continue
            remedy = "Export with `weight_storage='int8'`."
            findings.append(Finding(subject, text, remedy))
    return findings


def require_dense_storage(
    file: Flatbuffer, target: str, *, reads_int4: bool = False
) -> None:
    """Raises an error if the file has weights that only LiteRT can read."""
    findings = storage_findings(file, target, reads_int4=reads_int4)
    if findings:
        raise ValueError(
            f"A file for {target} must hold dense int8 weights. Received: "
            f"{findings[0].subject}. {findings[0].text} {findings[0].remedy}"
        )
