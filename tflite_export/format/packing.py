"""Integer codes <-> the bytes of int4 and int2 tensors, NumPy only.

TFLite fills each byte from its low bits: the first of two int4 codes is the
low nibble. The last byte is filled up with zeros.
"""

import math
from collections.abc import Sequence

import numpy as np

BIT_WIDTHS = (2, 4)


def pack(codes: np.ndarray, *, bit_width: int) -> np.ndarray:
    """Packs integer codes into bytes, in row-major order.

    Args:
        codes: Integers in `[-2 ** (bit_width - 1), 2 ** (bit_width - 1) - 1]`,
            of any shape.
        bit_width: Bits of a code: 2 or 4.

    Returns:
        uint8 array of `ceil(codes.size * bit_width / 8)` bytes.

    Raises:
        ValueError: If `bit_width` is another one, or a code does not fit.

    Example:

    >>> pack(np.array([1, -1, 7], np.int8), bit_width=4)
    array([241,   7], dtype=uint8)
    >>> pack(np.array([1, -1, 0, -2, 1], np.int8), bit_width=2)
    array([141,   1], dtype=uint8)
    """
    _require_bit_width(bit_width)
    flat = np.asarray(codes).ravel()
    limit = 2 ** (bit_width - 1)
    if flat.size and not (-limit <= flat.min() and flat.max() < limit):
        raise ValueError(
            f"`codes` must be in [{-limit}, {limit - 1}] for bit_width="
            f"{bit_width}. Received: codes in [{flat.min()}, {flat.max()}]."
        )
    per_byte = 8 // bit_width
    padded = np.zeros(-(-flat.size // per_byte) * per_byte, np.uint8)
    padded[: flat.size] = flat.astype(np.int8).view(np.uint8)
    padded &= 2**bit_width - 1
    packed = np.zeros(padded.size // per_byte, np.uint8)
    for position in range(per_byte):
        packed |= padded[position::per_byte] << (bit_width * position)
    return packed


def unpack(
    data: np.ndarray, *, bit_width: int, shape: Sequence[int]
) -> np.ndarray:
    """Unpacks the bytes of an int4 or int2 tensor; the inverse of `pack`.

    Args:
        data: uint8 array, exactly as many bytes as `shape` needs.
        bit_width: Bits of a code: 2 or 4.
        shape: Shape of the tensor.

    Returns:
        int8 array of that shape.

    Raises:
        ValueError: If `bit_width` is another one, or the number of bytes is
            not that of the shape.

    Example:

    >>> unpack(np.array([241, 7], np.uint8), bit_width=4, shape=(3,))
    array([ 1, -1,  7], dtype=int8)
    """
    _require_bit_width(bit_width)
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


def _require_bit_width(bit_width: int) -> None:
    if bit_width not in BIT_WIDTHS:
        raise ValueError(
            f"`bit_width` must be one of {BIT_WIDTHS}. Received: "
            f"bit_width={bit_width}. Codes of 8 bits need no packing."
        )
