"""The bytes of a file, plain and compressed, and of its weights."""

import dataclasses
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zstandard

from tflite_export.format.accounting import ByteAccount
from tflite_export.inspection import Inspection, tensor_rows

# Higher levels take a minute on 30 MB.
GZIP_LEVEL = 6
ZSTD_LEVEL = 9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of a file.

    Attributes:
        file_bytes: Its size.
        gzip_bytes: Its size after gzip, as for an update over the air.
        zstd_bytes: Its size after zstd.
        weight_bytes: Bytes of its weights, with their indices and tables.
        entropy_bytes: Bytes that an ideal entropy coder would need for them,
            see `Inspection.entropy_bytes`.
        bytes_by_kind: Where they go, see `ByteAccount.by_kind`.
    """

    file_bytes: int
    gzip_bytes: int
    zstd_bytes: int
    weight_bytes: int
    entropy_bytes: float
    bytes_by_kind: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def entropy_ratio(self) -> float | None:
        """`weight_bytes / entropy_bytes`; 1 is ideal, None without weights."""
        if not self.entropy_bytes:
            return None
        return self.weight_bytes / self.entropy_bytes

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers, for JSON."""
        return dataclasses.asdict(self) | {"entropy_ratio": self.entropy_ratio}


def measure_sizes(data: bytes) -> Sizes:
    """Returns the sizes of the bytes of a file."""
    zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    inspection = Inspection(Path(), len(data), tensor_rows(data))
    return Sizes(
        file_bytes=len(data),
        gzip_bytes=len(gzip.compress(data, GZIP_LEVEL, mtime=0)),
        zstd_bytes=len(zstd.compress(data)),
        weight_bytes=inspection.weight_bytes,
        entropy_bytes=round(inspection.entropy_bytes, 1),
        bytes_by_kind=ByteAccount(data).by_kind,
    )
