"""Runs files in the tflite-micro wheel: arena, and equal outputs.

Its int8 kernels are LiteRT's reference kernels, so outputs are compared bit
for bit. Only FULLY_CONNECTED rounds in another way, see `target`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflite_export.format.decoding import decoded_constants
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.macs import count_macs
from tflite_export.runtime import interpreter
from tflite_export.targets.findings import (
    operator_counts,
    require_dense_storage,
)
from tflite_export.targets.tflm.wheel import ask_wheel

# Of the loops of DECODE for a weight, counted in what GCC 12.2 makes of them
# for a Cortex-M4 at -O2. Huffman codes: 24 for a word of the first table, 53
# for one of a further table, here a fifth. Look-up tables of 2 to 4 bits take
# 4 to 8 where the scales are along the first axis.
_INSTRUCTIONS = {"huffman": 30, "lut": 18}
_MAX_ATTEMPTS = 16
# Generous: the first run measures the need.
_FIRST_ARENA_BYTES = 2**24
# Of a NaN or an infinity on one side only.
_MAX_STEPS = 2**31
_ARENA = re.compile(r"Arena allocation total (\d+) bytes")


@dataclasses.dataclass(frozen=True)
class TflmReport:
    """The needs of a file on a microcontroller.

    Attributes:
        flash_bytes: Size of the file in flash.
        arena_bytes: RAM for activations and records, measured on the host;
            pointers are half as large on 32-bit devices.
        num_samples: Number of samples on which the outputs were compared with
            those of LiteRT's reference kernels.
        max_lsb: Largest difference, in steps of the output; 0 is bit for bit.
            None if LiteRT does not run the file.
        operators: Names of the operators, for a `MicroMutableOpResolver`.
        num_dense: Number of FULLY_CONNECTED; each may round by one step.
        not_compared: The reason where `max_lsb` is None.
        num_decoded: Number of weights that DECODE unpacks in each run.
        decoded_bytes: RAM of the arena for the unpacked weights: the largest
            tensor, since each is there only while its operator runs.
        decode_instructions: Estimated instructions of DECODE in each run, on a
            Cortex-M4.
        macs: Multiply-accumulates of a run; None if unknown.
    """

    flash_bytes: int
    arena_bytes: int
    num_samples: int
    max_lsb: int | None
    operators: tuple[str, ...]
    num_dense: int = 0
    not_compared: str = ""
    num_decoded: int = 0
    decoded_bytes: int = 0
    decode_instructions: int = 0
    macs: int | None = None

    def __str__(self) -> str:
        """Returns a summary of one line."""
        decoding = f"; {self.decoding}" if self.num_decoded else ""
        return (
            f"microcontroller: flash {self.flash_bytes:,} bytes, arena "
            f"{self.arena_bytes:,} bytes{decoding}; outputs {self.comparison}; "
            f"operators: {', '.join(self.operators)}"
        )

    @property
    def decoding(self) -> str:
        """The memory and the estimated work of packed weights, in words."""
        work = f"about {self.decode_instructions:,} instructions a run"
        if self.macs:
            work += f" ({self.decode_instructions / self.macs:.2f} a MAC)"
        return (
            f"weights are unpacked before each use, into up to "
            f"{self.decoded_bytes:,} bytes of the arena, in {work}"
        )

    @property
    def comparison(self) -> str:
        """How far the outputs are from those of LiteRT, in words."""
        if self.max_lsb is None:
            return f"not compared with LiteRT's: {self.not_compared}"
        same = "equal to" if not self.max_lsb else f"{self.max_lsb} LSB from"
        return (
            f"{same} LiteRT's reference kernels on {self.num_samples} samples"
        )

    @property
    def is_close(self) -> bool:
        """Whether the outputs differ by no more than the rounding explains."""
        # One step for each FULLY_CONNECTED, see the top of `target`.
        return self.max_lsb is None or self.max_lsb <= self.num_dense

    def to_dict(self) -> dict[str, float]:
        """Returns the numbers, for tables and JSON."""
        numbers: dict[str, float] = {
            "flash_bytes": self.flash_bytes,
            "arena_bytes": self.arena_bytes,
        }
        if self.num_decoded:
            numbers["decoded_bytes"] = self.decoded_bytes
            numbers["decode_instructions"] = self.decode_instructions
        return numbers


def measure(
    data: bytes,
    inputs: Mapping[int, np.ndarray],
    *,
    reference: bytes | None = None,
) -> TflmReport:
    """Runs a file as a microcontroller would, and compares its outputs.

    `inputs` are arrays of shape `(n, ...)` by tensor index, in the type of the
    file's input. LiteRT runs `reference`: by default the file itself, with
    dense weights in place of look-up tables. A file that the microcontroller
    does not run is a ValueError; one that LiteRT does not run is not compared.
    """
    file = Flatbuffer(data)
    require_dense_storage(file, "microcontrollers", reads_int4=True)
    _, outputs = file.interface()
    held, arena = _run_in_small_arena(data, inputs)
    counts = operator_counts(file)
    decoded = decoded_constants(file)
    sizes = {k: math.prod(t.shape) for k, t in decoded.tensors.items()}
    report = TflmReport(
        flash_bytes=len(data),
        arena_bytes=arena,
        num_samples=max((len(v) for v in inputs.values()), default=1),
        max_lsb=None,
        operators=tuple(sorted(counts)),
        num_dense=counts.get("FULLY_CONNECTED", 0),
        num_decoded=sum(sizes.values()),
        decoded_bytes=max(sizes.values(), default=0),
        decode_instructions=sum(
            _INSTRUCTIONS[layout] * sizes[key]
            for key, layout in decoded.layouts.items()
        ),
        macs=count_macs(file),
    )
    try:
        expected = interpreter.run(
            decoded.dense(data) if reference is None else reference,
            dict(inputs),
            reference_kernels=True,
        )
    except ValueError as error:
        return dataclasses.replace(report, not_compared=str(error))
    steps = [
        largest_steps(interpreter.by_sample(values), expected[index])
        for index, values in zip(outputs, held, strict=True)
    ]
    return dataclasses.replace(report, max_lsb=max(steps, default=0))


def measure_exactly(
    data: bytes,
    inputs: Mapping[int, np.ndarray],
    *,
    reference: bytes | None = None,
) -> TflmReport:
    """Returns `measure`; other outputs than LiteRT's are a ValueError."""
    report = measure(data, inputs, reference=reference)
    if report.max_lsb is None or not report.is_close:
        raise ValueError(
            "The outputs on a microcontroller must be within "
            f"{report.num_dense} steps of LiteRT's reference kernels. "
            f"Received: outputs {report.comparison}. Do not ship this file."
        )
    return report


def outputs_of(
    data: bytes, inputs: Mapping[int, np.ndarray]
) -> list[np.ndarray]:
    """Returns the outputs by position, of samples as in `measure`."""
    columns, outputs = _columns(Flatbuffer(data), inputs)
    return _run(data, columns, len(outputs), _FIRST_ARENA_BYTES)[0]


def _columns(
    file: Flatbuffer, inputs: Mapping[int, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """The inputs of each run by position, and the indices of the outputs."""
    positions, outputs = file.interface()
    runs = interpreter.by_run(file, inputs)
    return {str(positions.index(i)): v for i, v in runs.items()}, outputs


def largest_steps(actual: np.ndarray, expected: np.ndarray) -> int:
    """Returns the largest difference in steps; of floats, 1/255 of the range.

    Example:

    >>> largest_steps(np.array([3, 5], np.int8), np.array([3, 7], np.int8))
    2
    >>> largest_steps(np.array([0.0, 0.9]), np.array([0.0, 1.0]))
    25
    """
    step = 1.0
    if expected.dtype.kind == "f":
        finite = expected[np.isfinite(expected)]
        step = (float(np.ptp(finite)) if finite.size else 0.0) / 255 or 1.0
    steps = interpreter.differences(actual, expected).max(initial=0) / step
    return int(min(steps, _MAX_STEPS))


def measure_arena(data: bytes, inputs: Mapping[int, np.ndarray]) -> int:
    """Returns the bytes of an arena that is enough for a run."""
    return _run_in_small_arena(data, inputs)[1]


def _run_in_small_arena(
    data: bytes, inputs: Mapping[int, np.ndarray]
) -> tuple[list[np.ndarray], int]:
    """The outputs, and an arena that is enough: planning needs more bytes."""
    columns, outputs = _columns(Flatbuffer(data), inputs)
    num_outputs = len(outputs)
    first = {name: values[:1] for name, values in columns.items()}
    _, used_bytes = _run(data, first, num_outputs, _FIRST_ARENA_BYTES)
    step = max(used_bytes // 32 // 64, 4) * 64
    for attempt in range(_MAX_ATTEMPTS):
        arena_bytes = used_bytes + attempt * step
        try:
            values, _ = _run(data, columns, num_outputs, arena_bytes)
        except ValueError:
            continue
        return values, arena_bytes
    arena_bytes = used_bytes + _MAX_ATTEMPTS * step
    return _run(data, columns, num_outputs, arena_bytes)[0], arena_bytes


def _run(
    data: bytes,
    columns: Mapping[str, np.ndarray],
    num_outputs: int,
    arena_bytes: int,
) -> tuple[list[np.ndarray], int]:
    """The outputs by position, and the bytes of the arena that were used."""
    request: dict[str, Any] = {
        "arena_bytes": arena_bytes,
        "num_outputs": num_outputs,
    }
    outputs, log = ask_wheel(data, columns, request)
    used = _ARENA.search(log)
    values = [outputs[str(position)] for position in range(num_outputs)]
    # A few bytes depend on where the host places the arena.
    return values, -(-int(used[1]) // 64) * 64 if used else arena_bytes
