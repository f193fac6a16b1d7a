"""Integer codes <-> the bytes of int4 and int2 tensors, NumPy only.

TFLite fills each byte from its low bits: the first of two int4 codes is the
low nibble. Zeros fill the last byte.
"""

import math
from collections.abc import Sequence

import numpy as np


def pack(codes: np.ndarray) -> np.ndarray:
    """Packs int4 codes into bytes, in row-major order.

    The codes are in [-8, 7] and of any shape; the result is a uint8 array of
    `ceil(codes.size / 2)` bytes.

    Example:

    >>> pack(np.array([1, -1, 7], np.int8))
    array([241,   7], dtype=uint8)
    """
    flat = np.asarray(codes).ravel()
    if flat.size and not (-8 <= flat.min() and flat.max() < 8):
        raise ValueError(
            "`codes` must be in [-8, 7] for int4. "
            f"Received: codes in [{flat.min()}, {flat.max()}]."
        )
    padded = np.zeros(flat.size + flat.size % 2, np.uint8)
    padded[: flat.size] = flat.astype(np.int8).view(np.uint8)
    return (padded[::2] & 15) | (padded[1::2] << 4)


def unpack(
    data: np.ndarray, *, bit_width: int, shape: Sequence[int]
) -> np.ndarray:
    """Unpacks the bytes of an int4 or int2 tensor to int8; inverse of `pack`.

    The bit width is 2 or 4. The number of bytes must fit the shape.

    Example:

    >>> unpack(np.array([241, 7], np.uint8), bit_width=4, shape=(3,))
    array([ 1, -1,  7], dtype=int8)
    """
    per_byte = 8 // bit_width
    size = math.prod(shape)
    if min(shape, default=0) < 0 or data.size != -(-size // per_byte):
        raise ValueError(
            f"`data` must hold the codes of a tensor of shape {tuple(shape)}, "
            f"{per_byte} codes a byte. Received: {data.size} bytes."
        )
    fields: np.ndarray = np.empty((data.size, per_byte), np.uint8)
    for position in range(per_byte):
        fields[:, position] = data >> (bit_width * position)
    # Shifting the sign bit to the top and back fills the byte with the sign.
    top = 8 - bit_width
    codes = (fields << top).view(np.int8) >> top
    return codes.ravel()[:size].reshape(tuple(shape))
