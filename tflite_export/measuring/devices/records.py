"""The records that each measure takes and returns."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.operators import DECODE
from tflite_export.runtime.interpreter import differences


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file to be measured.

    Attributes:
        path: Where it is.
        data: Its bytes.
        inputs: Samples of shape `(n, ...)`, in the type of the file's input,
            by tensor index.
    """

    path: Path
    data: bytes = dataclasses.field(repr=False)
    inputs: Mapping[int, np.ndarray] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The results of a file on a device.

    Attributes:
        device: The device, such as `"host"` or `"cortex-a53"`.
        values: The results by name; the unit is in the name.
    """

    device: str
    values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class NotRun:
    """The reason why a file was not measured on a device.

    Attributes:
        device: The device.
        reason: The missing tool or the error, on one line.
    """

    device: str
    reason: str

    @classmethod
    def because(cls, device: str, error: Exception) -> "NotRun":
        """Returns the record of an error."""
        return cls(device, " ".join(str(error).split()))


def unreadable_by_litert(file: Candidate, device: str) -> NotRun | None:
    """Returns a reason if a file has packed weights: LiteRT reads none."""
    names = {operator.name for operator in Flatbuffer(file.data).operators}
    if DECODE not in names:
        return None
    reason = f"holds weights for {DECODE}, which only microcontrollers have."
    return NotRun(device, reason)


def largest_difference(
    actual: Mapping[int, np.ndarray], expected: Mapping[int, np.ndarray]
) -> float:
    """Returns the largest difference of two sets of outputs by tensor index.

    It is in steps for integers, and in units of the output for floats. It is
    `inf` if only one side has a NaN.

    Example:

    >>> held = {0: np.array([1, 5], np.int8)}
    >>> largest_difference(held, {0: np.array([1, 3], np.int8)})
    2.0
    """
    return max(
        (
            float(differences(actual[index], values).max(initial=0.0))
            for index, values in expected.items()
        ),
        default=0.0,
    )
