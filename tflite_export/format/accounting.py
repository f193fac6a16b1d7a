"""Where the bytes of a `.tflite` file go: each has one kind and one layer.

The walk follows the offsets that `offsets` has checked. A part that several
tables share counts once, for the first of them.
"""

import dataclasses
import functools
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tflite_export.format import reader
from tflite_export.format.offsets import TABLES, Field
from tflite_export.format.owners import Owner, Owners

# In the order of reports. "compiled" are data that only a device's own operator
# reads, "other" is what no known offset leads to, such as an appended archive.
KINDS = (
    *("weights", "indices", "tables", "biases", "scales", "zero points"),
    *("names", "metadata", "graph", "alignment", "compiled", "other"),
)
LAYER_COLUMNS = (
    *("bytes", "weights", "indices", "biases", "scales", "rest", "layer"),
)
_COLUMNS = (
    ("weights", "compiled"),
    ("indices", "tables"),
    ("biases",),
    ("scales", "zero points"),
)
# A field whose contents, and all below, are of another kind than its table.
_KIND_BELOW = {
    ("model", 3): "metadata",
    ("model", 6): "metadata",
    ("model", 7): "names",
    ("model", 8): "metadata",
    ("subgraph", 4): "names",
    ("tensor", 3): "names",
    ("tensor", 6): "indices",
    ("quantization", 2): "scales",
    ("quantization", 3): "zero points",
}
# The root's offset and the identifier.
_HEAD_BYTES = 8
# Zeros between two parts are alignment up to this many.
_MAX_ALIGNMENT = 64


class Piece(NamedTuple):
    """Bytes from `start` to before `end`; `layer` is `""` for the file's own.

    `layer` is the path of a Keras layer where the weights have its name, and
    else the name of the operator.
    """

    start: int
    end: int
    kind: str
    layer: str

    @property
    def size_bytes(self) -> int:
        """Its bytes."""
        return self.end - self.start


@dataclasses.dataclass(frozen=True)
class ByteAccount:
    """The account of a file; its properties raise `DamagedFileError`.

    Example:

    >>> ByteAccount(b"not a model").pieces
    Traceback (most recent call last):
    ...
    ValueError: Expected the bytes of a .tflite file (identifier b'TFL3' at \
byte 4). Received: 11 bytes that start with b'not a mo'.
    """

    data: bytes = dataclasses.field(repr=False)

    @functools.cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces in order, from the first to the last byte."""
        model = reader.read_model(self.data)
        owners = Owners(model)
        walk = _Walk(self.data, model, owners)
        pieces = [
            Piece(
                start, end, kind, owners.layers.get(owner, "") if owner else ""
            )
            for (start, end), (kind, owner) in sorted(walk.found.items())
        ]
        return tuple(_without_gaps(pieces, self.data))

    @property
    def by_kind(self) -> dict[str, int]:
        """The bytes of each kind that the file has, in order of `KINDS`."""
        return _by_kind(self.pieces)

    @property
    def by_layer(self) -> dict[str, dict[str, int]]:
        """The bytes by layer and kind, the largest layer first."""
        held: dict[str, list[Piece]] = {}
        for piece in self.pieces:
            held.setdefault(piece.layer, []).append(piece)
        counted = {layer: _by_kind(parts) for layer, parts in held.items()}
        return dict(
            sorted(counted.items(), key=lambda item: -sum(item[1].values()))
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the sums as plain values, for JSON."""
        return {"by_kind": self.by_kind, "by_layer": self.by_layer}

    def tables(self) -> list[tuple[str, tuple[str, ...], list[Any]]]:
        """Returns the title, the columns and the rows of each table."""
        kinds, layers = self.by_kind, self.by_layer
        kind_rows = [
            (kind, f"{size:,}", f"{size / len(self.data):.1%}")
            for kind, size in kinds.items()
        ]
        layer_rows = [_layer_row(*item) for item in layers.items()]
        return [
            ("Bytes by kind", ("kind", "bytes", "share"), kind_rows),
            ("Bytes by layer", LAYER_COLUMNS, layer_rows),
        ]


def _layer_row(layer: str, kinds: Mapping[str, int]) -> tuple[str, ...]:
    shown = [sum(kinds.get(k, 0) for k in group) for group in _COLUMNS]
    total = sum(kinds.values())
    sizes = [total, *shown, total - sum(shown)]
    return (*(f"{size:,}" for size in sizes), layer or "(the file)")


def _by_kind(pieces: Iterable[Piece]) -> dict[str, int]:
    counted = Counter[str]()
    for piece in pieces:
        counted[piece.kind] += piece.size_bytes
    return {kind: counted[kind] for kind in KINDS if counted[kind]}


class _Label(NamedTuple):
    """The kind of a part, and the tensor or operator that it belongs to."""

    kind: str
    owner: Owner | None = None


_FILE = _Label("graph")


class _Walk:
    """Follows all offsets and labels each part by its first reader."""

    def __init__(self, data: bytes, model: Any, owners: Owners) -> None:
        self.found: dict[tuple[int, int], _Label] = {}
        self._data = data
        self._buffers = {
            index: _Label(*label) for index, label in owners.buffers.items()
        }
        self._add(0, _HEAD_BYTES, _FILE)
        self._table(self._offset(0), "model", _FILE)
        for index, buffer in enumerate(model.buffers):
            # A file over 2 GB holds its constants after the tables.
            if buffer.data is None and buffer.size:
                end = buffer.offset + buffer.size
                label = self._buffers.get(index, _Label("other"))
                self._add(buffer.offset, end, label)

    def _table(self, position: int, name: str, label: _Label) -> None:
        vtable = position - self._read("<i", position)
        vtable_bytes = self._read("<H", vtable)
        table_bytes = self._read("<H", vtable + 2)
        self._add(vtable, vtable + vtable_bytes, _FILE)
        own = label if name != "buffer" else label._replace(kind="graph")
        if not self._add(position, position + table_bytes, own):
            return
        for number, field in TABLES.get(name, {}).items():
            entry = 4 + 2 * number
            if entry + 2 > vtable_bytes:
                continue
            start = self._read("<H", vtable + entry)
            if start:
                below = field.table
                if field.kind == "union":
                    place = self._read("<H", vtable + entry - 2)
                    kind = self._read("<B", position + place) if place else 0
                    below = f"{below}:{kind}"
                kind_below = _KIND_BELOW.get((name, number), label.kind)
                target = self._offset(position + start)
                labelled = label._replace(kind=kind_below)
                self._part(target, field, below, labelled)

    def _part(
        self, target: int, field: Field, below: str, label: _Label
    ) -> None:
        if field.kind in ("table", "union"):
            self._table(target, below, label)
            return
        count = self._read("<I", target)
        if field.kind != "tables":
            end = target + 4 + count * field.item_size
            is_text = (
                field.kind == "text" and self._data[end : end + 1] == b"\0"
            )
            self._add(target, end + is_text, label)
            return
        self._add(target, target + 4 + 4 * count, label)
        for index in range(count):
            item = self._offset(target + 4 + 4 * index)
            self._table(item, below, self._item_label(below, index, label))

    def _item_label(self, table: str, index: int, label: _Label) -> _Label:
        """The label of one table of a vector of them."""
        if table == "buffer":
            return self._buffers.get(index, _Label("other"))
        if table == "subgraph":
            return label._replace(owner=Owner(index, "graph", 0))
        if table in ("tensor", "operator") and label.owner:
            owner = label.owner._replace(kind=f"{table}s", number=index)
            return label._replace(owner=owner)
        return label

    def _add(self, start: int, end: int, label: _Label) -> bool:
        """Labels a part; says whether it is new."""
        is_new = (start, end) not in self.found
        self.found.setdefault((start, end), label)
        return is_new

    def _offset(self, position: int) -> int:
        return position + self._read("<I", position)

    def _read(self, form: str, position: int) -> int:
        (value,) = struct.unpack_from(form, self._data, position)
        return int(value)


def _without_gaps(pieces: Iterable[Piece], data: bytes) -> Iterator[Piece]:
    """The pieces in order, without overlaps, and what lies between them."""
    done = 0
    for piece in [*pieces, Piece(len(data), len(data), "other", "")]:
        if piece.start > done:
            yield from _gap(done, piece.start, data)
            done = piece.start
        if piece.end > done:
            yield piece._replace(start=done)
            done = piece.end


def _gap(start: int, end: int, data: bytes) -> Iterator[Piece]:
    is_zero = end - start <= _MAX_ALIGNMENT and not any(data[start:end])
    yield Piece(start, end, "alignment" if is_zero else "other", "")
