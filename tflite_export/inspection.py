"""Lists the constants of a `.tflite` file: type, zeros, entropy, bytes."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.format.damaged import damaged
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.lut import DECODE
from tflite_export.format.records import Tensor
from tflite_export.format.sparse import validate_sparse
from tflite_export.weights.sites import decoded_constants

MAX_NAME = 48


@dataclasses.dataclass(frozen=True)
class TensorRow:
    """One constant of the file.

    Attributes:
        name: Its name in the file.
        operator: The operator that reads it, `""` if none does.
        dtype: Its type in the file, such as `"int8"`.
        shape: Its shape.
        num_zeros: How many values are 0; None for types NumPy cannot hold.
        num_distinct: How many different values occur; None likewise.
        entropy_bits: Bits a value that an ideal entropy coder needs; None
            likewise.
        size_bytes: Bytes in the file, the indices of sparse tensors included.
        layout: `"dense"`, or how the sparse tensor is stored: `"csr"`, or the
            block, such as `"1x16"`; `"lut"` for the look-up tables of
            microcontrollers.
        index_bytes: How many of the bytes are segments and indices of a
            sparse tensor.
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
    index_bytes: int = 0

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
        """Whether it has two axes or more, and is no list of paddings."""
        return len(self.shape) >= 2 and self.dtype not in ("int32", "int64")

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
    """

    path: Path
    size_bytes: int
    tensors: tuple[TensorRow, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, with the indices and tables of their form."""
        return sum(row.size_bytes for row in self._weights())

    @property
    def entropy_bytes(self) -> float:
        """Bytes that an ideal entropy coder would need for the weights.

        The sum of `n * H(values) / 8` over the tensors. Such a coder knows how
        often each value occurs in a tensor, and nothing of their order.
        """
        return sum(row.entropy_bytes or 0.0 for row in self._weights())

    def _weights(self) -> list[TensorRow]:
        return [row for row in self.tensors if row.is_weight]

    @property
    def title(self) -> str:
        """The size, and how far the weights are from their entropy bound."""
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

    def __str__(self) -> str:
        """Returns the table."""
        header = (
            f"{'operator':18}{'dtype':9}{'shape':18}{'layout':8}{'bytes':>9}"
            f"{'zeros':>8}{'values':>8}{'entropy':>9}  name"
        )
        return "\n".join(
            [
                self.title,
                header,
                *(_line(row) for row in self.tensors),
            ]
        )


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Returns what each constant of a file costs and holds.

    Args:
        path: A `.tflite` file, of any origin.

    Returns:
        `Inspection`, its tensors sorted by size.

    Raises:
        ValueError: If the file is not a `.tflite` file, or is damaged.
    """
    data = Path(path).read_bytes()
    return Inspection(Path(path), len(data), tensor_rows(data))


def tensor_rows(data: bytes) -> tuple[TensorRow, ...]:
    """Does the work of `inspect` for the bytes of a file."""
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


def entropy_bits(values: np.ndarray) -> float:
    """Returns the Shannon entropy of the values, in bits per value.

    Example:

    >>> float(entropy_bits(np.array([0, 0, 1, -1])))
    1.5
    """
    return _entropy(np.unique(values, return_counts=True)[1])


def entropy_text(stored: int, bound: float) -> str:
    """Says how far the bytes of weights are from their entropy bound.

    Args:
        stored: Bytes that the weights take.
        bound: Bytes that an ideal entropy coder would need.

    Example:

    >>> entropy_text(500, 400.0)
    '500 bytes, 1.25x their entropy bound of 400'
    """
    ratio = f"{stored / bound:.2f}x their" if bound else "the"
    return f"{stored:,} bytes, {ratio} entropy bound of {bound:,.0f}"


def _entropy(counts: np.ndarray) -> float:
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
        row = dataclasses.replace(
            row,
            layout=sparse.layout,
            index_bytes=sum(level.size_bytes for level in sparse.levels),
        )
        # A claimed shape of many gigabytes must not be filled with its zeros.
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
        entropy_bits=_entropy(np.append(others, num_zeros)),
    )


def _require_valid(tensor: Tensor) -> None:
    try:
        if tensor.sparse is not None:
            validate_sparse(tensor.sparse)
    except ValueError as error:
        reason = str(error).removesuffix(".")
        raise damaged(
            f"tensor {tensor.name!r} that no runtime can read. {reason}"
        ) from error


def _line(row: TensorRow) -> str:
    shape = "x".join(map(str, row.shape)) or "scalar"
    text = (
        f"{row.operator:18}{row.dtype:9}{shape:18}{row.layout:8}"
        f"{row.size_bytes:>9,}"
    )
    if row.sparsity is None:
        return f"{text}{'-':>8}{'-':>8}{'-':>9}  {_clipped(row.name)}"
    return (
        f"{text}{row.sparsity:>8.1%}{row.num_distinct:>8}"
        f"{row.entropy_bits:>9.2f}  {_clipped(row.name)}"
    )


def _clipped(name: str) -> str:
    """Fused operators carry the names of all they were made of."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."
