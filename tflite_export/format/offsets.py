"""Checks the offsets of a `.tflite` file before anything follows them.

LiteRT's loader and the generated Python code trust the file. But an offset may
lead outside of it, and a few kilobytes of shared tables may unfold into
gigabytes. This walk follows all offsets within a budget. It knows where the
format has offsets, not their meaning.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from tflite_export.format.damaged import DamagedFileError

# A model of 50,000 operators has fewer; for more, Python would need minutes.
MAX_TABLES = 200_000
# Shared names, shapes and scales could fill the memory: they may unfold to
# twice the file, and this much more.
SHARED_BYTES = 2**20
_MAX_DEPTH = 16


class Field(NamedTuple):
    """A field that holds an offset.

    `kind` is "tables", "table", "vector", "text" (a vector with a zero byte
    behind it), "data" (a vector that is never copied) or "union" (the field
    before it holds its type).
    """

    kind: str
    table: str = ""
    item_size: int = 1


_STRING = Field("text")
_BYTES = Field("vector")
_INTS = Field("vector", item_size=4)
_LONGS = Field("vector", item_size=8)
# The fields of StableHLO's options that are vectors of 8-byte integers.
_LONG_OPTIONS = {
    2: (0,), 3: (0, 1, 2), 4: (0, 1, 2, 7, 10, 13), 6: (0,), 7: (1, 2, 3),
    9: (0,), 10: (0, 1, 2), 12: (0, 1, 2, 3), 13: (0, 1, 2, 3, 4),
    16: (0, 1, 2, 4), 17: (0,),
}  # fmt: skip

TABLES: Mapping[str, Mapping[int, Field]] = {
    "model": {
        1: Field("tables", "operator_code"),
        2: Field("tables", "subgraph"),
        3: _STRING,
        4: Field("tables", "buffer"),
        5: _INTS,
        6: Field("tables", "metadata"),
        7: Field("tables", "signature"),
        8: Field("tables", "named"),
        9: Field("tables", "external_buffer"),
    },
    "operator_code": {1: _STRING},
    "subgraph": {
        0: Field("tables", "tensor"),
        1: _INTS,
        2: _INTS,
        3: Field("tables", "operator"),
        4: _STRING,
    },
    "tensor": {
        0: _INTS,
        3: _STRING,
        4: Field("table", "quantization"),
        6: Field("table", "sparsity"),
        7: _INTS,
        9: Field("tables", "variant"),
    },
    "quantization": {
        0: _INTS,
        1: _INTS,
        2: _INTS,
        3: _LONGS,
        5: Field("union", "quantization_details"),
    },
    "quantization_details:1": {0: _STRING},
    "quantization_details:2": {3: _INTS},
    "sparsity": {
        0: _INTS,
        1: _INTS,
        2: Field("tables", "dimension"),
    },
    "dimension": {3: Field("union", "indices"), 5: Field("union", "indices")},
    "indices:1": {0: _INTS},
    "indices:2": {0: Field("vector", item_size=2)},
    "indices:3": {0: _BYTES},
    "operator": {
        1: _INTS,
        2: _INTS,
        4: Field("union", "options"),
        5: Field("data"),
        7: _STRING,
        8: _INTS,
        12: Field("union", "options2"),
    },
    "options:3": {1: _INTS, 2: _INTS},
    "options:8": {5: _BYTES},
    "options:17": {0: _INTS},
    "options:30": {0: _INTS},
    "options:111": {0: _STRING, 1: _STRING},
    "options:115": {0: _INTS},
    "options2:5": {0: _STRING, 2: _STRING, 4: _INTS, 5: _BYTES},
    "options2:21": {0: _STRING, 2: _BYTES},
    "options2:23": {0: _INTS},
    **{
        f"options2:{number}": dict.fromkeys(fields, _LONGS)
        for number, fields in _LONG_OPTIONS.items()
    },
    "buffer": {0: Field("data")},
    "metadata": {0: _STRING},
    "named": {0: _STRING},
    "external_buffer": {4: _STRING},
    "variant": {0: _INTS},
    "signature": {
        0: Field("tables", "named"),
        1: Field("tables", "named"),
        2: _STRING,
    },
}


def require_safe_offsets(data: bytes) -> None:
    """Raises an error unless every offset leads to a place in the file.

    A file that claims far more than it can hold is refused too.

    Example:

    >>> require_safe_offsets(bytes([200, 0, 0, 0]) + b"TFL3")
    Traceback (most recent call last):
    ...
    tflite_export.format.damaged.DamagedFileError: Expected an undamaged \
.tflite file. Received: an offset to byte 200 of 8, in the table `model`.
    """
    follower = _Follower(data)
    follower.table(follower.offset(0, "model"), "model", 0)


class _Follower:
    """Follows the offsets and counts the budgets down."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._num_tables = MAX_TABLES
        self._num_bytes = 2 * len(data) + SHARED_BYTES

    def table(self, position: int, name: str, depth: int) -> None:
        self._num_tables -= 1
        if self._num_tables < 0 or depth > _MAX_DEPTH:
            raise DamagedFileError(f"more than {MAX_TABLES:,} tables")
        (to_vtable,) = self._read("<i", position, name)
        vtable = position - to_vtable
        vtable_size, table_size = self._read("<HH", vtable, name)
        self._require(vtable + vtable_size, name)
        self._require(position + table_size, name)
        for field, kind in TABLES.get(name, {}).items():
            entry = 4 + 2 * field
            if entry + 2 > vtable_size:
                continue
            (start,) = self._read("<H", vtable + entry, name)
            if start:
                union_type = 0
                if kind.kind == "union":
                    union_type = self._union_type(position, vtable, entry, name)
                self._field(position + start, kind, name, union_type, depth)

    def offset(self, position: int, name: str) -> int:
        (distance,) = self._read("<I", position, name)
        self._require(position + distance + 4, name, position + distance)
        return position + distance

    def _field(
        self, place: int, field: Field, name: str, union_type: int, depth: int
    ) -> None:
        target = self.offset(place, name)
        if field.kind == "table":
            self.table(target, field.table, depth + 1)
        elif field.kind == "union":
            self.table(target, f"{field.table}:{union_type}", depth + 1)
        elif field.kind == "tables":
            for index in range(self._length(target, 4, name)):
                item = self.offset(target + 4 + 4 * index, name)
                self.table(item, field.table, depth + 1)
        else:
            count = self._length(target, field.item_size, name)
            if field.kind in ("vector", "text"):
                self._num_bytes -= count * field.item_size
            if self._num_bytes < 0:
                raise DamagedFileError(
                    "names and shapes of more bytes than the file has"
                )

    def _union_type(
        self, position: int, vtable: int, entry: int, name: str
    ) -> int:
        (start,) = self._read("<H", vtable + entry - 2, name)
        if not start:
            return 0
        (union_type,) = self._read("<B", position + start, name)
        return int(union_type)

    def _length(self, position: int, item_size: int, name: str) -> int:
        (count,) = self._read("<I", position, name)
        self._require(position + 4 + count * item_size, name)
        return int(count)

    def _read(self, form: str, position: int, name: str) -> tuple[int, ...]:
        self._require(position + struct.calcsize(form), name, position)
        return struct.unpack_from(form, self._data, position)

    def _require(self, end: int, name: str, start: int | None = None) -> None:
        place = end if start is None else start
        if place < 0 or end > len(self._data):
            raise DamagedFileError(
                f"an offset to byte {place:,} of {len(self._data):,}, in the "
                f"table `{name.partition(':')[0]}`"
            )
