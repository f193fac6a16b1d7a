"""Test vectors as C++: arrays of samples, and the calls that compare them."""

import zlib
from collections.abc import Sequence

import numpy as np

# Of these alone, equal values are the same on every device.
_C_TYPES = {
    "int8": "std::int8_t",
    "uint8": "std::uint8_t",
    "int16": "std::int16_t",
    "int32": "std::int32_t",
    "uint32": "std::uint32_t",
    "int64": "std::int64_t",
}
_VALUES_PER_LINE = 16
BLOCK_BYTES = 1024


def array(name: str, values: np.ndarray) -> str:
    """Returns the definition of an array with all samples in turn.

    Example:

    >>> print(array("kInput0", np.array([[1, -128]], np.int8)))
    const std::int8_t kInput0[] = {
        1, -128,
    };
    """
    c_type = _C_TYPES.get(values.dtype.name)
    if c_type is None:
        raise ValueError(
            f"Test vectors must be of the types {sorted(_C_TYPES)}. Received: "
            f"{values.dtype.name}. Export without `project`."
        )
    texts = [_literal(value) for value in values.ravel()]
    lines = [
        "    " + ", ".join(texts[start : start + _VALUES_PER_LINE]) + ","
        for start in range(0, len(texts), _VALUES_PER_LINE)
    ]
    return "\n".join([f"const {c_type} {name}[] = {{", *lines, "};"])


def _literal(value: np.generic) -> str:
    """One value in C++; the smallest integers have no literal of their own."""
    if value.dtype.kind == "u":
        return f"{value}u"
    is_smallest = (
        value.dtype.itemsize > 2 and value == np.iinfo(value.dtype).min
    )
    return f"{int(value) + 1} - 1" if is_smallest else str(value)


def block_sums(data: bytes) -> np.ndarray:
    """Returns the CRC-32 of each block of a file; the last one is shorter.

    Example:

    >>> block_sums(b"a" * 1025)
    array([2085984185, 3904355907], dtype=uint32)
    """
    starts = range(0, len(data), BLOCK_BYTES)
    sums = [zlib.crc32(data[start : start + BLOCK_BYTES]) for start in starts]
    return np.array(sums, np.uint32)


def fields(
    data: bytes, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> dict[str, str]:
    """Returns the parts of a test of a file on arrays of shape `(n, ...)`."""
    named = [
        *((f"kInput{i}Samples", values) for i, values in enumerate(inputs)),
        *((f"kOutput{i}Samples", values) for i, values in enumerate(outputs)),
    ]
    writes = [
        f"!Write(interpreter, sample, {i}, kInput{i}Samples)"
        for i in range(len(inputs))
    ]
    compares = [
        f"IsEqual(interpreter, sample, {i}, kOutput{i}Samples)"
        for i in range(len(outputs))
    ]
    return {
        "block_size": str(BLOCK_BYTES),
        "sums": array("kBlockSums", block_sums(data)),
        "num_samples": str(len(inputs[0])),
        "arrays": "\n\n".join(array(name, values) for name, values in named),
        "writes": " ||\n      ".join(writes),
        "compares": " &&\n         ".join(compares),
    }
