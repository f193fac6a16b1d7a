"""Cycles, memory and encoded weights on an Ethos-U, by Vela's own model."""

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.operators import ETHOS_U
from tflite_export.measuring.devices.records import (
    Candidate,
    Measurement,
    NotRun,
)
from tflite_export.targets.ethos_u.vela import compile_file


def measure(file: Candidate, *, accelerator: str) -> Measurement | NotRun:
    """Compiles a file with Vela for a size such as `"ethos-u55-128"`."""
    names = {operator.name for operator in Flatbuffer(file.data).operators}
    if ETHOS_U in names:
        return NotRun(
            accelerator, "compiled already. Give the file from before Vela."
        )
    try:
        report = compile_file(file.data, accelerator=accelerator)
    except (ValueError, ImportError) as error:
        return NotRun.because(accelerator, error)
    if not report.num_npu_operators:
        # Vela says 0 cycles of what it leaves to the CPU.
        first = next(iter(report.cpu_operators), None)
        reason = f": {first[0]} {first[1]!r}: {first[2]}" if first else ""
        return NotRun(accelerator, f"nothing of it runs on the NPU{reason}.")
    values = {
        **report.to_dict(),
        "num_cpu_operators": report.num_cpu_operators,
    }
    return Measurement(accelerator, values)
