"""Observes the ranges of activations on samples, without any training."""

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.architecture.calls import Tensor, tensors_in
from codeq_keras.architecture.scoped import run_scoped

# Ranges settle within some hundred samples.
MAX_SAMPLES = 1024

_BATCH_SIZE = 32  # That of a training, whose batches ranges are averaged over.


def observe_ranges(
    graph: ActivationGraph,
    values: list[tuple[keras.Variable, Any]],
    samples: Any,
) -> None:
    """Gives the quantizers the ranges of samples; `values` are the weights'."""
    quantizers = graph.quantizers
    held = [v for quantizer in quantizers.values() for v in quantizer.variables]
    ranges = {id(v): (v, ops.zeros(v.shape, v.dtype)) for v in held}
    for batch in read_batches(graph, samples):
        run = functools.partial(graph.run, batch, training=False, observe=True)
        # In a scope, so that a bad batch leaves the ranges as they were.
        scoped = run_scoped(run, [*values, *ranges.values()])
        ranges |= {id(v): (v, x) for v, x in scoped.updates if id(v) in ranges}
    found = {k: ops.convert_to_numpy(x) for k, (_, x) in ranges.items()}
    for path, quantizer in quantizers.items():
        if not all(np.isfinite(found[id(v)]) for v in quantizer.variables):
            raise ValueError(
                "Expected finite activations. Received: NaN or infinity at "
                f"{path!r}. Scale the samples as for `model.fit`."
            )
    for variable in held:
        variable.assign(found[id(variable)])


def read_batches(graph: ActivationGraph, samples: Any) -> Iterator[Any]:
    """Yields batches of features, until there are `MAX_SAMPLES` samples.

    Raises a ValueError for samples that do not fit, and where there are none.
    """
    count = 0
    for batch in _batches(samples, tensors_in(graph.graph.inputs)):
        count += _require_samples(batch, graph)
        yield batch
        if count >= MAX_SAMPLES:
            return
    if count == 0:
        raise ValueError(
            "`samples` must hold at least one sample. Received: none. An "
            "exhausted generator looks like this."
        )


def _batches(samples: Any, inputs: list[Tensor]) -> Iterator[Any]:
    if callable(samples) and not isinstance(samples, Iterable):
        yield from _batches(samples(), inputs)
    elif isinstance(samples, Mapping) or _is_array(samples):
        yield from _rows(_require_arrays(samples))
    elif isinstance(samples, list | tuple):
        yield from _of_sequence(_require_arrays(samples), inputs)
    elif isinstance(samples, Iterable):
        yield from map(_features, samples)
    else:
        raise ValueError(
            "`samples` must be an array, a list or dict of arrays, an iterable "
            "of batches, or a function that returns one. "
            f"Received: {type(samples).__name__}."
        )


def _features(batch: Any) -> Any:
    """Keras's convention: a tuple is `(features, labels[, weights])`."""
    return batch[0] if isinstance(batch, tuple) else batch


def _of_sequence(samples: Any, inputs: list[Tensor]) -> Iterator[Any]:
    if _is_one_batch(samples, inputs):
        yield from _rows(list(samples))
        return
    if isinstance(samples, tuple):
        raise ValueError(
            f"`samples` must hold one array for each of the {len(inputs)} "
            f"inputs, without labels. Received: a tuple of {len(samples)}. "
            "Pass `samples[0]` of `(inputs, labels)`, or a list of batches."
        )
    batches = [_features(batch) for batch in samples]
    for batch in batches:  # All, since labels may come after enough samples.
        if not isinstance(batch, Mapping):  # Its order is not the inputs'.
            _require_shapes(batch, inputs)
    yield from batches


def _require_arrays(samples: Any) -> Any:
    """Raises a ValueError for lists of numbers: each would be an input."""
    others = [x for x in keras.tree.flatten(samples) if not _is_array(x)]
    if others:
        raise ValueError(
            "`samples` must be arrays. Received: "
            f"{type(others[0]).__name__} in a {type(samples).__name__}. Make "
            "an array of it with `np.asarray`."
        )
    return samples


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _is_one_batch(samples: Any, inputs: list[Tensor]) -> bool:
    """Whether a list has one array for each input, and not batches."""
    return len(samples) == len(inputs) and all(
        _is_array(array) and np.ndim(array) == len(tensor.shape)
        for array, tensor in zip(samples, inputs, strict=True)
    )


def _rows(arrays: Any) -> Iterator[Any]:
    arrays = keras.tree.map_structure(np.asarray, arrays)
    lengths = [len(a) for a in keras.tree.flatten(arrays) if np.ndim(a)]
    for start in range(0, max(lengths, default=0), _BATCH_SIZE):
        take = operator.itemgetter(slice(start, start + _BATCH_SIZE))
        yield keras.tree.map_structure(take, arrays)


def _require_samples(batch: Any, graph: ActivationGraph) -> int:
    """Returns the number of samples; raises a ValueError for unfit ones."""
    inputs, names = tensors_in(graph.graph.inputs), graph.graph.names
    if isinstance(batch, Mapping):
        missing = [name for name in names if name not in batch]
        if missing:
            raise ValueError(
                f"`samples` must have one entry for each input, {list(names)}. "
                f"Received: {list(batch)}."
            )
        batch = [batch[name] for name in names]
    arrays = _require_shapes(batch, inputs)
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                "`samples` must be finite. Received: NaN or infinity for "
                f"input {name!r}. Remove those samples."
            )
    return len(arrays[0])


def _require_shapes(batch: Any, inputs: list[Tensor]) -> list[np.ndarray]:
    """Returns the arrays of a batch; raises a ValueError for other shapes."""
    arrays = [np.asarray(array) for array in keras.tree.flatten(batch)]
    if len(arrays) != len(inputs) or not all(map(_fits, arrays, inputs)):
        expected = [("n", *tensor.shape[1:]) for tensor in inputs]
        raise ValueError(
            f"`samples` must have the shapes {expected}, None being any size. "
            f"Received: {[array.shape for array in arrays]}. Prepare them as "
            "for `model.fit`, with an axis of samples in front: `np.stack` "
            "makes it of a list, `dataset.batch(32)` of a `tf.data.Dataset`."
        )
    return arrays


def _fits(array: np.ndarray, tensor: Tensor) -> bool:
    pairs = itertools.zip_longest(array.shape[1:], tensor.shape[1:])
    return array.ndim == len(tensor.shape) and all(
        expected in (None, size) for size, expected in pairs
    )
