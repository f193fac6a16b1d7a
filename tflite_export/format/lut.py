"""Look-up tables of LiteRT for Microcontrollers -> dense codes, NumPy only.

Each weight is an index of 1 to 7 bits into the table of its channel.
`tflite_micro` writes the tables; this file reads them.
"""

import math

import numpy as np

# The operator that unpacks the weights before each use.
DECODE = "TFLM_DECODE"
HEADER_BYTES = 16
MAX_INDEX_BITS = 7
_LUT = 0
_VERSION = 1
_PER_TENSOR_AXIS = 15
# The byte of the header that holds the distance between two tables.
_STRIDE = 6


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
    if kind != _LUT or version != _VERSION:
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
        stride = values.size  # One table, see `share_table`.
    if values.size != num_tables * stride or indices.max() >= stride:
        raise _fault(
            f"{num_tables} tables of {stride} values must hold all indices",
            f"{values.size} values and the index {indices.max()}",
        )
    channel = np.arange(num_tables).reshape(channel_shape)
    dense: np.ndarray = values.reshape(num_tables, stride)[channel, indices]
    return dense


def share_table(tables: np.ndarray) -> np.ndarray:
    """Returns tables with a stride of 0 if there is one for the whole tensor.

    The runtime moves to the next table with each scale of the tensor, whatever
    the axis in the header. With a stride of 0 the next table is the same one.
    """
    shared = tables.copy()
    if _header(tables)[2] == _PER_TENSOR_AXIS:
        shared[_STRIDE] = 0
    return shared


def _header(tables: np.ndarray) -> tuple[int, ...]:
    if tables.size < HEADER_BYTES:
        raise _fault(f"header must have {HEADER_BYTES} bytes", tables.size)
    kind, _, _, _, version, params, stride = map(int, tables[:7])
    return kind, version, params >> 4, params & 7, stride


def _fault(expected: str, received: object) -> ValueError:
    return ValueError(f"A look-up table's {expected}. Received: {received}.")
