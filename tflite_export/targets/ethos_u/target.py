"""Arm Ethos-U: compiles with Vela and reports bytes, cycles and memory.

Vela compresses the stream of weights itself, so a dense int8 file with zeros
and few levels is what it wants; sparse and int4 tensors it cannot read.
"""

import csv
import dataclasses
import re
from pathlib import Path

from tflite_export.extras import require_extra
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime.sandbox import run_script
from tflite_export.targets.findings import (
    CheckReport,
    Finding,
    operator_counts,
    require_storage,
    storage_findings,
)

TIME_LIMIT_S = 600.0
_SCRIPT = Path(__file__).with_name("vela_child.py")
_KIB = 1024
# System and memory configurations that Vela ships, by generation.
_SYSTEMS = {
    "ethos-u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "ethos-u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}
_FALLBACK = re.compile(
    r"Warning \(supported operators\) operator: (?P<operator>[^,\n]+), ofm: "
    r"'(?P<tensor>[^'\n]*)'\s*\nReason: (?P<reason>[^\n]*)"
)
_NUM_CPU = re.compile(r"CPU operators = (\d+)")


@dataclasses.dataclass(frozen=True)
class EthosUReport:
    """What Vela made of a file; cycles are its own model, not silicon.

    Attributes:
        accelerator: The size, such as `"ethos-u55-128"`.
        system: Vela's system and memory configuration.
        num_weights: Number of weights on the NPU.
        encoded_bytes: Bytes of their compressed stream.
        cycles: Cycles of an inference.
        npu_cycles: Cycles of the arithmetic alone.
        sram_bytes: SRAM for activations and buffers.
        flash_bytes: Off-chip flash, and DRAM where the system has it instead.
        cpu_operators: Operator, tensor and reason of what is not on the NPU.
        num_cpu_operators: How many these are; Vela may give no reason.
        compiled: The bytes of the compiled file.
    """

    accelerator: str
    system: str
    num_weights: int
    encoded_bytes: int
    cycles: int
    npu_cycles: int
    sram_bytes: int
    flash_bytes: int
    cpu_operators: tuple[tuple[str, str, str], ...]
    num_cpu_operators: int
    compiled: bytes = dataclasses.field(repr=False)

    @property
    def bits_per_weight(self) -> float:
        """Encoded bits for each weight."""
        return 8 * self.encoded_bytes / max(self.num_weights, 1)

    def __str__(self) -> str:
        """Returns a summary of one line."""
        return (
            f"{self.accelerator} ({self.system}): {self.encoded_bytes:,} bytes "
            f"of encoded weights, {self.bits_per_weight:.2f} bits a weight; "
            f"{self.cycles:,} cycles by Vela's model ({self.npu_cycles:,} of "
            f"arithmetic); SRAM {self.sram_bytes:,} bytes, flash or DRAM "
            f"{self.flash_bytes:,} bytes"
        )

    def to_dict(self) -> dict[str, float]:
        """Returns the numbers, for tables and JSON."""
        return {
            "encoded_bytes": self.encoded_bytes,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "cycles": self.cycles,
            "npu_cycles": self.npu_cycles,
            "sram_bytes": self.sram_bytes,
            "flash_bytes": self.flash_bytes,
        }


def compile_file(data: bytes, *, accelerator: str) -> EthosUReport:
    """Compiles a file with Vela, in a child with limits.

    Args:
        data: A `.tflite` file with dense int8 weights.
        accelerator: The size, such as `"ethos-u55-128"`.

    Returns:
        `EthosUReport`; operators on the CPU are listed in it, no error.

    Raises:
        ImportError: If Vela is missing.
        ValueError: If it cannot read the file, or crashes.
    """
    require_storage(Flatbuffer(data), "Ethos-U")
    require_extra(
        "ethosu.vela", extra="targets", needed_for="The target Ethos-U (Vela)"
    )
    generation = accelerator.rpartition("-")[0]
    system, memory = _SYSTEMS[generation]
    arguments = [
        *("--accelerator-config", accelerator),
        *("--system-config", system),
        *("--memory-mode", memory),
    ]
    outputs, log = run_script(
        _SCRIPT, data, {}, {"arguments": arguments}, time_limit_s=TIME_LIMIT_S
    )
    summary = outputs["summary"].tobytes().decode()
    (row,) = csv.DictReader(summary.splitlines())
    num_cpu = _NUM_CPU.search(log)
    fallbacks = tuple(
        (m["operator"], m["tensor"], m["reason"])
        for m in _FALLBACK.finditer(log)
    )
    return EthosUReport(
        accelerator=accelerator,
        system=f"{system}, {memory}",
        num_weights=_count(row["total_original_weights"]),
        encoded_bytes=_count(row["total_npu_encoded_weights"]),
        cycles=_count(row["cycles_total"]),
        npu_cycles=_count(row["cycles_npu"]),
        sram_bytes=_count(row["sram_memory_used"], _KIB),
        flash_bytes=_count(row["off_chip_flash_memory_used"], _KIB)
        + _count(row["dram_memory_used"], _KIB),
        cpu_operators=fallbacks,
        num_cpu_operators=int(num_cpu[1]) if num_cpu else len(fallbacks),
        compiled=outputs["compiled"].tobytes(),
    )


def require_no_fallback(report: EthosUReport) -> None:
    """Raises an error if an operator would run on the CPU.

    Args:
        report: From `compile_file`.

    Raises:
        ValueError: Which operators, and why.
    """
    if not report.num_cpu_operators:
        return
    reasons = [
        f"- {operator} {tensor!r}: {reason}"
        for operator, tensor, reason in report.cpu_operators
    ]
    raise ValueError(
        f"All operators must run on {report.accelerator}. Received: "
        f"{report.num_cpu_operators} that fall back to the CPU. Replace their "
        "layers, or export with `target='tflm'`.\n" + "\n".join(reasons)
    )


def check_file(data: bytes, *, target: str, accelerator: str) -> CheckReport:
    """Says what of a file would run on the NPU.

    Args:
        data: The file.
        target: The name of the target, for the report.
        accelerator: The size, such as `"ethos-u55-128"`.

    Returns:
        `CheckReport`.

    Raises:
        ImportError: If Vela is missing.
        ValueError: If it cannot compile the file.
    """
    file = Flatbuffer(data)
    findings = storage_findings(file, "Ethos-U")
    if findings:
        return CheckReport(target, {}, tuple(findings), {})
    report = compile_file(data, accelerator=accelerator)
    on_npu, on_cpu = operator_counts(file), dict[str, int]()
    for operator, tensor, reason in report.cpu_operators:
        on_npu[operator] = on_npu.get(operator, 0) - 1
        on_cpu[operator] = on_cpu.get(operator, 0) + 1
        findings.append(
            Finding(
                f"{operator} {tensor!r}",
                f"falls back to the CPU: {reason}.",
                "Replace the layer by one that Vela supports.",
            )
        )
    placement = {
        "NPU": {name: n for name, n in on_npu.items() if n > 0},
        "CPU": on_cpu,
    }
    return CheckReport(
        target,
        {place: counts for place, counts in placement.items() if counts},
        tuple(findings),
        report.to_dict(),
    )


def _count(text: str, unit: int = 1) -> int:
    return round(float(text) * unit)
