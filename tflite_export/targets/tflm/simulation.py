"""Runs files in the tflite-micro wheel: arena, and equal outputs.

Its int8 kernels are LiteRT's reference kernels, so outputs are compared bit
for bit. Only FULLY_CONNECTED rounds in another way, see `target`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.targets.findings import (
    operator_counts,
    require_dense_storage,
)
from tflite_export.targets.tflm.tables import decompress
from tflite_export.targets.tflm.wheel import ask_wheel

_MAX_ATTEMPTS = 16
# Generous: the first run measures the need.
_FIRST_ARENA_BYTES = 2**24
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
        operators: Names of the operators, for a `MicroMutableOpResolver`.
    """

    flash_bytes: int
    arena_bytes: int
    num_samples: int
    max_lsb: int
    operators: tuple[str, ...]

    def __str__(self) -> str:
        """Returns a summary of one line."""
        same = "equal to" if not self.max_lsb else f"{self.max_lsb} LSB from"
        return (
            f"microcontroller: flash {self.flash_bytes:,} bytes, arena "
            f"{self.arena_bytes:,} bytes; outputs {same} LiteRT's reference "
            f"kernels on {self.num_samples} samples; operators: "
            f"{', '.join(self.operators)}"
        )

    def to_dict(self) -> dict[str, float]:
        """Returns the numbers, for tables and JSON."""
        return {
            "flash_bytes": self.flash_bytes,
            "arena_bytes": self.arena_bytes,
        }


def measure(
    data: bytes,
    inputs: Mapping[int, np.ndarray],
    *,
    reference: bytes | None = None,
) -> TflmReport:
    """Runs a file as a microcontroller would, and compares its outputs.

    `inputs` are arrays of shape `(n, ...)` by tensor index, in the type of the
    file's input. LiteRT runs `reference`: by default the file itself, with
    dense weights in place of look-up tables. A file that does not run, or has
    other outputs, is a ValueError.
    """
    file = Flatbuffer(data)
    require_dense_storage(file, "microcontrollers")
    positions, outputs = file.interface()
    columns = {str(positions.index(i)): v for i, v in inputs.items()}
    first = {name: values[:1] for name, values in columns.items()}
    _, arena = _run(data, first, len(outputs), _FIRST_ARENA_BYTES)
    held, arena = _run_in_small_arena(data, columns, len(outputs), arena)
    expected = interpreter.run(
        decompress(data) if reference is None else reference,
        dict(inputs),
        reference_kernels=True,
    )
    max_lsb = 0
    for index, values in zip(outputs, held, strict=True):
        difference = np.abs(values.astype(np.int64) - expected[index])
        max_lsb = max(max_lsb, int(difference.max(initial=0)))
    _require_close(file, max_lsb)
    return TflmReport(
        flash_bytes=len(data),
        arena_bytes=arena,
        num_samples=len(next(iter(inputs.values()))),
        max_lsb=max_lsb,
        operators=tuple(sorted(operator_counts(file))),
    )


def _run_in_small_arena(
    data: bytes,
    columns: Mapping[str, np.ndarray],
    num_outputs: int,
    used_bytes: int,
) -> tuple[list[np.ndarray], int]:
    """The outputs, and an arena that is enough: planning needs more bytes."""
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
        "action": "run",
        "arena_bytes": arena_bytes,
        "num_outputs": num_outputs,
    }
    outputs, log = ask_wheel(data, columns, request)
    used = _ARENA.search(log)
    values = [outputs[str(position)] for position in range(num_outputs)]
    # A few bytes depend on where the host places the arena.
    return values, -(-int(used[1]) // 64) * 64 if used else arena_bytes


def _require_close(file: Flatbuffer, max_lsb: int) -> None:
    # One step for each FULLY_CONNECTED, see the top of `target`.
    allowed = operator_counts(file).get("FULLY_CONNECTED", 0)
    if max_lsb > allowed:
        raise ValueError(
            "The outputs on a microcontroller must be within "
            f"{allowed} steps of LiteRT's reference kernels. Received: "
            f"{max_lsb} steps. Do not ship this file."
        )
