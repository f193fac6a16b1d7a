"""The objects of the schema -> the bytes of a `.tflite` file."""

from typing import Any

import flatbuffers
import numpy as np

from tflite_export.format.kinds import FILE_IDENTIFIER

# The schema asks for 16 bytes (`force_align: 16`), which the generated Python
# code ignores. Microcontroller kernels read weights in place and rely on it.
BUFFER_ALIGNMENT = 16


def packed_model(model: Any) -> bytes:
    """Returns the bytes of a file."""
    builder = _Builder(1024)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):
    """A builder that starts every byte vector on `BUFFER_ALIGNMENT`.

    Equal vectors are written once. The zero points of weights are eight zero
    bytes a channel: a fifth of the file of a small network.
    """

    def __init__(self, initial_size: int) -> None:
        super().__init__(initial_size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = self._create(x)
        return self._written[key]

    def _create(self, x: np.ndarray) -> int:
        if x.dtype != np.uint8:
            return int(super().CreateNumpyVector(x))
        self.StartVector(1, x.size, BUFFER_ALIGNMENT)
        start: int = self.Head() - x.size
        self.head = start
        self.Bytes[start : start + x.size] = x.tobytes()
        return self.EndVector()
