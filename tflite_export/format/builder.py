"""The objects of the schema -> the bytes of a `.tflite` file.

Equal vectors, texts and tables are written once: offsets may lead to one place.
The zero points, shapes, scales, options and types of a network repeat, and are
a fifth of the file of a small one.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import flatbuffers
import numpy as np

from tflite_export.format.kinds import FILE_IDENTIFIER

# The schema asks for 16 bytes (`force_align: 16`), which the generated Python
# code ignores. Microcontroller kernels read weights in place and rely on it.
BUFFER_ALIGNMENT = 16
# A length, and the words that tables and most vectors are made of.
_WORD = 4


def packed_model(model: Any) -> bytes:
    """Returns the bytes of a file."""
    buffers = {
        np.asarray(buffer.data, np.uint8).tobytes()
        for buffer in model.buffers or ()
        if buffer.data is not None
    }
    builder = _Builder(buffers)
    leaves = dict.fromkeys(
        builder.leaf(value) for value in _vectors_and_texts(model)
    )
    for leaf in _closely(leaves):
        builder.write(leaf)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


class _Leaf(NamedTuple):
    """A vector or a text: its bytes, and the alignment of the first one."""

    data: bytes
    length: int
    alignment: int

    @property
    def size(self) -> int:
        """Its bytes in the file, with the length in front, in whole words."""
        return _WORD - (-len(self.data) // _WORD) * _WORD


class _Builder(flatbuffers.Builder):
    """A builder that writes equal parts once, and long fields first."""

    def __init__(self, buffers: set[bytes]) -> None:
        super().__init__(1024)
        self._buffers = buffers
        self._leaves: dict[_Leaf, int] = {}
        self._tables: dict[tuple[Any, ...], int] = {}
        self._num_fields = 0
        # The size, the number, the type and the value of each field.
        self._fields: list[tuple[int, int, Any, Any]] = []

    def leaf(self, value: np.ndarray | bytes) -> _Leaf:
        """The leaf of a vector or a text."""
        if isinstance(value, bytes):
            return _Leaf(value + b"\0", len(value), 1)
        data, alignment = value.tobytes(), value.itemsize
        if alignment == 1 and data in self._buffers:
            alignment = BUFFER_ALIGNMENT
        return _Leaf(data, value.size, alignment)

    def write(self, leaf: _Leaf) -> int:
        """Writes a leaf, unless it is there, and returns its place."""
        if leaf not in self._leaves:
            size = len(leaf.data)
            self.StartVector(1, size, leaf.alignment)
            self.head -= size
            self.Bytes[self.head : self.head + size] = leaf.data
            self.vectorNumElems = leaf.length
            self._leaves[leaf] = self.EndVector()
        return self._leaves[leaf]

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        return self.write(self.leaf(x))

    def CreateString(
        self, s: str | bytes, encoding: str = "utf-8", errors: str = "strict"
    ) -> int:
        text = s.encode(encoding, errors) if isinstance(s, str) else bytes(s)
        return self.write(self.leaf(text))

    def StartObject(self, numfields: int) -> None:
        self._num_fields, self._fields = numfields, []

    def PrependSlot(self, flags: Any, o: int, x: Any, d: Any) -> None:
        if x != d:
            self._fields.append((flags.bytewidth, o, flags, x))

    def PrependUOffsetTRelativeSlot(self, o: int, x: Any, d: Any) -> None:
        if x != d:
            self._fields.append((_WORD, o, None, x))

    def EndObject(self) -> int:
        fields = sorted(self._fields, key=lambda field: field[:2], reverse=True)
        key = tuple(fields)
        if key not in self._tables:
            super().StartObject(self._num_fields)
            for _, number, flags, value in fields:
                if flags is None:
                    super().PrependUOffsetTRelativeSlot(number, value, 0)
                else:
                    super().PrependSlot(flags, number, value, None)
            self._tables[key] = super().EndObject()
        return self._tables[key]


def _vectors_and_texts(held: Any) -> Iterator[np.ndarray | bytes]:
    """All vectors and texts in an object of the schema and below."""
    if isinstance(held, np.ndarray | bytes):
        yield held
    elif isinstance(held, list):
        for item in held:
            yield from _vectors_and_texts(item)
    elif hasattr(held, "__dict__"):
        for value in vars(held).values():
            yield from _vectors_and_texts(value)


def _closely(leaves: Iterable[_Leaf]) -> Iterator[_Leaf]:
    """Leaves in an order in which little space is lost to alignment.

    The file is written from its end. A leaf whose size is the missing distance
    of an aligned one, up to whole multiples of the alignment, fills its gap.
    """
    free: dict[int, list[_Leaf]] = {size: [] for size in (0, 4, 8, 12)}
    aligned = []
    for leaf in leaves:
        if leaf.alignment <= _WORD:
            free[leaf.size % BUFFER_ALIGNMENT].append(leaf)
        else:
            aligned.append(leaf)
    offset = 0
    for leaf in aligned:
        gap = -(offset + len(leaf.data)) % leaf.alignment // _WORD * _WORD
        # The longest first: a gap of 12 takes one of 12, or 8 and 4.
        for size in (12, 8, 4):
            while size <= gap and free[size]:
                filling = free[size].pop(0)
                offset += filling.size
                gap -= size
                yield filling
        end = offset + len(leaf.data)
        offset = end + -end % leaf.alignment + _WORD
        yield leaf
    for rest in free.values():
        yield from rest
