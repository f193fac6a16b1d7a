"""Outputs and instructions of an inference on an emulated AArch64 CPU."""

from tflite_export import arm
from tflite_export.measuring.devices.records import (
    Candidate,
    Measurement,
    NotRun,
    largest_difference,
    unreadable_by_litert,
)
from tflite_export.runtime import interpreter


def measure(file: Candidate, *, cpu: str) -> Measurement | NotRun:
    """Counts the instructions of a file and compares its outputs with x86's."""
    unreadable = unreadable_by_litert(file, cpu)
    if unreadable is not None:
        return unreadable
    reason = arm.missing()
    if reason is not None:
        return NotRun(cpu, reason)
    try:
        outputs = arm.run(file.data, file.inputs, cpu=cpu)
        expected = interpreter.run(file.data, dict(file.inputs))
        instructions = arm.count_instructions(file.data, file.inputs, cpu=cpu)
    except ValueError as error:
        return NotRun.because(cpu, error)
    difference = largest_difference(outputs, expected)
    values = {
        "instructions": instructions,
        "equals_x86": difference == 0,
        "max_difference": difference,
    }
    return Measurement(cpu, values)
