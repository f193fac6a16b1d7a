"""Look-up tables of LiteRT for Microcontrollers <-> dense codes, NumPy only.

Each weight is an index of 1 to 7 bits into the table of its channel.
Source: `decode_state_lut.h` of tflite-micro.
"""

import math
from typing import NamedTuple

import numpy as np

HEADER_BYTES = 16
MAX_INDEX_BITS = 7
# Of int8 weights.
NUM_CODES = 256
LOWEST_CODE = -128
# The first byte of the header.
LUT = 0
_VERSION = 1
_PER_TENSOR_AXIS = 15


class LookUp(NamedTuple):
    """The values of each table, before anything is packed.

    `present` `(tables, 256)` says which of -128 to 127 are in it. `axis` is
    that of the channels with a table each; None for one table.
    """

    present: np.ndarray
    axis: int | None

    @property
    def stride(self) -> int:
        """The number of values in the longest table."""
        return int(self.present.sum(axis=1).max())

    @property
    def index_bits(self) -> int:
        """The bits of an index."""
        return max((self.stride - 1).bit_length(), 1)

    @property
    def table_bytes(self) -> int:
        """The size of the tables, with their header."""
        return HEADER_BYTES + len(self.present) * self.stride

    def index_bytes(self, num_weights: int) -> int:
        """Returns the size of the packed indices."""
        return -(-num_weights * self.index_bits // 8)


def look_ups(codes: np.ndarray, axis: int | None) -> list[LookUp]:
    """Returns the tables that fit int8 codes: one, and one for each channel.

    `axis` is the one of the channels; None for one table only.
    """
    shared = LookUp(_present(codes.reshape(1, -1)), None)
    held = [shared]
    if axis is not None:
        rows = np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1)
        held.append(LookUp(_present(rows), axis))
    return [look_up for look_up in held if look_up.index_bits <= MAX_INDEX_BITS]


def encode_lut(
    codes: np.ndarray, look_up: LookUp
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the packed indices and the tables of int8 codes, as bytes.

    The runtime moves to the next table with each scale of the tensor, whatever
    the header says. So one table has a stride of 0: the next is the same one.

    Example:

    >>> codes = np.array([[0, 7], [7, 0]], np.int8)
    >>> indices, tables = encode_lut(codes, look_ups(codes, None)[0])
    >>> f"{indices[0]:08b}", tables[HEADER_BYTES:]
    ('01100000', array([0, 7], dtype=uint8))
    """
    present, axis = look_up
    ranks = present.cumsum(axis=1) - 1
    values: np.ndarray = np.zeros((len(present), look_up.stride), np.uint8)
    rows, places = np.nonzero(present)
    values[rows, ranks[rows, places]] = places + LOWEST_CODE & 0xFF
    channels: np.ndarray = np.zeros((1,) * codes.ndim, int)
    if axis is not None:
        others = [i for i in range(codes.ndim) if i != axis]
        channels = np.expand_dims(np.arange(len(present)), others)
    indices = ranks[channels, codes.astype(np.int16) - LOWEST_CODE]
    bits = np.unpackbits(indices.astype(np.uint8).reshape(-1, 1), axis=1)
    header: np.ndarray = np.zeros(HEADER_BYTES, np.uint8)
    place = _PER_TENSOR_AXIS if axis is None else axis
    stride = 0 if axis is None else look_up.stride
    header[[0, 1, 4]] = LUT, _VERSION, _VERSION
    header[[5, 6]] = place << 4 | look_up.index_bits, stride
    packed = np.packbits(bits[:, 8 - look_up.index_bits :])
    return packed, np.concatenate([header, values.ravel()])


def _present(rows: np.ndarray) -> np.ndarray:
    """Which of -128 to 127 each row holds: `(rows, 256)`."""
    present: np.ndarray = np.zeros((len(rows), NUM_CODES), bool)
    number = np.arange(len(rows))[:, None]
    present[number, rows.astype(np.int16) - LOWEST_CODE] = True
    return present


def decode_lut(
    encoded: np.ndarray, tables: np.ndarray, *, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns the codes of a tensor that is stored as indices into tables.

    `encoded` are the packed indices as bytes `(n,)`, the highest bit first.
    `tables` are bytes `(m,)`: a header of 16, then the int8 tables, one for
    each channel or one for all. Bytes that contradict the shape are an error.

    Example: 1 bit a weight, one table `[0, 7]`; `0b0110_0000`.

    >>> header = [0, 1, 0, 0, 1, 15 << 4 | 1, 2] + 9 * [0]
    >>> tables = np.array([*header, 0, 7], np.uint8)
    >>> decode_lut(np.array([0b01100000], np.uint8), tables, shape=(2, 2))
    array([[0, 7],
           [7, 0]], dtype=int8)
    """
    kind, version, axis, index_bits, stride = _header(tables)
    if kind != LUT or version != _VERSION:
        raise _fault("type and version must be 0 and 1", (kind, version))
    if not 1 <= index_bits <= MAX_INDEX_BITS:
        raise _fault("index must have 1 to 7 bits", index_bits)
    size = math.prod(shape)
    needed = -(-size * index_bits // 8)
    if encoded.size != needed or min(shape, default=0) < 1:
        raise _fault(
            f"indices for shape {shape} must take {needed} bytes", encoded.size
        )
    bits = np.unpackbits(encoded, count=size * index_bits)
    weights = 1 << np.arange(index_bits)[::-1]
    indices = (bits.reshape(size, index_bits) @ weights).reshape(shape)
    num_tables, channel_shape = 1, [1] * len(shape)
    if axis != _PER_TENSOR_AXIS:
        if axis >= len(shape):
            raise _fault(f"axis must be one of shape {shape}", axis)
        num_tables = channel_shape[axis] = shape[axis]
    values: np.ndarray = tables[HEADER_BYTES:].view(np.int8)
    if axis == _PER_TENSOR_AXIS and stride == 0:
        stride = values.size  # One table, see `encode_lut`.
    if values.size != num_tables * stride or indices.max() >= stride:
        raise _fault(
            f"{num_tables} tables of {stride} values must hold all indices",
            f"{values.size} values and the index {indices.max()}",
        )
    channel = np.arange(num_tables).reshape(channel_shape)
    dense: np.ndarray = values.reshape(num_tables, stride)[channel, indices]
    return dense


def _header(tables: np.ndarray) -> tuple[int, ...]:
    if tables.size < HEADER_BYTES:
        raise _fault(f"header must have {HEADER_BYTES} bytes", tables.size)
    kind, _, _, _, version, params, stride = map(int, tables[:7])
    return kind, version, params >> 4, params & 7, stride


def _fault(expected: str, received: object) -> ValueError:
    return ValueError(f"A look-up table's {expected}. Received: {received}.")
