"""The time of an inference on an Edge TPU, through its delegate."""

import ctypes.util

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.operators import EDGE_TPU
from tflite_export.measuring.devices.host import time_runs
from tflite_export.measuring.devices.records import (
    Candidate,
    Measurement,
    NotRun,
)
from tflite_export.targets.edgetpu import EdgeTpu

DEVICE = "edgetpu"


def measure(file: Candidate) -> Measurement | NotRun:
    """Times a compiled file, in microseconds."""
    operators = {operator.name for operator in Flatbuffer(file.data).operators}
    if EDGE_TPU not in operators:
        return NotRun(DEVICE, f"not compiled for it. {_verdict(file.data)}")
    library = ctypes.util.find_library("edgetpu")
    if library is None:
        return NotRun(DEVICE, "its library `libedgetpu` is not installed.")
    try:
        (times_us,) = time_runs([file], 1, delegate=library)
    except ValueError as error:
        return NotRun.because(DEVICE, error)
    values = {
        "median_us": round(float(np.median(times_us)), 2),
        "p90_us": round(float(np.percentile(times_us, 90)), 2),
        "num_runs": len(times_us),
    }
    return Measurement(DEVICE, values)


def _verdict(data: bytes) -> str:
    """The answer of the documented rules, in place of a measurement."""
    blocking = [
        finding
        for finding in EdgeTpu().check(data).findings
        if finding.is_blocking
    ]
    if not blocking:
        return "By the documented rules `edgetpu_compiler` would map all of it."
    return f"By the documented rules it would not run there: {blocking[0]}"
