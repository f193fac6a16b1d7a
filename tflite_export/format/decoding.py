"""The weights that `DECODE` of microcontrollers unpacks, made dense.

It reads packed weights and their tables. A header of 16 bytes before the tables
says how: `lut` and `huffman` have one layout each.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from tflite_export.format.consistency import MAX_SHARING
from tflite_export.format.damaged import DamagedFileError
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.huffman import HUFFMAN, decode_huffman
from tflite_export.format.lut import HEADER_BYTES, LUT, decode_lut
from tflite_export.format.operators import DECODE
from tflite_export.format.records import NO_SCALES, Constant, Operator, Tensor

Key = tuple[int, int]


class _Layout(NamedTuple):
    """The name of a layout, and the function that reads it."""

    name: str
    decode: Callable[..., np.ndarray]


_LAYOUTS: Mapping[int, _Layout] = {
    LUT: _Layout("lut", decode_lut),
    HUFFMAN: _Layout("huffman", decode_huffman),
}


@dataclasses.dataclass(frozen=True)
class Decoded:
    """The weights of a file that DECODE unpacks, by subgraph and index.

    `tensors` are the dense ones. Their `size_bytes` is that of the packed
    weights and the tables; what several tensors share counts once. `layouts`
    are `"lut"` or `"huffman"`. `stored` are the tensors that DECODE reads.
    """

    tensors: dict[Key, Tensor] = dataclasses.field(default_factory=dict)
    layouts: dict[Key, str] = dataclasses.field(default_factory=dict)
    stored: dict[Key, Tensor] = dataclasses.field(default_factory=dict)

    def dense(self, data: bytes) -> bytes:
        """Returns the file with dense weights in place of packed ones."""
        if not self.tensors:
            return data
        file = Flatbuffer(data)
        for subgraph, index in self.stored:
            file.set_scales(subgraph, index, NO_SCALES)
        for (subgraph, index), tensor in self.tensors.items():
            if tensor.data is not None:
                constant = Constant(tensor.data, NO_SCALES, 0)
                file.write(subgraph, index, constant)
        file.remove([o for o in file.operators if o.name == DECODE])
        return file.to_bytes()


def decoded_constants(file: Flatbuffer) -> Decoded:
    """Returns the weights that DECODE unpacks; damaged ones are an error."""
    decoded = Decoded()
    known: dict[tuple[int, ...], np.ndarray] = {}
    num_bytes = file_bytes = 0
    for operator in file.operators:
        if operator.name != DECODE:
            continue
        for stored, index in _pairs(operator):
            key = operator.subgraph, index
            packed, tables = (file.tensor(operator.subgraph, i) for i in stored)
            new = {(operator.subgraph, t.index): t for t in (packed, tables)}
            size = sum(
                tensor.size_bytes
                for place, tensor in new.items()
                if place not in decoded.stored
            )
            decoded.stored.update(new)
            output = file.tensor(*key)
            place = operator.subgraph, *stored, *output.shape
            if place not in known:
                known[place] = _codes(packed, tables, output.shape)
                num_bytes += known[place].size
            file_bytes += size
            # A bit becomes a byte; many more come from shared streams.
            if num_bytes > MAX_SHARING * file_bytes:
                raise DamagedFileError(f"packed weights of {num_bytes:,} bytes")
            decoded.tensors[key] = dataclasses.replace(
                output, data=known[place], size_bytes=size
            )
            decoded.layouts[key] = _layout(tables.data).name
    return decoded


def decode(
    encoded: np.ndarray, tables: np.ndarray, *, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns the int8 codes of a packed tensor, by the layout of its tables.

    `encoded` are bytes `(n,)`, `tables` bytes `(m,)` with their header. A
    layout that is unknown here, and bytes that contradict it, are an error.
    """
    return _layout(tables).decode(encoded, tables, shape=shape)


def _pairs(operator: Operator) -> list[tuple[tuple[int, int], int]]:
    """The packed weights and the tables of each output, as indices."""
    inputs, outputs = operator.inputs, operator.outputs
    if len(inputs) != 2 * len(outputs) or min(inputs, default=0) < 0:
        raise DamagedFileError(
            f"a {DECODE} of {len(inputs)} inputs and {len(outputs)} outputs"
        )
    pairs = zip(inputs[::2], inputs[1::2], strict=True)
    return list(zip(pairs, outputs, strict=True))


def _codes(
    encoded: Tensor, tables: Tensor, shape: tuple[int, ...]
) -> np.ndarray:
    is_known = encoded.dtype == tables.dtype == "uint8"
    if not is_known or encoded.data is None or tables.data is None:
        raise DamagedFileError(f"a {DECODE} without its weights or tables")
    return decode(encoded.data.ravel(), tables.data.ravel(), shape=shape)


def _layout(tables: np.ndarray | None) -> _Layout:
    held = [] if tables is None else tables.ravel()[:HEADER_BYTES].tolist()
    if len(held) < HEADER_BYTES or held[0] not in _LAYOUTS:
        raise ValueError(
            "Tables of DECODE must start with a header of "
            f"{HEADER_BYTES} bytes, the first of them 0 (look-up tables) or 1 "
            f"(Huffman codes). Received: {held}. Export again with "
            "`target='tflm'`."
        )
    return _LAYOUTS[held[0]]
