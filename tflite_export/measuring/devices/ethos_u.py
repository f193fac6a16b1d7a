"""Cycles, memory and encoded weights on an Ethos-U, by Vela's own model."""

from tflite_export.measuring.devices.records import (
    Candidate,
    Measurement,
    NotRun,
)
from tflite_export.targets.ethos_u.vela import compile_file


def measure(file: Candidate, *, accelerator: str) -> Measurement | NotRun:
    """Compiles a file with Vela for a size such as `"ethos-u55-128"`."""
    try:
        report = compile_file(file.data, accelerator=accelerator)
    except (ValueError, ImportError) as error:
        return NotRun.because(accelerator, error)
    values = {
        **report.to_dict(),
        "num_cpu_operators": report.num_cpu_operators,
    }
    return Measurement(accelerator, values)
