"""The rows of `inspect`: type, zeros, entropy, bytes of each constant."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflite_export.format.damaged import DamagedFileError
from tflite_export.format.decoding import decoded_constants
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.names import layer_part
from tflite_export.format.operators import EDGE_TPU, ETHOS_U, UNPACKING
from tflite_export.format.owners import BIAS_POSITIONS
from tflite_export.format.records import Operator, Tensor
from tflite_export.format.sparse import decode_sparse, validate_sparse
from tflite_export.format.tensors import GRAPH_TYPES


@dataclasses.dataclass(frozen=True)
class TensorRow:
    """One constant of the file.

    Attributes:
        name: Its name in the file.
        operator: The operator that computes with it, behind those that only
            unpack it (DENSIFY, DEQUANTIZE); `""` if there is none.
        dtype: Its type in the file, such as `"int8"`.
        shape: Its shape.
        num_zeros: Number of values that stand for 0: codes equal to the zero
            point of the tensor or of their channel. None for types that NumPy
            cannot hold, and for what a compiler packed for its device.
        num_distinct: Number of different values; None as for `num_zeros`.
        entropy_bits: Bits a value that an ideal entropy coder needs; None as
            for `num_zeros`.
        size_bytes: Bytes in the file, with the indices of sparse tensors.
        layout: `"dense"`; `"csr"` or the block, such as `"1x16"`, for sparse
            tensors; `"lut"` and `"huffman"` for the look-up tables and the
            Huffman codes of microcontrollers.
    """

    name: str
    operator: str
    dtype: str
    shape: tuple[int, ...]
    num_zeros: int | None
    num_distinct: int | None
    entropy_bits: float | None
    size_bytes: int
    layout: str = "dense"

    @property
    def entropy_bytes(self) -> float | None:
        """Bytes that an ideal entropy coder would need for the values."""
        if self.entropy_bits is None:
            return None
        return math.prod(self.shape) * self.entropy_bits / 8

    @property
    def sparsity(self) -> float | None:
        """Fraction of zeros, in [0, 1]."""
        size = math.prod(self.shape)
        return None if self.num_zeros is None else self.num_zeros / max(size, 1)

    @property
    def is_weight(self) -> bool:
        """Whether it has two axes or more, of a type that is multiplied."""
        return len(self.shape) >= 2 and self.dtype not in GRAPH_TYPES

    def cells(self) -> tuple[str, ...]:
        """Returns the row of a table."""
        shape = "x".join(map(str, self.shape)) or "scalar"
        zeros = values = entropy = "-"
        if self.sparsity is not None:
            zeros = f"{self.sparsity:.1%}"
            values = str(self.num_distinct)
            entropy = f"{self.entropy_bits:.2f}"
        kind = (self.operator, self.dtype, shape, self.layout)
        numbers = (f"{self.size_bytes:,}", zeros, values, entropy)
        return (*kind, *numbers, self.name)

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as plain values, for JSON."""
        return dataclasses.asdict(self) | {
            "sparsity": self.sparsity,
            "entropy_bytes": self.entropy_bytes,
        }


def tensor_rows(data: bytes) -> tuple[TensorRow, ...]:
    """Returns the rows of `inspect` for the bytes of a file."""
    rows = [row for _, row in located_rows(Flatbuffer(data))]
    return tuple(sorted(rows, key=lambda row: (-row.size_bytes, row.name)))


def located_rows(file: Flatbuffer) -> list[tuple[Operator | None, TensorRow]]:
    """Returns each row with the operator that computes with it, if any does."""
    readers = _first_readers(file)
    decoded = decoded_constants(file)
    rows = []
    for subgraph in range(file.num_subgraphs):
        for tensor in file.tensors(subgraph):
            key = (subgraph, tensor.index)
            constant = decoded.tensors.get(key, tensor)
            if constant.size_bytes and key not in decoded.stored:
                reader = readers.get(key)
                if reader and reader.name == "DENSIFY":
                    constant = _quantized_like(file, reader, constant)
                if not constant.name and reader:
                    name = _derived_name(file, reader, tensor.index)
                    constant = dataclasses.replace(constant, name=name)
                operator = _computing(readers, reader)
                row = _row(constant, operator.name if operator else "")
                if row.operator in (ETHOS_U, EDGE_TPU):
                    row = _unknown(row)
                layout = decoded.layouts.get(key, row.layout)
                row = dataclasses.replace(row, layout=layout)
                rows.append((operator, row))
    return rows


def entropy_bits(counts: np.ndarray) -> float:
    """Returns the Shannon entropy in bits per value, of counts by value.

    Example:

    >>> entropy_bits(np.array([2, 1, 1]))
    1.5
    """
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(share * np.log2(share)).sum()) + 0.0


def _row(tensor: Tensor, operator: str) -> TensorRow:
    row = TensorRow(
        name=tensor.name,
        operator=operator,
        dtype=tensor.dtype,
        shape=tensor.shape,
        num_zeros=None,
        num_distinct=None,
        entropy_bits=None,
        size_bytes=tensor.size_bytes,
    )
    values, num_absent = tensor.data, 0
    if tensor.sparse is not None:
        _require_valid(tensor)
        sparse = tensor.sparse
        row = dataclasses.replace(row, layout=sparse.layout)
        # A claimed shape may have gigabytes of zeros: only count them.
        values = sparse.values
        num_absent = math.prod(tensor.shape) - values.size
    if values is None:
        return row
    distinct, counts = np.unique(values, return_counts=True)
    is_code_0 = distinct == 0
    counts = np.append(counts[~is_code_0], counts[is_code_0].sum() + num_absent)
    return dataclasses.replace(
        row,
        num_zeros=_num_zeros(tensor, values, num_absent),
        num_distinct=int(np.count_nonzero(counts)),
        entropy_bits=entropy_bits(counts),
    )


def _unknown(row: TensorRow) -> TensorRow:
    """A row of compressed weights or commands: its bytes are no values."""
    return dataclasses.replace(
        row, num_zeros=None, num_distinct=None, entropy_bits=None
    )


def _num_zeros(tensor: Tensor, values: np.ndarray, num_absent: int) -> int:
    """Counts the values that stand for 0; absent ones are the code 0."""
    points = tensor.zero_points
    if values.dtype.kind not in "iu" or not points.any():
        return int(np.count_nonzero(values == 0)) + num_absent
    if (points == points[0]).all():
        absent = num_absent if points[0] == 0 else 0
        return int(np.count_nonzero(values == points[0])) + absent
    rank, axis = len(tensor.shape), tensor.axis
    if not 0 <= axis < rank or points.size != tensor.shape[axis]:
        raise DamagedFileError(
            f"tensor {tensor.name!r} of shape {tensor.shape} with "
            f"{points.size} zero points along axis {axis}"
        )
    if tensor.sparse is not None:
        values = decode_sparse(tensor.sparse)
    by_axis = points.reshape([-1 if a == axis else 1 for a in range(rank)])
    return int(np.count_nonzero(values == by_axis))


def _first_readers(file: Flatbuffer) -> dict[tuple[int, int], Operator]:
    """The first operator that reads each tensor, by subgraph and index."""
    readers: dict[tuple[int, int], Operator] = {}
    for operator in file.operators:
        for index in operator.inputs:
            readers.setdefault((operator.subgraph, index), operator)
    return readers


def _computing(
    readers: Mapping[tuple[int, int], Operator], reader: Operator | None
) -> Operator | None:
    """The operator behind those that unpack a constant."""
    while reader and reader.name in UNPACKING:
        behind = readers.get((reader.subgraph, reader.outputs[0]))
        if behind is None:
            break
        reader = behind
    return reader


def _quantized_like(
    file: Flatbuffer, densify: Operator, stored: Tensor
) -> Tensor:
    """A sparse constant with zero points and name of its dense one."""
    dense = file.tensor(densify.subgraph, densify.outputs[0])
    stored = dataclasses.replace(stored, name=stored.name or dense.name)
    if stored.scales.size:
        return stored
    return dataclasses.replace(
        stored, zero_points=dense.zero_points, axis=dense.axis
    )


def _derived_name(file: Flatbuffer, reader: Operator, index: int) -> str:
    """The name of a bias without one, by the layer of its weights."""
    position = reader.inputs.index(index)
    if position != BIAS_POSITIONS.get(reader.name):
        return ""
    weights = file.tensor(reader.subgraph, reader.inputs[position - 1])
    layer = layer_part(weights.name).rpartition("/")[0]
    return f"{layer}/bias" if layer else ""


def _require_valid(tensor: Tensor) -> None:
    try:
        if tensor.sparse is not None:
            validate_sparse(tensor.sparse)
    except ValueError as error:
        reason = str(error).removesuffix(".")
        raise DamagedFileError(
            f"tensor {tensor.name!r} that no runtime can read. {reason}"
        ) from error
