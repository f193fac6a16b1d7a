"""Flash, arena and outputs of a file on a microcontroller."""

from typing import Any

from tflite_export.measuring.devices.records import (
    Candidate,
    Measurement,
    NotRun,
)
from tflite_export.targets.tflm import simulation

DEVICE = "tflm"


def measure(file: Candidate) -> Measurement | NotRun:
    """Runs a file as a microcontroller would, and compares it with LiteRT."""
    try:
        report = simulation.measure(file.data, file.inputs)
    except (ValueError, ImportError) as error:
        return NotRun.because(DEVICE, error)
    values: dict[str, Any] = dict(report.to_dict())
    if report.max_lsb is None:
        values["not_compared"] = report.not_compared
    else:
        values["equals_reference"] = report.max_lsb == 0
        values["max_lsb"] = report.max_lsb
    return Measurement(DEVICE, values)
