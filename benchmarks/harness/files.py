"""Networks with random integers for weights, their files and instructions."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from codeq_keras.deployment import QuantizedWeight, find_kernels
from tflite_export import arm
from tflite_export.exporting import ExportResult, export_trained
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime import interpreter
from tflite_export.samples import model_inputs
from tflite_export.trained_model import read_plain


def random_codes(
    rng: np.random.Generator,
    shape: Sequence[int],
    max_code: int = 7,
    sparsity: float = 0.5,
) -> np.ndarray:
    """Returns random int8 codes; zeros among the drawn ones come on top."""
    codes = rng.integers(-max_code, max_code + 1, shape)
    return np.where(rng.random(shape) < sparsity, 0, codes).astype(np.int8)


def block_codes(
    rng: np.random.Generator,
    shape: Sequence[int],
    sparsity: float,
    block: int = 1,
) -> np.ndarray:
    """Returns 4-bit codes with zeros in blocks of neighbouring channels."""
    codes = rng.integers(1, 8, shape) * rng.choice([-1, 1], shape)
    *others, channels = shape
    if channels % block:
        block = 1
    kept = rng.random((*others, channels // block)) >= sparsity
    return (codes * np.repeat(kept, block, axis=-1)).astype(np.int8)


def put_on_grid(
    model: keras.Model,
    rng: np.random.Generator,
    *,
    axis: Collection[str] = (),
    codes: Mapping[str, np.ndarray] | None = None,
    skip: Collection[str] = (),
) -> dict[str, QuantizedWeight]:
    """Gives every kernel random codes and every other weight random values.

    Returns the trained weights by path. A quarter of the gammas is negative.
    `axis` has the paths of kernels with a scale for each channel, `codes` the
    codes of some kernels by path, `skip` parts of paths of float kernels.
    """
    paths = {id(kernel.variable): kernel.path for kernel in find_kernels(model)}
    trained = {}
    for variable in model.weights:
        name, shape = variable.name, tuple(variable.shape)
        if "kernel" not in name:
            variable.assign(_random_vector(rng, name, shape))
            continue
        if any(part in variable.path for part in skip):
            variable.assign(rng.normal(0, 0.2, shape))
            continue
        integers = (codes or {}).get(variable.path)
        if integers is None:
            integers = random_codes(rng, shape)
        scale, axes = np.float32(0.07), None
        if variable.path in axis:
            axes = (len(shape) - 1,)
            scale = rng.uniform(0.02, 0.2, (1,) * axes[0] + shape[-1:])
        scale = np.asarray(scale, np.float32)
        variable.assign(integers * scale)
        weight = QuantizedWeight(integers, scale, 4, axes)
        trained[paths[id(variable)]] = weight
    return trained


def _random_vector(
    rng: np.random.Generator, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    if name == "gamma":
        return rng.uniform(0.5, 1.5, shape) * np.where(
            rng.random(shape) < 0.25, -1, 1
        )
    if name == "moving_variance":
        return rng.uniform(0.5, 2.0, shape)
    return rng.normal(0, 0.3, shape)


def export_random(
    model: keras.Model,
    trained: Mapping[str, Any],
    path: Path,
    *,
    representative_dataset: Any,
    **options: Any,
) -> ExportResult:
    """Exports a network that has its integers without quantizers."""
    read = read_plain(model, trained).with_dataset(
        representative_dataset, argument="representative_dataset"
    )
    return export_trained(read, path, **options)


def to_bytes(export: Any, *arguments: Any, **options: Any) -> tuple[bytes, Any]:
    """Returns the file that an export writes, and its result."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        result = export(*arguments, path, **options)
        return path.read_bytes(), result


def count_on_arm(
    data: bytes, model: keras.Model, samples: Sequence[np.ndarray]
) -> dict[str, int]:
    """Returns the instructions of one inference on each CPU of `arm`."""
    names = [tensor.name for tensor in model_inputs(model)]
    arrays = interpreter.quantized_inputs(Flatbuffer(data), samples, names)
    return {
        cpu: arm.count_instructions(data, arrays, cpu=cpu) for cpu in arm.CPUS
    }
