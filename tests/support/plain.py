"""Puts the kernels of a plain model on a grid, and exports the model."""

from collections.abc import Collection, Mapping, Sequence

import keras
import numpy as np

from codeq_keras.deployment import QuantizedWeight, find_kernels
from tflite_export.exporting import export_trained
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


def read_samples(model, weights, samples):
    """The model as the export reads it, with samples."""
    trained = read_plain(model, weights)
    return trained.with_dataset(samples, argument="representative_dataset")


def export_plain(model, weights, path, *, representative_dataset, **options):
    """`export` for a model and its trained weights by path."""
    trained = read_samples(model, weights, representative_dataset)
    return export_trained(trained, path, **options)
