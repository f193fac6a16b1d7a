"""The smallest storage of weights on microcontrollers, from counts alone.

| storage   | bits a weight                        | unpacked by             |
|-----------|--------------------------------------|-------------------------|
| `int8`    | 8                                    | nothing                 |
| `lut`     | 1 to 7, by the number of values      | DECODE, before each use |
| `huffman` | close to the entropy, but at least 1 | DECODE, before each use |
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tflite_export.format.huffman import (
    HuffmanCode,
    encode_huffman,
    smallest_code,
)
from tflite_export.format.lut import LookUp, encode_lut

# Measured, to within 24 bytes a file: an operator with its vectors and the
# tensor of the packed weights; a tensor with tables; each further operator that
# reads the weights; and the name and the layouts that the first one brings.
DECODE_BYTES = 68
TABLES_BYTES = 28
READER_BYTES = 96
FIRST_DECODE_BYTES = 108
# A buffer starts at a multiple of 16. Its length and its table take 12 bytes.
_ALIGNMENT = 16
_BUFFER_BYTES = 12


class Packing(NamedTuple):
    """A storage of one tensor.

    `packed_bytes` are those of its weights in the file, operators included, and
    without its tables: several tensors may have the same ones.
    """

    storage: str
    packed_bytes: int
    look_up: LookUp | None = None
    code: HuffmanCode | None = None

    @property
    def num_bytes(self) -> int:
        """All its bytes in the file, where no tensor has the same tables."""
        return self.packed_bytes + self.table_bytes

    @property
    def table_bytes(self) -> int:
        """The bytes of its tables in the file."""
        held = self.look_up or self.code
        return TABLES_BYTES + _buffer_bytes(held.table_bytes) if held else 0

    @property
    def table_key(self) -> bytes:
        """Equal for tensors with the same tables; empty without any."""
        if self.look_up is not None:
            present, axis = self.look_up
            return b"lut %r" % axis + present.tobytes()
        return b"" if self.code is None else self.code.lengths.tobytes()

    def encode(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the packed weights and the tables as bytes; None for int8."""
        if self.look_up is not None:
            return encode_lut(codes, self.look_up)
        if self.code is not None:
            return encode_huffman(codes, self.code), self.code.tables
        return None


class Weights(NamedTuple):
    """A tensor of int8 codes, in the numbers that decide on its storage.

    `counts` are those of `count_codes`, `look_ups` the tables that the runtime
    can read. Each of its `num_readers` operators needs a DECODE of its own.
    """

    counts: np.ndarray
    look_ups: Sequence[LookUp]
    num_readers: int = 1

    def options(self, weight_storage: str) -> list[Packing]:
        """Returns the forms that a storage allows."""
        huffman = self.huffman(smallest_code(self.counts))
        if weight_storage == "huffman":
            return [huffman] if huffman else []
        held = [self.dense()]
        if weight_storage in ("auto", "lut"):
            held += self._luts()
        if weight_storage == "auto" and huffman:
            held.append(huffman)
        return held

    def dense(self) -> Packing:
        """Returns the form of a byte a weight."""
        return Packing("int8", _buffer_bytes(self._size()))

    def huffman(self, code: HuffmanCode) -> Packing | None:
        """Returns the form of a code; None if a weight has no word in it."""
        size = code.stream_bytes(self.counts)
        if size is None:
            return None
        num_bytes = self._decode_bytes() + _buffer_bytes(size)
        return Packing("huffman", num_bytes, code=code)

    def _luts(self) -> list[Packing]:
        return [
            Packing(
                "lut",
                self._decode_bytes()
                + _buffer_bytes(look_up.index_bytes(self._size())),
                look_up=look_up,
            )
            for look_up in self.look_ups
        ]

    def _size(self) -> int:
        return int(self.counts.sum())

    def _decode_bytes(self) -> int:
        return DECODE_BYTES + READER_BYTES * (self.num_readers - 1)


def plan(weights: Sequence[Weights], weight_storage: str) -> list[Packing]:
    """Decides on the storage of all tensors of a file together.

    Tensors with the table of one Huffman code pay for it once. The largest
    tensor is first; each further one joins the code that it makes the file
    smallest with, or stays alone.
    """
    alone = [
        min(w.options(weight_storage), key=lambda option: option.num_bytes)
        for w in weights
    ]
    candidates = [alone]
    if weight_storage in ("auto", "huffman"):
        candidates.append(_with_shared_codes(weights, alone))
    if weight_storage != "huffman":
        # The operator's name alone may cost more than little weights save.
        candidates.append([w.dense() for w in weights])
    return min(candidates, key=total_bytes)


def total_bytes(packings: Sequence[Packing]) -> int:
    """Returns the bytes of all tensors; equal tables count once."""
    tables = {packing.table_key: packing.table_bytes for packing in packings}
    is_packed = any(packing.storage != "int8" for packing in packings)
    return (
        sum(packing.packed_bytes for packing in packings)
        + sum(tables.values())
        + (FIRST_DECODE_BYTES if is_packed else 0)
    )


class _Group(NamedTuple):
    """The places of tensors that share a code, their counts and their bytes."""

    places: tuple[int, ...]
    counts: np.ndarray
    packings: tuple[Packing, ...]

    @property
    def num_bytes(self) -> int:
        table = self.packings[0].table_bytes
        return table + sum(packing.packed_bytes for packing in self.packings)

    def joined(self, place: int, weights: Sequence[Weights]) -> "_Group":
        """Returns the group with a further tensor, and the best code of all."""
        places, counts = (
            (*self.places, place),
            self.counts + weights[place].counts,
        )
        code = smallest_code(counts)
        packings = (weights[i].huffman(code) for i in places)
        return _Group(places, counts, tuple(p for p in packings if p))


def _with_shared_codes(
    weights: Sequence[Weights], alone: Sequence[Packing]
) -> list[Packing]:
    """The packings, where tensors share a code if that is smaller."""
    groups: list[_Group] = []
    for place in np.argsort([-w.counts.sum() for w in weights], kind="stable"):
        index = int(place)
        own = weights[index].huffman(smallest_code(weights[index].counts))
        limit = alone[index].num_bytes
        if own is None or own.packed_bytes >= limit:
            continue  # No table is cheap enough.
        joined = [group.joined(index, weights) for group in groups]
        added = [
            new.num_bytes - old.num_bytes
            for new, old in zip(joined, groups, strict=True)
        ]
        if added and min(added) < min(limit, own.num_bytes):
            best = added.index(min(added))
            groups[best] = joined[best]
        else:
            groups.append(_Group((index,), weights[index].counts, (own,)))
    packings = list(alone)
    for group in groups:
        if group.num_bytes < sum(alone[i].num_bytes for i in group.places):
            for index, packing in zip(
                group.places, group.packings, strict=True
            ):
                packings[index] = packing
    return packings


def _buffer_bytes(size: int) -> int:
    """The bytes of a constant in the file; the last ones are padding."""
    return -(-(size + _BUFFER_BYTES) // _ALIGNMENT) * _ALIGNMENT
