"""Turns samples of any form into one checked array for each model input."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

# For sizes that a model leaves open.
_OPEN_SIZE = 16
# Enough for the ranges of activations; more only makes the export slower.
MAX_SAMPLES = 256


class ModelInput(NamedTuple):
    """Name in the file, shape without the batch (`None`: any size), dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def model_inputs(model: keras.Model) -> list[ModelInput]:
    """Returns the inputs of a model, in the order of `model.inputs`.

    Inputs without a name of the user are `input_0`, `input_1`, ... A model
    that was never built on inputs of a known shape is a ValueError.

    Example:

    >>> sensor = keras.Input((4,), name="sensor")
    >>> model = keras.Model(sensor, keras.layers.Dense(2)(sensor))
    >>> model_inputs(model)
    [ModelInput(name='sensor', shape=(4,), dtype='float32')]
    """
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return [_input_of_subclass(model)]
    names = [tensor.name for tensor in inputs]
    return [
        ModelInput(
            f"input_{index}"
            if name.startswith("keras_tensor") or names.count(name) > 1
            else name,
            tuple(tensor.shape[1:]),
            keras.backend.standardize_dtype(tensor.dtype),
        )
        for index, (name, tensor) in enumerate(zip(names, inputs, strict=True))
    ]


def pack_inputs(model: keras.Model, values: Sequence[Any]) -> Any:
    """Returns one value for each input in the structure the model is called on.

    Functional models may take a list or a dict of tensors.
    """
    has_structure = getattr(model, "inputs", None) is not None
    if isinstance(model, keras.Sequential) or not has_structure:
        return values[0]
    return keras.tree.pack_sequence_as(model.input, list(values))


def _input_of_subclass(model: keras.Model) -> ModelInput:
    config = model.get_build_config() or {}
    shape = config.get("input_shape")
    if not isinstance(shape, list | tuple) or not shape:
        raise ValueError(
            f"Model {model.name!r} must know the shape of its inputs. "
            f"Received: a {type(model).__name__} without `inputs`. Make it "
            "functional: `keras.Model(inputs, model(inputs))`, with `inputs` "
            "from `keras.Input`, and quantize that."
        )
    return ModelInput("input_0", tuple(shape[1:]), "float32")


def random_samples(
    inputs: Sequence[ModelInput], num_samples: int
) -> list[np.ndarray]:
    """Returns normally distributed inputs, the same ones each time.

    Integer inputs get zeros, which every vocabulary has.
    """
    rng = np.random.default_rng(0)
    samples: list[np.ndarray] = []
    for spec in inputs:
        shape = (num_samples, *(size or _OPEN_SIZE for size in spec.shape))
        is_float = spec.dtype.startswith(("float", "bfloat"))
        values = rng.normal(size=shape) if is_float else np.zeros(shape)
        samples.append(values.astype(spec.dtype))
    return samples


def sample_arrays(
    dataset: Any,
    inputs: list[ModelInput],
    *,
    argument: str,
    limit: int | None = MAX_SAMPLES,
) -> list[np.ndarray]:
    """Returns the first `limit` samples, or all, as one array for each input.

    `dataset` has one of the forms that `export` takes; `argument` is its name
    in errors. The arrays have the shape `(n, *input.shape)` and the input's
    dtype. Missing samples, other shapes, NaN and infinity are ValueErrors.

    Example:

    >>> image = ModelInput("image", (2, 2), "float32")
    >>> samples = np.zeros((300, 2, 2))
    >>> sample_arrays(samples, [image], argument="samples")[0].shape
    (256, 2, 2)
    """
    collected: list[list[np.ndarray]] = [[] for _ in inputs]
    count = 0
    for batch in _batches(dataset, inputs, argument):
        arrays = _by_input(batch, inputs, argument)
        for rows, array, spec in zip(collected, arrays, inputs, strict=True):
            rows.append(_checked(array, spec, argument))
        sizes = {len(rows[-1]) for rows in collected}
        if len(sizes) > 1:
            raise ValueError(
                f"`{argument}` must hold equally many samples for each input. "
                f"Received: {[len(rows[-1]) for rows in collected]}."
            )
        count += sizes.pop()
        if limit is not None and count >= limit:
            break
    if count == 0:
        raise ValueError(
            f"`{argument}` must hold at least one sample. Received: none. "
            "An exhausted generator looks like this: pass a function that "
            "returns a new one."
        )
    return [
        np.concatenate(_same_shape(rows, argument))[:limit]
        for rows in collected
    ]


def _batches(
    dataset: Any, inputs: list[ModelInput], argument: str
) -> Iterator[Any]:
    if callable(dataset) and not isinstance(dataset, Iterable):
        yield from _from_callable(dataset)
    elif isinstance(dataset, Mapping) or _is_array(dataset):
        yield dataset
    elif isinstance(dataset, list | tuple):
        is_one_batch = len(dataset) == len(inputs) and all(
            _is_array(a) and np.ndim(a) == len(spec.shape) + 1
            for a, spec in zip(dataset, inputs, strict=True)
        )
        yield from [list(dataset)] if is_one_batch else map(_features, dataset)
    elif isinstance(dataset, Iterable):
        yield from (_features(batch) for batch in dataset)
    else:
        raise ValueError(
            f"`{argument}` must be an array, a list or dict of arrays, an "
            "iterable of batches, or a function that returns one. "
            f"Received: {type(dataset).__name__}."
        )


def _from_callable(dataset: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    yield from dataset()


def _features(batch: Any) -> Any:
    """Keras's convention: a tuple is `(features, labels[, weights])`."""
    return batch[0] if isinstance(batch, tuple) else batch


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _by_input(
    batch: Any, inputs: list[ModelInput], argument: str
) -> list[np.ndarray]:
    """One array for each input, in the order of the model."""
    names = [spec.name for spec in inputs]
    if isinstance(batch, Mapping):
        if set(batch) != set(names):
            raise ValueError(
                f"`{argument}` must have one entry for each model input, "
                f"{names}. Received: {list(batch)}."
            )
        arrays = [batch[name] for name in names]
    else:
        arrays = list(batch) if isinstance(batch, list | tuple) else [batch]
    if len(arrays) != len(inputs):
        raise ValueError(
            f"`{argument}` must give {len(inputs)} arrays, one for each model "
            f"input {names}. Received: {len(arrays)}."
        )
    return [np.asarray(array) for array in arrays]


def _checked(array: np.ndarray, spec: ModelInput, argument: str) -> np.ndarray:
    is_expected = array.ndim == len(spec.shape) + 1 and all(
        size in (None, actual)
        for size, actual in zip(spec.shape, array.shape[1:], strict=True)
    )
    if not is_expected:
        wanted = ", ".join(
            ["n", *("any" if s is None else str(s) for s in spec.shape)]
        )
        remedy = (
            "Add the batch axis: `np.stack(samples)` of a list of samples, "
            "`sample[None]` of one."
            if array.ndim == len(spec.shape)
            else "Prepare the samples as for `model.fit`."
        )
        raise ValueError(
            f"Expected samples of shape ({wanted}) for input {spec.name!r} in "
            f"`{argument}`. Received shape: {array.shape}. {remedy}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(
            f"`{argument}` must be finite. Received: "
            f"{int((~np.isfinite(array)).sum())} NaN or infinite values for "
            f"input {spec.name!r}. Remove those samples."
        )
    return array.astype(spec.dtype)


def _same_shape(rows: list[np.ndarray], argument: str) -> list[np.ndarray]:
    shapes = {array.shape[1:] for array in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"`{argument}` must hold samples of one shape, since the file has "
            f"a fixed one. Received: {sorted(shapes)}. Resize them."
        )
    return rows
