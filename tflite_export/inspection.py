"""Lists the constants of a `.tflite` file: type, zeros, entropy, bytes."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.format.damaged import DamagedFileError
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.kinds import read_tflite
from tflite_export.format.lut import DECODE
from tflite_export.format.records import Tensor
from tflite_export.format.sparse import validate_sparse
from tflite_export.tables import Table, as_text
from tflite_export.weights.sites import decoded_constants

_COLUMNS = (
    *("operator", "dtype", "shape", "layout"),
    *("bytes", "zeros", "values", "entropy", "name"),
)


@dataclasses.dataclass(frozen=True)
class TensorRow:
    """One constant of the file.

    Attributes:
        name: Its name in the file.
        operator: The operator that reads it, or `""`.
        dtype: Its type in the file, such as `"int8"`.
        shape: Its shape.
        num_zeros: Number of zeros; None for types that NumPy cannot hold.
        num_distinct: Number of different values; None as for `num_zeros`.
        entropy_bits: Bits a value that an ideal entropy coder needs; None as
            for `num_zeros`.
        size_bytes: Bytes in the file, with the indices of sparse tensors.
        layout: `"dense"`; `"csr"` or the block, such as `"1x16"`, for sparse
            tensors; `"lut"` for the look-up tables of microcontrollers.
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
        """Whether it has two axes or more, and is no list of amounts to pad."""
        return len(self.shape) >= 2 and self.dtype not in ("int32", "int64")

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


@dataclasses.dataclass(frozen=True)
class Inspection:
    """All constants of a file, largest first; `str()` is a table.

    Attributes:
        path: The file.
        size_bytes: Its size.
        tensors: One `TensorRow` for each constant.

    Example:

    >>> row = TensorRow("kernel", "CONV_2D", "int8", (2, 3), 3, 4, 1.5, 6)
    >>> print(Inspection(Path("model.tflite"), 900, (row,)))
    model.tflite: 900 bytes; weights: 6 bytes, 5.33x their entropy bound of 1
    operator  dtype  shape  layout  bytes  zeros  values  entropy  name
    CONV_2D   int8   2x3    dense       6  50.0%       4     1.50  kernel
    """

    path: Path
    size_bytes: int
    tensors: tuple[TensorRow, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, with their indices and tables."""
        return sum(row.size_bytes for row in self._weights())

    @property
    def entropy_bytes(self) -> float:
        """Bytes that an ideal entropy coder would need for the weights.

        The sum of `n * H(values) / 8` over the tensors. Such a coder knows the
        frequency of each value in a tensor, and nothing of their order.
        """
        return sum(row.entropy_bytes or 0.0 for row in self._weights())

    def _weights(self) -> list[TensorRow]:
        return [row for row in self.tensors if row.is_weight]

    @property
    def title(self) -> str:
        """The size, and the ratio of the weights to their entropy bound."""
        bound = entropy_text(self.weight_bytes, self.entropy_bytes)
        return f"{self.path}: {self.size_bytes:,} bytes; weights: {bound}"

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "weight_bytes": self.weight_bytes,
            "entropy_bytes": self.entropy_bytes,
            "tensors": [row.to_dict() for row in self.tensors],
        }

    def parts(self) -> list[Table]:
        """Returns one table, a row for each constant."""
        rows = [row.cells() for row in self.tensors]
        return [Table(self.title, _COLUMNS, rows)]

    def __str__(self) -> str:
        """Returns the table as text."""
        return as_text(self.parts())


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Lists the constants of a file: type, zeros, entropy and bytes.

    Args:
        path: A `.tflite` file of any origin.

    Returns:
        `Inspection`, its tensors sorted by size.

    Raises:
        ValueError: If the file is not a `.tflite` file, or is damaged.

    Example:

    >>> print(inspect("model.tflite"))  # doctest: +SKIP
    """
    data = read_tflite(path)
    return Inspection(Path(path), len(data), tensor_rows(data))


def tensor_rows(data: bytes) -> tuple[TensorRow, ...]:
    """Returns the rows of `inspect` for the bytes of a file."""
    file = Flatbuffer(data)
    readers: dict[tuple[int, int], str] = {}
    decoded = decoded_constants(file)
    packed = set()
    for operator in file.operators:
        for index in operator.inputs:
            readers.setdefault((operator.subgraph, index), operator.name)
        if operator.name == DECODE:
            packed |= {(operator.subgraph, i) for i in operator.inputs}
    rows = []
    for subgraph in range(file.num_subgraphs):
        for tensor in file.tensors(subgraph):
            key = (subgraph, tensor.index)
            constant = decoded.get(key, tensor)
            if constant.size_bytes and key not in packed:
                row = _row(constant, readers.get(key, ""))
                layout = "lut" if key in decoded else row.layout
                rows.append(dataclasses.replace(row, layout=layout))
    rows.sort(key=lambda row: (-row.size_bytes, row.name))
    return tuple(rows)


def entropy_bits(counts: np.ndarray) -> float:
    """Returns the Shannon entropy in bits per value, of counts by value.

    Example:

    >>> entropy_bits(np.array([2, 1, 1]))
    1.5
    """
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(share * np.log2(share)).sum()) + 0.0


def entropy_text(stored: int, bound: float) -> str:
    """Returns the bytes of weights and their ratio to the entropy bound.

    Example:

    >>> entropy_text(500, 400.0)
    '500 bytes, 1.25x their entropy bound of 400'
    """
    ratio = f"{stored / bound:.2f}x their" if bound else "the"
    return f"{stored:,} bytes, {ratio} entropy bound of {bound:,.0f}"


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
    is_zero = distinct == 0
    num_zeros = int(counts[is_zero].sum()) + num_absent
    others = counts[~is_zero]
    return dataclasses.replace(
        row,
        num_zeros=num_zeros,
        num_distinct=len(others) + (num_zeros > 0),
        entropy_bits=entropy_bits(np.append(others, num_zeros)),
    )


def _require_valid(tensor: Tensor) -> None:
    try:
        if tensor.sparse is not None:
            validate_sparse(tensor.sparse)
    except ValueError as error:
        reason = str(error).removesuffix(".")
        raise DamagedFileError(
            f"tensor {tensor.name!r} that no runtime can read. {reason}"
        ) from error
