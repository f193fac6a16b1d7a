"""LiteRT for Microcontrollers: arena, equal outputs, look-up tables.

Its int8 kernels are LiteRT's reference kernels, so outputs are compared bit
for bit; only FULLY_CONNECTED rounds otherwise. Both multiply the sum by
`scale_in * scale_weights / scale_out`, as 31 bits and a shift. TFLM rounds the
product to 32 bits and then, after the shift, again, as both do in
convolutions; LiteRT's kernel rounds once. They differ by one step where the
first rounding makes a tie, in a few outputs of a hundred. So a FULLY_CONNECTED
is written as a convolution of 1x1, in which both agree.
It reads dense weights only, or, with `DECODE`, indices into tables.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tflite_export.extras import require_extra
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.lut import DECODE, MAX_INDEX_BITS, share_table
from tflite_export.format.records import NO_SCALES, Constant, InputSite
from tflite_export.runtime import interpreter
from tflite_export.runtime.sandbox import run_script
from tflite_export.targets.findings import (
    CheckReport,
    Finding,
    operator_counts,
    require_storage,
    storage_findings,
)
from tflite_export.weights.sites import (
    WeightSite,
    decoded_constants,
    weight_sites,
)

# An operator, two tensors with scales and names, and headers (measured).
TABLE_OVERHEAD_BYTES = 300
_MAX_ATTEMPTS = 16
_SCRIPT = Path(__file__).with_name("child.py")
# For the first run, which measures; generous, since the need is unknown.
_FIRST_ARENA_BYTES = 2**24
_ARENA = re.compile(r"Arena allocation total (\d+) bytes")


@dataclasses.dataclass(frozen=True)
class TflmReport:
    """What a file needs on a microcontroller.

    Attributes:
        flash_bytes: Size of the file, which lies in flash.
        arena_bytes: RAM for activations and records, measured on the host;
            pointers are half as large on 32-bit devices.
        num_samples: Samples on which the outputs were compared with those of
            LiteRT's reference kernels.
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


def write_convolutions(file: Flatbuffer) -> None:
    """Writes each FULLY_CONNECTED as a convolution, for equal outputs.

    One whose kernel is computed, or read by another operator, stays; its
    outputs are within one step.

    Args:
        file: The file; it is changed.
    """
    operators = file.operators
    dense = [o for o in operators if o.name == "FULLY_CONNECTED"]
    others = {
        (operator.subgraph, index)
        for operator in operators
        if operator.name != "FULLY_CONNECTED"
        for index in (*operator.inputs, *operator.outputs)
    }
    # From the last, since operators behind a changed one move.
    for operator in reversed(dense):
        kernel = (operator.subgraph, operator.inputs[1])
        if kernel not in others and file.tensor(*kernel).data is not None:
            file.replace_by_convolution(operator)


def measure(
    data: bytes,
    inputs: Mapping[int, np.ndarray],
    *,
    reference: bytes | None = None,
) -> TflmReport:
    """Runs a file as a microcontroller would and compares its outputs.

    Args:
        data: The file.
        inputs: An array of shape `(n, ...)`, in the type of the file's input,
            by tensor index.
        reference: The file that LiteRT runs; None for `data` with dense
            weights in place of look-up tables, which are not for LiteRT.

    Returns:
        `TflmReport`.

    Raises:
        ImportError: If the runtime is missing.
        ValueError: If the file does not run, or an output differs from
            LiteRT's.
    """
    file = Flatbuffer(data)
    require_storage(file, "microcontrollers")
    _require_runtime()
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


def compress(data: bytes) -> tuple[bytes, list[str]]:
    """Replaces weights by indices into tables, where that is smaller.

    A tensor gets a table of its values, or one for each output channel. A
    `DECODE` operator unpacks the weights into the arena before each use.

    Args:
        data: A file with dense int8 weights.

    Returns:
        The new file, and the names of the tensors that became tables; the file
        as it was if there are none.

    Raises:
        ImportError: If the runtime is missing.
        ValueError: If it cannot compress.
    """
    file = Flatbuffer(data)
    require_storage(file, "microcontrollers")
    sites = {(s.site.subgraph, s.tensor.index): s for s in weight_sites(file)}
    chosen = {key: s for key, s in sites.items() if table_saving(s) > 0}
    if not chosen:
        return data, []
    _require_runtime()
    tensors = [
        {
            "subgraph": subgraph,
            "tensor": tensor,
            "compression": [{"lut": _lookup(site).request(site)}],
        }
        for (subgraph, tensor), site in chosen.items()
    ]
    request = {"action": "compress", "tensors": tensors}
    outputs, _ = run_script(_SCRIPT, data, {}, request)
    names = [site.tensor.name for site in chosen.values()]
    # The tool leaves scales on the packed bytes, which nothing reads, and
    # writes equal vectors again and again.
    compressed = Flatbuffer(outputs["model"].tobytes())
    _share_tables(compressed)
    compressed.drop_scales(_packed(compressed))
    compressed.shorten_names()
    return compressed.to_bytes(), names


def decompress(data: bytes) -> bytes:
    """Returns the file with dense weights in place of look-up tables.

    Args:
        data: A file from `compress`, or one without look-up tables.

    Raises:
        ValueError: If its tables are damaged.
    """
    file = Flatbuffer(data)
    decoded = decoded_constants(file)
    if not decoded:
        return data
    file.drop_scales(_packed(file))
    file.fold(
        DECODE,
        {
            key: tensor.data
            for key, tensor in decoded.items()
            if tensor.data is not None
        },
    )
    return file.to_bytes()


def _packed(file: Flatbuffer) -> set[tuple[int, int]]:
    """The tensors that DECODE operators unpack."""
    return {
        (operator.subgraph, index)
        for operator in file.operators
        if operator.name == DECODE
        for index in operator.inputs
    }


def table_saving(site: WeightSite) -> int:
    """Returns how many bytes of flash a look-up table saves, about.

    Args:
        site: The weights; negative if they are smaller as they are.
    """
    lookup = _lookup(site)
    if lookup.index_bits > MAX_INDEX_BITS:
        return -1
    size = site.tensor.size_bytes
    return size - (lookup.num_bytes(size) + TABLE_OVERHEAD_BYTES)


def check_file(data: bytes) -> CheckReport:
    """Says whether a file runs on a microcontroller, by running it.

    Args:
        data: The file.

    Returns:
        `CheckReport`.

    Raises:
        ImportError: If the runtime is missing.
    """
    file = Flatbuffer(data)
    findings = storage_findings(file, "LiteRT for Microcontrollers")
    facts: Mapping[str, float] = {}
    if not findings:
        inputs = interpreter.zero_inputs(file)
        try:
            facts = measure(data, inputs).to_dict()
        except ValueError as error:
            remedy = "Replace the layer whose operator it names."
            findings = [Finding("model", str(error), remedy)]
    placement = {} if findings else {"CPU": operator_counts(file)}
    return CheckReport("tflm", placement, tuple(findings), facts)


def _run_in_small_arena(
    data: bytes,
    columns: Mapping[str, np.ndarray],
    num_outputs: int,
    used_bytes: int,
) -> tuple[list[np.ndarray], int]:
    """The outputs, and an arena that is enough: planning needs some more."""
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
    outputs, log = run_script(_SCRIPT, data, columns, request)
    used = _ARENA.search(log)
    values = [outputs[str(position)] for position in range(num_outputs)]
    # A few bytes depend on where the host places the arena.
    return values, -(-int(used[1]) // 64) * 64 if used else arena_bytes


def _require_close(file: Flatbuffer, max_lsb: int) -> None:
    # One step for each FULLY_CONNECTED, see the top of this file.
    allowed = operator_counts(file).get("FULLY_CONNECTED", 0)
    if max_lsb > allowed:
        raise ValueError(
            "The outputs on a microcontroller must be within "
            f"{allowed} steps of LiteRT's reference kernels. Received: "
            f"{max_lsb} steps. Do not ship this file."
        )


class _Lookup(NamedTuple):
    """How a tensor becomes indices into tables."""

    index_bits: int
    num_tables: int

    def num_bytes(self, num_weights: int) -> int:
        """Returns the size of indices and tables, without headers."""
        indices = num_weights * self.index_bits // 8
        return indices + self.num_tables * 2**self.index_bits

    def request(self, site: WeightSite) -> dict[str, Any]:
        """Returns what `tflite_micro` is asked for."""
        mode: dict[str, Any] = {"per_tensor": None}
        if self.num_tables > 1:
            mode = {"per_channel": {"axis": site.tensor.axis}}
        return {"index_bitwidth": self.index_bits, **mode}


def _lookup(site: WeightSite) -> _Lookup:
    """The smaller one of one table and a table for each channel."""
    codes = site.slot.codes
    options = [_Lookup(_index_bits(codes), 1)]
    if site.tensor.scales.size > 1:
        rows = np.moveaxis(codes, site.tensor.axis, 0)
        index_bits = max(_index_bits(row) for row in rows)
        options.append(_Lookup(index_bits, len(rows)))
    fitting = [o for o in options if o.index_bits <= MAX_INDEX_BITS]
    return min(fitting or options, key=lambda o: o.num_bytes(codes.size))


def _index_bits(codes: np.ndarray) -> int:
    return max((np.unique(codes).size - 1).bit_length(), 1)


def _share_tables(file: Flatbuffer) -> None:
    """Makes tables that are for a whole tensor right where it has scales."""
    shared = {}
    for operator in file.operators:
        if operator.name != DECODE:
            continue
        # Indices and tables in turn.
        for position in range(1, len(operator.inputs), 2):
            index = operator.inputs[position]
            tables = file.tensor(operator.subgraph, index).data
            if tables is not None:
                site = InputSite(operator.subgraph, operator.index, position)
                shared[site] = Constant(share_table(tables), NO_SCALES, 0)
    file.replace_inputs(shared)


def _require_runtime() -> None:
    needed_for = "The target 'tflm' (microcontrollers)"
    require_extra("tflite_micro", extra="targets", needed_for=needed_for)
