"""Compiles files with Vela, and reports bytes, cycles and memory."""

import csv
import dataclasses
import re
from pathlib import Path

from tflite_export.extras import require_extra
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime.sandbox import run_script
from tflite_export.targets.findings import require_dense_storage

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
_NUM_NPU = re.compile(r"NPU operators = (\d+)")


@dataclasses.dataclass(frozen=True)
class EthosUReport:
    """Vela's report on a file; cycles are those of its model, not of silicon.

    Attributes:
        accelerator: The size, such as `"ethos-u55-128"`.
        system: Vela's system and memory configuration.
        num_weights: Number of weights on the NPU.
        encoded_bytes: Bytes of their compressed stream.
        cycles: Cycles of an inference.
        npu_cycles: Cycles of the arithmetic alone.
        sram_bytes: SRAM for activations and buffers.
        flash_bytes: Off-chip flash, or DRAM if the system has that instead.
        cpu_operators: Name, tensor and reason of each operator on the CPU.
        num_cpu_operators: Number of these; Vela may give no reason for some.
        num_npu_operators: Number of operators on the NPU. If it is 0, cycles
            and bytes are 0 too, and say nothing.
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
    num_npu_operators: int
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
    """Compiles a file for a size such as `"ethos-u55-128"`, in a child.

    Operators on the CPU are in the report, and no error. A missing Vela is an
    ImportError, a file that it cannot read a ValueError.
    """
    file = Flatbuffer(data)
    require_dense_storage(file, "Ethos-U")
    # Vela calls all of these "CUSTOM".
    custom = {
        file.tensor(operator.subgraph, index).name: operator.name
        for operator in file.operators
        if operator.is_custom
        for index in operator.outputs[:1]
    }
    require_extra(
        "ethosu.vela", extra="targets", needed_for="The target Ethos-U"
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
    num_cpu, num_npu = _NUM_CPU.search(log), _NUM_NPU.search(log)
    cycles = _count(row["cycles_total"])
    fallbacks = tuple(
        (custom.get(m["tensor"], m["operator"]), m["tensor"], m["reason"])
        for m in _FALLBACK.finditer(log)
    )
    return EthosUReport(
        accelerator=accelerator,
        system=f"{system}, {memory}",
        num_weights=_count(row["total_original_weights"]),
        encoded_bytes=_count(row["total_npu_encoded_weights"]),
        cycles=cycles,
        npu_cycles=_count(row["cycles_npu"]),
        sram_bytes=_count(row["sram_memory_used"], _KIB),
        flash_bytes=_count(row["off_chip_flash_memory_used"], _KIB)
        + _count(row["dram_memory_used"], _KIB),
        cpu_operators=fallbacks,
        num_cpu_operators=int(num_cpu[1]) if num_cpu else len(fallbacks),
        num_npu_operators=int(num_npu[1]) if num_npu else int(cycles > 0),
        compiled=outputs["compiled"].tobytes(),
    )


def _count(text: str, unit: int = 1) -> int:
    return round(float(text) * unit)
