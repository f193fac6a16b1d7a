"""Runs a `.tflite` file: floats in, floats out. The only user of LiteRT."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from tflite_export.flatbuffer import Flatbuffer


def predict(
    flatbuffer: bytes, samples: Sequence[np.ndarray], names: Sequence[str]
) -> list[np.ndarray]:
    """Returns what the file computes, with the default delegate (XNNPACK).

    Args:
        flatbuffer: The bytes of the file; its batch is 1.
        samples: One array of shape `(n, ...)` for each input. Floats are
            quantized to the input's type.
        names: The name of each input. If the file does not know them, the
            arrays are taken in the order of the file's inputs.

    Returns:
        One float32 array of shape `(n, ...)` for each output, dequantized.
    """
    interpreter = Interpreter(model_content=flatbuffer)
    interpreter.allocate_tensors()
    file = Flatbuffer(flatbuffer)
    known = file.inputs()
    if set(names) != set(known):
        names = list(known)
    tensors = [known[name].index for name in names]
    inputs = {d["index"]: d for d in interpreter.get_input_details()}
    outputs = {d["index"]: d for d in interpreter.get_output_details()}
    rows = []
    for row in zip(*samples, strict=True):
        for index, values in zip(tensors, row, strict=True):
            batch = quantize(values[None], inputs[index])
            interpreter.set_tensor(index, batch)
        interpreter.invoke()
        rows.append(
            [
                dequantize(
                    interpreter.get_tensor(tensor.index), outputs[tensor.index]
                )
                for tensor in file.outputs().values()
            ]
        )
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def quantize(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """Maps floats to the integers of a tensor; other types pass through.

    Args:
        values: Array of any shape.
        details: The tensor's entry in LiteRT's `get_input_details`.

    Example:

    >>> details = {"dtype": np.int8, "quantization": (0.5, 3)}
    >>> quantize(np.array([0.0, 1.0, 1e9]), details)
    array([  3,   5, 127], dtype=int8)
    """
    dtype = np.dtype(details["dtype"])
    scale, zero_point = details["quantization"]
    if scale == 0 or dtype.kind != "i":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    codes = np.round(values / scale) + zero_point
    return np.clip(codes, limits.min, limits.max).astype(dtype)


def dequantize(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """Maps the integers of a tensor to floats.

    Args:
        values: Array of any shape.
        details: The tensor's entry in LiteRT's `get_output_details`.

    Example:

    >>> details = {"dtype": np.int8, "quantization": (0.5, 3)}
    >>> dequantize(np.array([3, 5, 127], np.int8), details)
    array([ 0.,  1., 62.], dtype=float32)
    """
    scale, zero_point = details["quantization"]
    if scale == 0:
        return values.astype(np.float32)
    return (scale * (values.astype(np.float32) - zero_point)).astype(np.float32)
