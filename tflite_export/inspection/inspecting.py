"""Lists the constants of a `.tflite` file: type, zeros, entropy, bytes."""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tflite_export.format import accounting
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.kinds import read_tflite
from tflite_export.format.macs import count_macs
from tflite_export.inspection.rows import TensorRow, tensor_rows
from tflite_export.tables import Table, as_text, entropy_text

_COLUMNS = (
    *("operator", "dtype", "shape", "layout"),
    *("bytes", "zeros", "values", "entropy", "name"),
)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """All constants of a file, largest first; `str()` is a table.

    Attributes:
        path: The file.
        size_bytes: Its size.
        tensors: One `TensorRow` for each constant.
        custom_bytes: Bytes of the data that only a custom operator reads, by
            its name: a file that was compiled for a device has its weights
            there.
        macs: Multiply-accumulates of one run, zeros included; None where an
            operator does not tell, as one of a device's compiler.
        account: Where its bytes go; None if that was not asked.
        description: What it says of itself: who wrote it, with which versions
            and options; empty if it says nothing.

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
    custom_bytes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    macs: int | None = None
    account: accounting.ByteAccount | None = None
    description: str = ""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, with their indices and tables."""
        return sum(row.size_bytes for row in self._weights())

    @property
    def entropy_bytes(self) -> float:
        """Bytes that an ideal entropy coder would need for the weights.

        The sum of `n * H(values) / 8` over the tensors. Such a coder knows the
        frequency of each value in a tensor, and nothing of their order. A
        tensor of unknown values counts with its bytes.
        """
        return sum(
            float(row.size_bytes)
            if row.entropy_bytes is None
            else row.entropy_bytes
            for row in self._weights()
        )

    def _weights(self) -> list[TensorRow]:
        return [row for row in self.tensors if row.is_weight]

    @property
    def title(self) -> str:
        """The size, the work, and the weights with their entropy bound."""
        bound = entropy_text(self.weight_bytes, self.entropy_bytes)
        macs = "" if self.macs is None else f"{self.macs:,} MACs; "
        return f"{self.path}: {self.size_bytes:,} bytes; {macs}weights: {bound}"

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "macs": self.macs,
            "weight_bytes": self.weight_bytes,
            "entropy_bytes": self.entropy_bytes,
            "custom_bytes": dict(self.custom_bytes),
            "account": self.account and self.account.to_dict(),
            "description": self.description,
            "tensors": [row.to_dict() for row in self.tensors],
        }

    def parts(self) -> list[str | Table]:
        """Returns the tables of constants, of kinds of bytes, and of layers."""
        rows = [row.cells() for row in self.tensors]
        listed = sum(row.size_bytes for row in self.tensors)
        hidden = [
            f"note: {size:,} bytes are data of {name}: only its own device or "
            "runtime reads them, so weights in it have no row."
            for name, size in self.custom_bytes.items()
            if size > listed
        ]
        head: list[str | Table] = [self.title]
        head += hidden or ["note: it holds no constants."]
        if rows:
            head = [Table(self.title, _COLUMNS, rows), *hidden]
        if self.description:
            head.append(f"description: {self.description}")
        if self.account:
            head += [Table(*table) for table in self.account.tables()]
        return head

    def __str__(self) -> str:
        """Returns the table as text."""
        return as_text(self.parts())


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Lists the constants of a file, and where each of its bytes goes.

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
    custom: Counter[str] = Counter()
    file = Flatbuffer(data)
    for operator in file.operators:
        custom[operator.name] += operator.custom_bytes
    held = {name: size for name, size in custom.items() if size}
    return Inspection(
        Path(path),
        len(data),
        tensor_rows(data),
        held,
        count_macs(file),
        accounting.ByteAccount(data),
        file.description,
    )
