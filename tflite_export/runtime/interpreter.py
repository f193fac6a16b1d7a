"""Runs a `.tflite` file: floats in, floats out. LiteRT runs in a child."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Tensor
from tflite_export.format.tensors import is_number
from tflite_export.runtime.sandbox import TIME_LIMIT_S, run_script

# Four times the largest image that phones take.
MAX_INPUT_VALUES = 2**26
_SCRIPT = Path(__file__).with_name("litert_child.py")


class Run(Protocol):
    """`run`, or the same on another CPU, as `tflite_export.arm.run`."""

    def __call__(
        self, data: bytes, inputs: dict[int, np.ndarray], /
    ) -> dict[int, np.ndarray]:
        """Returns the outputs by tensor index, as `run` does."""


def predict(
    flatbuffer: bytes,
    samples: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    run_on: Run | None = None,
) -> dict[str, np.ndarray]:
    """Returns the file's outputs by name, float32 arrays `(n, ...)`.

    The samples are one array of shape `(n, ...)` for each name. If the file
    has other names, the order of its inputs counts. `run_on` runs the file;
    None is this machine, with XNNPACK.
    """
    file = Flatbuffer(flatbuffer)
    inputs = quantized_inputs(file, samples, names)
    outputs = (run_on or run)(flatbuffer, inputs)
    return {
        name: dequantize(outputs[tensor.index], tensor)
        for name, tensor in file.outputs().items()
    }


def quantized_inputs(
    file: Flatbuffer, samples: Sequence[np.ndarray], names: Sequence[str]
) -> dict[int, np.ndarray]:
    """Returns samples in the types of the file's inputs, by tensor index."""
    known = file.inputs()
    if set(names) != set(known):
        names = list(known)
    return {
        known[name].index: quantize(values, known[name])
        for name, values in zip(names, samples, strict=True)
    }


def run(
    flatbuffer: bytes,
    inputs: Mapping[int, np.ndarray],
    *,
    reference_kernels: bool = False,
    tensors: Sequence[int] | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    emulator: Sequence[str] = (),
) -> dict[int, np.ndarray]:
    """Returns the file's outputs, not dequantized, `(n, ...)` by tensor index.

    The file is run for each of the `n` samples. They lie along a batch of 1
    where a tensor has that, and else along an axis in front of its own.
    `tensors` asks for other tensors than the outputs; no delegate runs then. A
    file that LiteRT cannot run is a `ValueError`.
    """
    file = Flatbuffer(flatbuffer)
    indices = tensors
    if indices is None:
        indices = [t.index for t in file.outputs().values()]
    outputs, _ = run_script(
        _SCRIPT,
        flatbuffer,
        {str(index): runs for index, runs in by_run(file, inputs).items()},
        {
            # One tensor may be several outputs.
            "outputs": list(dict.fromkeys(indices)),
            "reference_kernels": reference_kernels,
            "keep_all_tensors": tensors is not None,
        },
        time_limit_s=time_limit_s,
        emulator=emulator,
    )
    return {int(name): by_sample(runs) for name, runs in outputs.items()}


def by_run(
    file: Flatbuffer, inputs: Mapping[int, np.ndarray]
) -> dict[int, np.ndarray]:
    """Returns inputs `(n, ...)` with the whole shape of the tensor behind n."""
    runs = {}
    for index, values in inputs.items():
        tensor = file.tensor(0, index)
        has_batch = values.ndim == len(tensor.shape)
        if has_batch and tensor.shape[0] > 1:
            raise ValueError(
                "A file must have a batch of 1 to be run on samples of shape "
                f"(n, ...). Received: input {tensor.name!r} of shape "
                f"{tensor.shape}. Convert the model with a batch of 1."
            )
        runs[index] = values[:, None] if has_batch else values
    return runs


def by_sample(runs: np.ndarray) -> np.ndarray:
    """Returns the outputs of n runs; a batch of 1 becomes their axis."""
    return runs[:, 0] if runs.ndim > 1 and runs.shape[1] == 1 else runs


def zero_inputs(file: Flatbuffer) -> dict[int, np.ndarray]:
    """Returns one sample of zeros, to try if a file runs."""
    inputs: dict[int, np.ndarray] = {}
    for index in file.interface()[0]:
        tensor = file.tensor(0, index)
        shape = sample_shape(tensor)
        if not is_number(tensor.dtype) or math.prod(shape) > MAX_INPUT_VALUES:
            raise ValueError(
                f"An input must be an array of at most {MAX_INPUT_VALUES:,} "
                f"numbers. Received: {tensor.name!r} of type {tensor.dtype} "
                f"and shape {tensor.shape}."
            )
        inputs[index] = np.zeros((1, *shape), np.dtype(tensor.dtype))
    return inputs


def sample_shape(tensor: Tensor) -> tuple[int, ...]:
    """Returns the shape of an input without a batch of 1, if it has that."""
    # Open sizes are -1 in a file.
    shape = tuple(1 if size < 0 else size for size in tensor.shape)
    return shape[1:] if shape[:1] == (1,) else shape


def random_inputs(file: Flatbuffer, num_samples: int) -> dict[int, np.ndarray]:
    """Returns samples of random numbers by tensor index, always the same ones.

    Integers with a scale take their whole range, floats a normal distribution.
    Integers without one are tokens, and 0 is in every vocabulary.
    """
    rng = np.random.default_rng(0)
    inputs = {}
    for index, zeros in zero_inputs(file).items():
        has_scale = file.tensor(0, index).scales.size > 0
        shape = (num_samples, *zeros.shape[1:])
        if zeros.dtype.kind == "f":
            values = rng.normal(size=shape)
        elif zeros.dtype.kind in "iu" and has_scale:
            limits = np.iinfo(zeros.dtype)
            values = rng.integers(limits.min, limits.max, shape, endpoint=True)
        else:
            values = np.zeros(shape)
        inputs[index] = values.astype(zeros.dtype)
    return inputs


def random_float_inputs(
    file: Flatbuffer, num_samples: int
) -> dict[str, np.ndarray]:
    """Returns `random_inputs` by name, dequantized to floats."""
    codes = random_inputs(file, num_samples)
    return {
        name: dequantize(codes[tensor.index], tensor)
        for name, tensor in file.inputs().items()
    }


def differences(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns the absolute differences; `inf` where one side only is a NaN.

    Example:

    >>> values = np.array([np.nan, 2.0])
    >>> differences(values, values), differences(values, np.array([1.0, 2.0]))
    (array([0., 0.]), array([inf,  0.]))
    """
    dtype = np.result_type(actual, expected, float)
    first: np.ndarray = actual.astype(dtype)
    second: np.ndarray = expected.astype(dtype)
    is_same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):
        difference = np.where(is_same, 0.0, np.abs(first - second))
    return np.nan_to_num(difference, nan=np.inf, posinf=np.inf)


def quantize(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Maps floats to the integers of a tensor; other types pass through.

    Example:

    >>> scale, zero_point = np.array([0.5], np.float32), np.array([3])
    >>> tensor = Tensor(0, "x", "int8", (3,), None, scale, zero_point, 0, 0)
    >>> quantize(np.array([0.0, 1.0, 1e9]), tensor)
    array([  3,   5, 127], dtype=int8)
    """
    dtype = np.dtype(tensor.dtype)
    if tensor.scales.size != 1 or dtype.kind not in "iu":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    codes = np.round(values / tensor.scales[0]) + _zero_point(tensor)
    return np.clip(codes, limits.min, limits.max).astype(dtype)


def dequantize(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Maps the integers of a tensor to floats.

    Example:

    >>> scale, zero_point = np.array([0.5], np.float32), np.array([3])
    >>> tensor = Tensor(0, "x", "int8", (3,), None, scale, zero_point, 0, 0)
    >>> dequantize(np.array([3, 5, 127], np.int8), tensor)
    array([ 0.,  1., 62.], dtype=float32)
    """
    real: np.ndarray = values.astype(np.float32)
    if tensor.scales.size != 1:
        return real
    return (tensor.scales[0] * (real - _zero_point(tensor))).astype(np.float32)


def _zero_point(tensor: Tensor) -> int:
    return int(tensor.zero_points[0]) if tensor.zero_points.size else 0
