"""Outputs and instructions of a sparse file on emulated ARM CPUs."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tflite_export import arm
from tflite_export.verification.report import VerificationReport

if TYPE_CHECKING:
    from tflite_export.targets.target import ProvenFile
    from tflite_export.trained_model import TrainedModel

# Differences by another order of float32 sums, relative to the output's range:
# usually below 1e-6, and 1e-5 in random networks of 50 layers. A wrong layout
# leaves 0.06 and more.
MAX_DIFFERENCE = 1e-5
MAX_ROUNDING = 1e-4
MAX_SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class ArmReport:
    """The comparison on emulated phones; `str()` is one line.

    Attributes:
        differences: The largest difference of an output from the model's, in
            units of its range, by CPU.
        num_samples: Number of samples that the file was run on.
        instructions: Instructions of one inference on the first CPU.
        dense_instructions: The same with the kernels for dense weights.

    Example:

    >>> print(ArmReport({"cortex-a53": 2.5e-07}, 16, 4_950_000, 17_670_000))
    on ARM (QEMU), 16 samples: cortex-a53 within 2.5e-07 of the output range; \
4,950,000 instructions, 17,670,000 without sparse kernels
    """

    differences: Mapping[str, float]
    num_samples: int
    instructions: int
    dense_instructions: int

    def __str__(self) -> str:
        """Returns one line."""
        texts = [
            f"{cpu} within {difference:.1e}"
            for cpu, difference in self.differences.items()
        ]
        return (
            f"on ARM (QEMU), {self.num_samples} samples: {', '.join(texts)} of "
            f"the output range; {self.instructions:,} instructions, "
            f"{self.dense_instructions:,} without sparse kernels"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            **dataclasses.asdict(self),
            "differences": dict(self.differences),
        }


def measure_on_arm(proven: "ProvenFile", trained: "TrainedModel") -> ArmReport:
    """Compares the outputs on each CPU: each has other kernels."""
    # Imported here: checking a file must not import Keras.
    from tflite_export.verification.verify import compare

    # The difference here shows how the network amplifies float32 rounding.
    tolerance = max(MAX_DIFFERENCE, 3 * proven.verification.max_output_lsb)
    differences = {}
    for cpu in arm.CPUS:
        run_on = functools.partial(arm.run, cpu=cpu)
        report = compare(proven.data, trained, run_on=run_on, limit=MAX_SAMPLES)
        require_equal(report, cpu, tolerance=tolerance)
        differences[cpu] = report.max_output_lsb
    inputs = trained.inputs_of(proven.file)
    result = ArmReport(
        differences,
        report.num_samples,
        arm.count_instructions(proven.data, inputs),
        arm.count_instructions(proven.dense, inputs),
    )
    _require_faster(result)
    return result


def require_equal(
    report: VerificationReport, cpu: str, *, tolerance: float
) -> None:
    """Raises an error unless a CPU's outputs are within a tolerance."""
    if not report.max_output_lsb <= tolerance:
        raise ValueError(
            f"The outputs of the file must be those of the model within "
            f"{tolerance:.1g} of their range. Received: "
            f"{report.max_output_lsb:.1e} on {cpu}; the file was not written. "
            "'litert-sparse' computes activations in float: train without "
            "quantized activations, or use `target='litert'`."
        )


def _require_faster(report: ArmReport) -> None:
    """Raises an error if XNNPACK did not take its sparse kernels."""
    if report.instructions >= report.dense_instructions:
        raise ValueError(
            "Sparse kernels must execute fewer instructions than dense ones. "
            f"Received: {report.instructions:,} and "
            f"{report.dense_instructions:,}: XNNPACK runs this graph densely. "
            "Please report the model, and use `target='litert'`."
        )
