"""Lists the constants of a `.tflite` file: type, zeros, entropy, bytes."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from tflite_export.flatbuffer import Flatbuffer, Tensor

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
        size_bytes: Bytes in the file.
    """

    name: str
    operator: str
    dtype: str
    shape: tuple[int, ...]
    num_zeros: int | None
    num_distinct: int | None
    entropy_bits: float | None
    size_bytes: int

    @property
    def sparsity(self) -> float | None:
        """Fraction of zeros, in [0, 1]."""
        size = int(np.prod(self.shape))
        return None if self.num_zeros is None else self.num_zeros / max(size, 1)


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

    def __str__(self) -> str:
        """Returns the table."""
        header = (
            f"{'operator':18}{'dtype':9}{'shape':18}{'bytes':>9}{'zeros':>8}"
            f"{'values':>8}{'entropy':>9}  name"
        )
        return "\n".join(
            [
                f"{self.path}: {self.size_bytes:,} bytes",
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
        ValueError: If the file is not a `.tflite` file.
    """
    data = Path(path).read_bytes()
    file = Flatbuffer(data)
    readers: dict[tuple[int, int], str] = {}
    for operator in file.operators:
        for index in operator.inputs:
            readers.setdefault((operator.subgraph, index), operator.name)
    rows = [
        _row(tensor, readers.get((subgraph, tensor.index), ""))
        for subgraph in range(file.num_subgraphs)
        for tensor in file.tensors(subgraph)
        if tensor.size_bytes
    ]
    rows.sort(key=lambda row: (-row.size_bytes, row.name))
    return Inspection(Path(path), len(data), tuple(rows))


def entropy_bits(values: np.ndarray) -> float:
    """Returns the Shannon entropy of the values, in bits per value.

    Example:

    >>> float(entropy_bits(np.array([0, 0, 1, -1])))
    1.5
    """
    counts = np.unique(values, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0


def _row(tensor: Tensor, operator: str) -> TensorRow:
    data = tensor.data
    return TensorRow(
        name=tensor.name,
        operator=operator,
        dtype=tensor.dtype,
        shape=tensor.shape,
        num_zeros=None if data is None else int(np.sum(data == 0)),
        num_distinct=None if data is None else int(np.unique(data).size),
        entropy_bits=None if data is None else entropy_bits(data),
        size_bytes=tensor.size_bytes,
    )


def _line(row: TensorRow) -> str:
    shape = "x".join(map(str, row.shape)) or "scalar"
    text = f"{row.operator:18}{row.dtype:9}{shape:18}{row.size_bytes:>9,}"
    if row.sparsity is None:
        return f"{text}{'-':>8}{'-':>8}{'-':>9}  {_clipped(row.name)}"
    return (
        f"{text}{row.sparsity:>8.1%}{row.num_distinct:>8}"
        f"{row.entropy_bits:>9.2f}  {_clipped(row.name)}"
    )


def _clipped(name: str) -> str:
    """Fused operators carry the names of all they were made of."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."
