"""What Vela and the runtime for microcontrollers say of a file."""

from tflite_export.measuring.devices.records import (
    Candidate,
    Measurement,
    NotRun,
)
from tflite_export.targets.ethos_u import vela
from tflite_export.targets.tflm import simulation


def measure_microcontroller(file: Candidate) -> Measurement | NotRun:
    """Runs a file in the runtime for microcontrollers.

    Args:
        file: The file.

    Returns:
        Its flash and arena, and how far its outputs are from those of
        LiteRT's reference kernels, in steps.
    """
    try:
        report = simulation.measure(file.data, file.inputs)
    except (ImportError, ValueError) as error:
        return NotRun.because("tflm", error)
    values = {
        **report.to_dict(),
        "equals_reference": report.max_lsb == 0,
        "max_lsb": report.max_lsb,
    }
    return Measurement("tflm", values)


def measure_ethos_u(
    file: Candidate, *, accelerator: str
) -> Measurement | NotRun:
    """Compiles a file with Vela.

    Args:
        file: The file.
        accelerator: The size, such as `"ethos-u55-128"`.

    Returns:
        Its cycles, memory and encoded weights, and the number of operators
        that the CPU would run.
    """
    try:
        report = vela.compile_file(file.data, accelerator=accelerator)
    except (ImportError, ValueError) as error:
        return NotRun.because(accelerator, error)
    values = {
        **report.to_dict(),
        "num_cpu_operators": report.num_cpu_operators,
    }
    return Measurement(accelerator, values)
